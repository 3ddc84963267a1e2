"""Optimiser options and the warm-up."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from wssl_pl.errors import WSSLError
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.modules.optimizer import cosine, lr_factor

OPTIONS = {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-7}
REFERENCES = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class SaveAt(Callback):
    """Saves the checkpoint of one step, and notes the learning rate of every step."""

    def __init__(self, step, path):
        self.step, self.path, self.rates = step, path, []

    def on_train_batch_start(self, trainer, *args):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("module", [PretextModule, InpaintModule])
def test_the_defaults_are_pytorchs_adam(module):
    optimizer = module(width=2).configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    reference = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-4)
    (group,) = optimizer.param_groups
    for name in ("lr", "betas", "eps", "weight_decay"):
        assert group[name] == reference.param_groups[0][name]


@pytest.mark.parametrize("name", REFERENCES)
def test_three_steps_are_those_of_the_named_optimiser(name):
    module = InpaintModule(width=2, lr=0.01, optimizer=name, **OPTIONS)
    copies = [parameter.detach().clone().requires_grad_() for parameter in module.decoder.parameters()]
    reference, optimizer = REFERENCES[name](copies, lr=0.01, **OPTIONS), module.configure_optimizers()
    for _ in range(3):
        for own, other in zip(module.decoder.parameters(), copies, strict=True):
            own.grad = torch.randn_like(own)
            other.grad = own.grad.clone()
        optimizer.step()
        reference.step()
    for own, other in zip(module.decoder.parameters(), copies, strict=True):
        torch.testing.assert_close(own, other)


def test_learned_task_weights_do_not_decay():
    module = PretextModule(width=2, weighting="uncertainty", weight_decay=0.1)
    assert [group["weight_decay"] for group in module.configure_optimizers().param_groups] == [0.1, 0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd"}, r"optimizer=sgd: must be one of adam, adamw"),
        ({"weight_decay": -0.1}, r"weight_decay=-0\.1: must be a number, 0 or more"),
        ({"betas": (0.9, 1.0)}, r"betas=\[0\.9,1\.0\]: must be two numbers"),
        ({"betas": [0.9]}, r"betas=\[0\.9\]: must be two numbers"),
        ({"eps": 0.0}, r"eps=0\.0: must be a positive number"),
        ({"warmup_steps": -1}, r"warmup_steps=-1: must be 0 or more"),
    ],
)
@pytest.mark.parametrize("module", [PretextModule, InpaintModule])
def test_a_value_that_cannot_be_used_is_one_line(module, settings, message):
    with pytest.raises(WSSLError, match=message):
        module(width=2, **settings)


def test_the_rate_rises_linearly_and_then_follows_the_schedule():
    rates = [lr_factor(step, warmup_steps=4, steps=12) for step in range(13)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == pytest.approx([cosine(step, 8) for step in range(9)])
    assert [lr_factor(step, 4, None) for step in (0, 4, 999)] == pytest.approx([0.2, 1.0, 1.0])


@pytest.mark.parametrize("stage", ["pretext", "downstream", "upgrad"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_run_resumed_within_the_warm_up_ends_like_a_whole_one(fit, tmp_path, stage, schedule):
    def module():
        settings = {"width": 2, "lr": 0.01, "lr_schedule": schedule, "warmup_steps": 4, "optimizer": "adamw", **OPTIONS}
        if stage == "downstream":
            return InpaintModule(**settings)
        return PretextModule(
            ["rotation", "saturation"], weighting="upgrad" if stage == "upgrad" else "fixed", **settings
        )

    path = tmp_path / "step3.ckpt"
    whole, first = module(), SaveAt(3, path)
    fit(whole, max_steps=7, max_epochs=9, callbacks=[first])
    resumed, second = module(), SaveAt(None, None)
    fit(resumed, resume=path, max_steps=7, max_epochs=9, callbacks=[second])
    steps = 7 if schedule == "cosine" else None
    assert first.rates == pytest.approx([0.01 * lr_factor(step, 4, steps) for step in range(7)])
    assert second.rates == first.rates[3:]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_options_typed_on_resume_take_effect(fit, tmp_path):
    fit(InpaintModule(width=2), max_steps=1).save_checkpoint(tmp_path / "a.ckpt")
    trainer = fit(InpaintModule(width=2, **OPTIONS), resume=tmp_path / "a.ckpt", max_steps=2, max_epochs=9)
    group = trainer.optimizers[0].param_groups[0]
    assert {name: group[name] for name in OPTIONS} == OPTIONS


def test_a_warm_up_longer_than_the_run_is_one_line(fit):
    with pytest.raises(WSSLError, match=r"warmup_steps=5: the run has 5 steps: give fewer, or train longer"):
        fit(InpaintModule(width=2, warmup_steps=5), max_steps=5, max_epochs=9)
