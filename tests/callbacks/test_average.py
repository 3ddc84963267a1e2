"""The moving average of the weights: what is validated, saved, and resumed."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint

from wssl_pl.callbacks import EMAWeights
from wssl_pl.errors import WSSLError
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.modules.rivals.pic import PICModule

DECAY = 0.75
MODULES = {
    "pretext": lambda **settings: PretextModule(["rotation"], width=2, lr=0.01, norm="batch", **settings),
    "downstream": lambda **settings: InpaintModule(width=2, lr=0.01, freeze_layers=7, norm="batch", **settings),
    "pic": lambda **settings: PICModule(width=2, lr=0.01, **settings),
    "upgrad": lambda **settings: PretextModule(
        ["rotation", "saturation"], weighting="upgrad", width=2, lr=0.01, **settings
    ),
}


def copy(state):
    return {key: value.clone() for key, value in state.items()}


def load(path):
    return torch.load(path, weights_only=True)


def assert_same(state, other):
    assert state.keys() == other.keys()
    for key in state:
        assert torch.equal(state[key], other[key]), key


class Watch(Callback):
    """Keeps the trained weights after every step, those of every validation, and the checkpoint of some step."""

    def __init__(self, save_at=None, path=None):
        self.trained, self.validated, self.save_at, self.path = [], [], save_at, path

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.trained.append(copy(pl_module.state_dict()))
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)

    def on_validation_epoch_end(self, trainer, pl_module):
        self.validated.append(copy(pl_module.state_dict()))


def is_averaged(key, value):
    return value.is_floating_point() and not key.endswith((".u", ".v"))


def average(states):
    """By hand: the first weights, and then a quarter of the way to each of the next."""
    result = states[0]
    for state in states[1:]:
        result = {
            key: DECAY * result[key] + (1 - DECAY) * state[key] if is_averaged(key, state[key]) else state[key]
            for key in state
        }
    return result


@pytest.mark.parametrize("stage", MODULES)
def test_three_steps_by_hand_are_saved_validated_and_left_in_the_module(fit, tmp_path, stage):
    module, watch = MODULES[stage](ema=DECAY), Watch()
    trainer = fit(module, max_steps=3, max_epochs=9, val_check_interval=1, callbacks=[watch])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = load(tmp_path / "a.ckpt")
    expected = average(watch.trained)
    for state in (checkpoint["state_dict"], watch.validated[-1], module.state_dict()):
        for key, value in state.items():
            torch.testing.assert_close(value, expected[key], msg=key)
    assert any(not torch.equal(expected[key], watch.trained[-1][key]) for key in expected)
    assert_same(checkpoint["current_model_state"], watch.trained[-1])


def test_agrees_with_lightnings_callback(fit, tmp_path):
    states = []
    for settings, callbacks in (({"ema": 0.9}, []), ({}, [EMAWeightAveraging(decay=0.9)])):
        torch.manual_seed(0)
        fit(MODULES["downstream"](**settings), max_steps=4, max_epochs=9, callbacks=callbacks).save_checkpoint(
            tmp_path / "a.ckpt"
        )
        states.append(load(tmp_path / "a.ckpt")["state_dict"])
    for key, value in states[0].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, states[1][key], msg=key)


def test_a_frozen_encoder_is_equal_in_the_average_bit_by_bit(fit, tmp_path):
    module = InpaintModule(width=2, ema=0.9, lr=0.01)
    before = copy(module.encoder.state_dict())
    fit(module, max_steps=5, max_epochs=9).save_checkpoint(tmp_path / "a.ckpt")
    assert_same(before, InpaintModule.load_from_checkpoint(tmp_path / "a.ckpt").encoder.state_dict())


# PIC draws samples, and continues with the same ones where its random state is restored: by `wssl train`.
@pytest.mark.parametrize("stage", [stage for stage in MODULES if stage != "pic"])
def test_a_resumed_run_ends_with_the_weights_and_the_average_of_a_whole_one(fit, tmp_path, stage):
    whole, resumed = MODULES[stage](ema=DECAY), MODULES[stage](ema=DECAY)
    # The callback that saves is in front of the average, where the trainer's callbacks are.
    watch = Watch(save_at=3, path=tmp_path / "step3.ckpt")
    fit(whole, max_steps=6, max_epochs=9, callbacks=[watch]).save_checkpoint(tmp_path / "whole.ckpt")
    fit(resumed, resume=tmp_path / "step3.ckpt", max_steps=6, max_epochs=9).save_checkpoint(tmp_path / "resumed.ckpt")
    first, second = load(tmp_path / "whole.ckpt"), load(tmp_path / "resumed.ckpt")
    assert_same(first["state_dict"], second["state_dict"])
    assert_same(first["current_model_state"], second["current_model_state"])
    assert_same(whole.state_dict(), resumed.state_dict())


def test_a_run_saved_after_its_end_and_resumed_for_longer_continues_exactly(fit, tmp_path):
    whole, part, longer = (MODULES["pretext"](ema=DECAY) for _ in range(3))
    longer.load_state_dict(whole.state_dict())
    part.load_state_dict(whole.state_dict())
    fit(whole, max_epochs=3)
    fit(part, max_epochs=2).save_checkpoint(tmp_path / "part.ckpt")
    fit(longer, resume=tmp_path / "part.ckpt", max_epochs=3)
    assert_same(whole.state_dict(), longer.state_dict())


def test_best_last_and_weights_alone_hold_the_average(fit, tmp_path):
    module, watch = MODULES["pretext"](ema=DECAY), Watch()
    saves = [
        ModelCheckpoint(dirpath=tmp_path, filename="best", monitor="val/score", mode="max"),
        ModelCheckpoint(dirpath=tmp_path, filename="last", save_on_train_epoch_end=True),
        ModelCheckpoint(dirpath=tmp_path, filename="light", save_weights_only=True, every_n_train_steps=3),
    ]
    fit(module, max_epochs=1, callbacks=[watch, *saves], enable_checkpointing=True)
    for name in ("best", "last", "light"):
        assert_same(load(tmp_path / f"{name}.ckpt")["state_dict"], watch.validated[-1])
    assert "current_model_state" not in load(tmp_path / "light.ckpt")


def test_the_downstream_stage_and_a_test_take_the_average(fit, tmp_path):
    module, watch = MODULES["pretext"](ema=DECAY), Watch(save_at=3, path=tmp_path / "a.ckpt")
    trainer = fit(module, max_steps=3, max_epochs=9, callbacks=[watch])
    expected = {key: value for key, value in average(watch.trained).items() if key.startswith("encoder.")}
    for key, value in InpaintModule(ckpt=str(tmp_path / "a.ckpt")).encoder.state_dict().items():
        torch.testing.assert_close(value, expected[f"encoder.{key}"], msg=key)
    other = MODULES["pretext"](ema=DECAY)
    trainer.test(other, datamodule=trainer.datamodule, ckpt_path=tmp_path / "a.ckpt", weights_only=True, verbose=False)
    assert_same(other.state_dict(), load(tmp_path / "a.ckpt")["state_dict"])


def test_ema_typed_on_resume_starts_and_ends_the_average(fit, tmp_path):
    watch = Watch(save_at=2, path=tmp_path / "with.ckpt")
    fit(MODULES["pretext"](ema=DECAY), max_steps=2, max_epochs=9, callbacks=[watch])
    ended = MODULES["pretext"]()
    start = Watch()
    start.on_train_start = lambda trainer, pl_module: start.trained.append(copy(pl_module.state_dict()))
    fit(ended, resume=tmp_path / "with.ckpt", max_steps=3, max_epochs=9, callbacks=[start]).save_checkpoint(
        tmp_path / "without.ckpt"
    )
    assert_same(start.trained[0], watch.trained[-1])
    assert "current_model_state" not in load(tmp_path / "without.ckpt")
    started = fit(MODULES["pretext"](ema=DECAY), resume=tmp_path / "without.ckpt", max_steps=4, max_epochs=9)
    assert any(isinstance(callback, EMAWeights) for callback in started.callbacks)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 999.0])
def test_a_decay_that_cannot_be_used_is_one_line(decay):
    with pytest.raises(WSSLError, match=rf"ema={decay}: must be between 0 and 1"):
        InpaintModule(width=2, ema=decay)


def test_bfloat16_weights_are_refused(fit):
    with pytest.raises(WSSLError, match=r"ema=0\.999: precision=bf16-true"):
        fit(MODULES["pretext"](ema=0.999), precision="bf16-true")
