from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer as PlainTrainer

from wssl_pl.errors import WSSLError
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.modules.optimizer import cosine


class Trainer:
    """As much of a trainer as `configure_optimizers` asks for."""

    estimated_stepping_batches = 8
    global_step = 0
    gradient_clip_val = None


@pytest.fixture
def module():
    module = InpaintModule(width=4, freeze_layers=0, lr=1e-2, encoder_lr=1e-3, lr_schedule="cosine")
    module._trainer = Trainer()
    return module


def test_the_cosine_at_its_ends_and_in_the_middle():
    assert [cosine(step, 8) for step in (0, 4, 8, 9)] == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-12)


def test_all_learning_rates_fall_along_the_cosine(module):
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    reference = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-2)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=8)
    for _ in range(8):
        encoder, decoder = (group["lr"] for group in optimizer.param_groups)
        assert decoder == pytest.approx(expected.get_last_lr()[0], abs=1e-9)
        assert encoder == pytest.approx(0.1 * decoder, abs=1e-9)
        for each in (optimizer, schedule, reference, expected):
            each.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]


def test_a_run_resumed_with_a_cosine_goes_on_along_it_and_not_from_its_beginning(module):
    configured = module.configure_optimizers()
    module._trainer.global_step = 6  # after five steps at a constant rate and one of this schedule
    configured["optimizer"].step()
    configured["lr_scheduler"]["scheduler"].step()
    assert configured["optimizer"].param_groups[1]["lr"] == pytest.approx(1e-2 * cosine(6, 8))


def test_a_cosine_needs_an_end(module):
    module._trainer.estimated_stepping_batches = float("inf")
    with pytest.raises(WSSLError, match=r"lr_schedule=cosine: needs an end: give max_epochs"):
        module.configure_optimizers()


def test_a_constant_rate_has_no_schedule():
    assert isinstance(InpaintModule(width=4).configure_optimizers(), torch.optim.Adam)


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("stage", ["pretext", "downstream"])
def test_gradients_are_clipped_at_the_default_precision(fit, precision, algorithm, stage):
    largest = 1e-3
    module = PretextModule(["rotation"], width=2) if stage == "pretext" else InpaintModule(width=2)
    seen = []
    module.on_before_zero_grad = lambda optimizer: seen.append(
        [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    )
    fit(module, precision=precision, max_steps=2, gradient_clip_val=largest, gradient_clip_algorithm=algorithm)
    clipped = [gradients for gradients in seen if gradients]
    assert clipped
    for gradients in clipped:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        size = flat.norm() if algorithm == "norm" else flat.abs().max()
        assert size.item() == pytest.approx(largest, rel=1e-3)


@pytest.mark.parametrize(
    ("precision", "clip", "fused"),
    [("32-true", 0.5, True), ("bf16-mixed", None, True), ("bf16-mixed", 0.5, None), ("bf16-mixed", 0, True)],
)
def test_the_optimiser_is_fused_unless_lightning_refuses_to_clip_with_it(precision, clip, fused):
    module = InpaintModule(width=2)
    module._trainer = PlainTrainer(accelerator="cpu", precision=precision, gradient_clip_val=clip, logger=False)
    assert [group["fused"] for group in module.configure_optimizers().param_groups] == [fused]


@pytest.mark.parametrize("clipped_first", [True, False])
def test_a_run_is_resumed_with_and_without_clipping(fit, tmp_path, clipped_first):
    clip = {"precision": "bf16-mixed", "gradient_clip_val": 0.1}
    first, second = (clip, {}) if clipped_first else ({}, clip)
    fit(InpaintModule(width=2), max_steps=2, **first).save_checkpoint(tmp_path / "a.ckpt")
    trainer = fit(InpaintModule(width=2), resume=tmp_path / "a.ckpt", max_steps=4, max_epochs=9, **second)
    assert trainer.global_step == 4
    assert trainer.optimizers[0].param_groups[0]["fused"] is (True if clipped_first else None)


@pytest.mark.parametrize(("module", "smallest"), [(PretextModule, 32), (InpaintModule, 6)])
def test_images_that_are_too_small_are_refused_in_one_line(module, smallest):
    module = module(width=2)
    wanted = f"image_size={smallest - 1}: stage={module.stage} needs at least {smallest} pixels"
    with pytest.raises(WSSLError, match=wanted):
        module.check_data(SimpleNamespace(image_size=smallest - 1))
    module.check_data(SimpleNamespace(image_size=smallest))
    module.training_step({"image": torch.rand(2, 3, *2 * [smallest]), "mask": torch.ones(2, 1, *2 * [smallest]),
                          "random": torch.rand(2, 16)}, 0)  # fmt: skip


def test_a_plain_trainer_checks_the_size_of_the_images_too(fit):
    with pytest.raises(WSSLError, match="image_size=31"):
        fit(PretextModule(width=2), image_size=31)


def test_an_optimisers_state_is_laid_out_as_the_weights_are(module):
    # A sharded training saves it contiguous; the fused step would pair it with other weights.
    optimizer = module.configure_optimizers()["optimizer"]
    module(torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)).mean().backward()
    optimizer.step()
    state = optimizer.state_dict()
    expected = {number: value["exp_avg"].clone() for number, value in state["state"].items()}
    for value in state["state"].values():
        value["exp_avg"] = value["exp_avg"].contiguous()
    module._fit_state(state)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        found = state["state"][number]["exp_avg"]
        assert torch.equal(found, expected[number])
        assert parameter.shape[2:] in ((), (1, 1)) or found.stride() == parameter.stride()


@pytest.mark.parametrize(
    ("saved", "now"),
    [({"norm": "batch"}, {}), ({"block": "residual"}, {}), ({}, {"mask_channel": True}), ({"width": 2}, {})],
)
def test_a_resume_names_the_setting_that_makes_another_network(saved, now):
    earlier, module = (
        InpaintModule(**{"ckpt": "none", "freeze_layers": 0, "width": 4} | each) for each in (saved, now)
    )
    checkpoint = {"hyper_parameters": dict(earlier.hparams), "state_dict": earlier.state_dict()}
    name = next(iter(saved | now))
    with pytest.raises(WSSLError, match=rf"^{name}=.*: the resumed run has {name}="):
        module.check_resumed(checkpoint)


def test_the_last_step_of_a_run_that_was_stopped_within_an_epoch(module):
    progress = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=4)))
    module._trainer = SimpleNamespace(
        current_epoch=1, num_training_batches=7, max_epochs=3, max_steps=-1, accumulate_grad_batches=2, global_step=6,
        fit_loop=SimpleNamespace(epoch_loop=progress, restarted_mid_epoch=True),
    )  # fmt: skip
    assert module._last_step() == 12.0  # 7 batches make 4 steps, of which the second epoch has made 2
    module._trainer.max_steps = 11
    assert module._last_step() == 11.0


def test_one_group_of_a_resumed_run_becomes_two(module):
    sizes = [len(list(group["params"])) for group in module.parameter_groups()]
    (first, second) = module._regrouped([{"params": list(range(sum(sizes))), "lr": 1.0}], {})
    assert first == {"params": list(range(sizes[0])), "lr": 1.0}
    assert second == {"params": list(range(sizes[0], sum(sizes))), "lr": 1.0}
