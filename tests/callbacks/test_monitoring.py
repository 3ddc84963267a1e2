"""Speed, gradient norm, learning rate and the table of hyperparameters."""

import csv

import pytest
import torch
from lightning import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from wssl_pl.callbacks import HyperparameterTable, RunCSVLogger, TrainingMonitor, default_loggers, monitoring
from wssl_pl.data import WSSLDataModule
from wssl_pl.modules import PretextModule


class Clock:
    """A clock that moves by a second whenever it is read."""

    now = 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


def trained(tmp_path, callbacks, loggers, module=None, **options):
    data = WSSLDataModule("synthetic", "synthetic", image_size=32, resize=36, batch_size=4, limit=16, num_workers=0)
    options = {"max_epochs": 2, "log_every_n_steps": 2} | options
    trainer = Trainer(
        accelerator="cpu", logger=loggers, callbacks=callbacks, num_sanity_val_steps=0, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(module or PretextModule(["rotation"], width=2), datamodule=data)
    return trainer


def rows(tmp_path):
    with (tmp_path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def values(tmp_path, name):
    return {int(row["step"]): float(row[name]) for row in rows(tmp_path) if row.get(name)}


def test_learning_rate_speed_and_gradient_norm_at_the_logging_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(monitoring, "time", Clock())
    norms = []

    class Norms(PretextModule):
        def on_before_optimizer_step(self, optimizer):
            gradients = [parameter.grad.flatten() for parameter in self.parameters() if parameter.grad is not None]
            norms.append(torch.linalg.vector_norm(torch.cat(gradients)).item())

    trained(tmp_path, [TrainingMonitor()], RunCSVLogger(str(tmp_path)), Norms(["rotation"], width=2, lr=1e-3))
    assert values(tmp_path, "lr") == pytest.approx({1: 1e-3, 3: 1e-3, 5: 1e-3, 7: 1e-3})
    assert values(tmp_path, "train/grad_norm") == pytest.approx({step: norms[step] for step in (1, 3, 5, 7)}, rel=1e-5)
    # Two batches of four images between two readings of the clock. Around the validation it is read twice more, and the
    # second between these readings does not count.
    assert values(tmp_path, "train/images_per_s") == pytest.approx({3: 8.0, 5: 4.0, 7: 8.0})


def test_the_norm_is_that_before_clipping_and_of_the_whole_accumulation_window(tmp_path):
    options = {"gradient_clip_val": 1e-6, "accumulate_grad_batches": 2, "log_every_n_steps": 1}
    trained(tmp_path, [TrainingMonitor()], RunCSVLogger(str(tmp_path)), precision="32-true", **options)
    norms = values(tmp_path, "train/grad_norm")
    assert list(norms) == [0, 1, 2, 3]
    assert min(norms.values()) > 1e-3


def test_nothing_is_measured_between_the_logging_steps(tmp_path, monkeypatch):
    measured = []
    original = torch.nn.utils.get_total_norm
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda *args: measured.append(1) or original(*args))
    trained(tmp_path, [TrainingMonitor()], RunCSVLogger(str(tmp_path)), log_every_n_steps=4)
    assert len(measured) == 2
    trained(tmp_path, [TrainingMonitor()], False)
    assert len(measured) == 2


def test_several_parameter_groups_have_a_learning_rate_each(tmp_path):
    module = PretextModule(["rotation"], width=2, weighting="uncertainty", lr=1e-3)
    trained(tmp_path, [TrainingMonitor()], RunCSVLogger(str(tmp_path)), module)
    assert list(values(tmp_path, "lr/1").values()) == pytest.approx([1e-3] * 4)
    assert list(values(tmp_path, "lr/2").values()) == pytest.approx([1e-2] * 4)


def test_tensorboard_has_the_settings_and_the_final_metrics(tmp_path):
    settings = {"tasks": "rotation", "weights": "1.0", "batch_size": 4, "image_size": 32, "seed": 0, "nothing": None}
    trainer = trained(tmp_path, [HyperparameterTable(settings)], default_loggers(str(tmp_path)))
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    events.Reload()
    assert "hp_metric" not in events.Tags()["scalars"]
    content = {
        tag: HParamsPluginData.FromString(metadata.plugin_data.content)
        for tag, metadata in events.summary_metadata.items()
        if tag.startswith("_hparams_")
    }
    experiment = content["_hparams_/experiment"].experiment
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert (metrics[0], metrics[-1]) == ("val/score", "val/accuracy/rotation")
    # The columns of all runs are taken from one run: those of the other stage are there too, the telling ones first.
    assert {"val/ssim", "val/psnr", "val/loss"} < set(metrics)
    first = {info.name for info in experiment.hparam_infos if info.differs}
    assert first == {"freeze_layers", "loss", "seed", "tasks", "weights"}
    started = content["_hparams_/session_start_info"].session_start_info.hparams
    assert set(started) == {"tasks", "weights", "batch_size", "image_size", "seed"}
    assert started["batch_size"].number_value == 4
    # TensorBoard shows the last value of each: two validations, and no made-up point before them.
    for name in ("val/score", "val/accuracy/rotation", "val/loss"):
        assert [event.step for event in events.Scalars(name)] == [3, 7]
        assert events.Scalars(name)[-1].value == pytest.approx(float(trainer.callback_metrics[name]), rel=1e-5)


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for_between_the_logging_steps():
    parameters = [torch.nn.Parameter(torch.ones(8, device="cuda"))]
    parameters[0].grad = torch.ones_like(parameters[0])
    optimizer = torch.optim.Adam(parameters, fused=True)
    trainer = Trainer(accelerator="gpu", devices=1, logger=False, enable_checkpointing=False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        TrainingMonitor().on_before_optimizer_step(trainer, PretextModule(["rotation"], width=2), optimizer)
    finally:
        torch.cuda.set_sync_debug_mode("default")
