"""The online probe tells features apart, and the training does not notice it."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from wssl_pl.callbacks import OnlineProbe
from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.methods import Classical
from wssl_pl.metrics import psnr_hole
from wssl_pl.modules import PretextModule
from wssl_pl.networks import mean_colour


def data(**settings):
    small = {"image_size": 32, "resize": 36, "batch_size": 8, "limit": 24, "num_workers": 0}
    return WSSLDataModule(images="synthetic", masks="synthetic", **small | settings)


def trainer(**settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", devices=1, enable_model_summary=False, **quiet | settings)


class Witness(Callback):
    """Records what a probe could disturb, before each training step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        drawn = (torch.rand(()).item(), np.random.rand(), random.random())  # noqa: NPY002
        modes = [part.training for part in pl_module.modules()]
        flags = [parameter.requires_grad for parameter in pl_module.parameters()]
        self.seen.append((batch["index"].tolist(), batch["random"].sum().item(), drawn, modes, flags))


def trained(steps, **settings):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    witness = Witness()
    module = PretextModule(["saturation", "sharpness"], width=4, norm="batch", lr=1e-3, probe_steps=steps)
    fit = trainer(max_epochs=2, val_check_interval=2, callbacks=[witness], **settings)
    fit.fit(module, datamodule=data())
    return module, witness, fit


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_the_training_is_the_same_bit_by_bit_with_and_without_the_probe(precision):
    without, quiet, fit = trained(0, precision=precision)
    module, watched, probed = trained(3, precision=precision)
    assert quiet.seen == watched.seen
    assert len(quiet.seen) == 6
    states = without.state_dict(), module.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    moments = [fit.optimizers[0].state_dict()["state"] for fit in (fit, probed)]
    for before, after in zip(moments[0].values(), moments[1].values(), strict=True):
        assert all(torch.equal(before[key], after[key]) for key in before)
    # What is logged of the training's own metrics is the same too, and the probe's are there.
    for name, value in fit.callback_metrics.items():
        assert torch.equal(value, probed.callback_metrics[name])
    added = probed.callback_metrics.keys() - fit.callback_metrics.keys()
    assert added == {"val/probe_psnr", "val/probe_psnr_mean_fill", "val/rankme"}
    assert all(probed.callback_metrics[name].isfinite() for name in added)


def validated(module, **settings):
    (metrics,) = trainer(**settings).validate(module, data(limit=64), verbose=False)
    return metrics["val/probe_psnr"], metrics["val/probe_psnr_mean_fill"], metrics["val/rankme"]


@pytest.mark.slow
def test_the_probe_tells_features_that_keep_the_image_from_constant_ones():
    module = PretextModule(["saturation"], width=8, probe_steps=80)
    good, mean_fill, rank = validated(module)
    # A random convolutional encoder keeps most of the image in its skips.
    assert good > mean_fill + 0.7
    assert rank > 2.0
    with torch.no_grad():
        for parameter in module.encoder.parameters():
            parameter.zero_()
    constant, same_fill, rank = validated(module)
    assert same_fill == mean_fill
    assert constant == pytest.approx(mean_fill, abs=0.3)
    assert rank == pytest.approx(1.0, abs=1e-3)


def test_the_probe_begins_anew_at_every_validation():
    module = PretextModule(["saturation"], width=4, probe_steps=5)
    assert validated(module) == validated(module)


def test_the_baseline_is_filling_with_the_mean():
    _, mean_fill, _ = validated(PretextModule(["saturation"], width=4, probe_steps=1))
    module = data(limit=64)
    module.setup("validate")
    values = []
    for raw in module.val_dataloader():
        batch = module.on_after_batch_transfer(raw, 0)
        filled = Classical("mean")([], batch["image"], batch["mask"])
        values.append(psnr_hole(filled, batch["image"], batch["mask"]))
    assert mean_fill == pytest.approx(torch.cat(values).mean().item(), abs=1e-4)


@pytest.mark.parametrize("settings", [{"image_size": 40, "resize": 48}, {"hole_ratio": (0.0, 1.0)}])
def test_sizes_that_are_no_multiple_of_32_and_any_hole(settings):
    module = PretextModule(["saturation", "masked"], width=2, mask_channel=True, probe_steps=2)
    (metrics,) = trainer().validate(module, data(**settings), verbose=False)
    assert np.isfinite(metrics["val/probe_psnr"])


def test_it_is_off_by_default_and_its_metrics_are_in_the_log_when_on(tmp_path, monkeypatch):
    from wssl_pl.cli import main

    assert PretextModule(width=2).configure_callbacks() == []
    assert not PretextModule(width=2).needs_masks
    assert PretextModule(width=2, probe_steps=2).needs_masks
    monkeypatch.chdir(tmp_path)
    main(
        ["stage=pretext", "tasks=saturation", "--model.width=2", "--model.probe_steps=2", "--trainer.max_epochs=2",
         "--data.image_size=32", "--data.resize=36", "--data.batch_size=8", "--data.limit=16", "--data.num_workers=0",
         "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--run.dir=run",
         "--run.monitor=val/probe_psnr"]
    )  # fmt: skip
    rows = list(csv.DictReader(Path("run/metrics.csv").open()))
    for name in ("val/probe_psnr", "val/probe_psnr_mean_fill", "val/rankme"):
        assert len([row for row in rows if row[name]]) == 2
    assert Path("run/best.ckpt").exists()


def test_what_the_probe_cannot_do_is_refused(monkeypatch):
    with pytest.raises(WSSLError, match="probe_steps=-1"):
        PretextModule(width=2, probe_steps=-1)
    module = PretextModule(["saturation"], width=2, probe_steps=2)
    loaders = data()
    loaders.setup("fit")
    with pytest.raises(WSSLError, match="datamodule=WSSLDataModule"):
        trainer(max_epochs=1).fit(module, loaders.train_dataloader(), loaders.val_dataloader())
    with pytest.raises(WSSLError, match="no masks"):
        trainer(max_epochs=1, callbacks=[OnlineProbe(2)]).fit(PretextModule(["saturation"], width=2), datamodule=data())
    sharded = trainer(max_epochs=1)
    sharded.datamodule = loaders
    monkeypatch.setattr(type(sharded), "strategy", object())
    with pytest.raises(WSSLError, match="strategy=ddp"):
        OnlineProbe(2).setup(sharded, module, "fit")


def test_the_probe_s_rate_ends_near_zero(monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def watched(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    validated(PretextModule(["rotation"], width=2, probe_steps=5))
    assert rates[-5:] == pytest.approx([rates[-5] * factor for factor in (1.0, 0.8, 0.6, 0.4, 0.2)])


def test_the_probe_learns_from_the_hole_alone(monkeypatch):
    losses, backward = [], torch.Tensor.backward

    def watched(self, *args, **kwargs):
        losses.append(self.item())
        return backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", watched)
    module, loaders = PretextModule(["saturation"], width=4, probe_steps=1), data()
    trainer().validate(module, loaders, verbose=False)
    # Before its first step the probe adds to the mean colour what its new decoder makes of the features.
    probe = OnlineProbe(1)
    batch = loaders.on_after_batch_transfer(loaders.fixed_batches("train", probe.images, probe.batch_size)[0], 0)
    decoder = probe._new_decoder(module.encoder.out_channels)
    with torch.no_grad():
        features, skips = module.encoder.eval()(module.with_holes(batch["image"], batch["mask"]))
        filled = mean_colour(batch["image"], batch["mask"]) + decoder(features, skips)
    hole = (batch["mask"] > 0.5).expand_as(filled)
    assert losses == pytest.approx([(filled - batch["image"])[hole].square().mean().item()], rel=1e-4)
