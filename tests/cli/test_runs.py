import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cli.checkpoints import same, weights
from tests.cli.interruptions import interrupt_at
from wssl_pl.cli import main
from wssl_pl.cli.run_files import make_new
from wssl_pl.data import WSSLDataModule
from wssl_pl.modules import InpaintModule, PretextModule, read_checkpoint


def tags(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events.Tags()


def test_a_pretext_run_leaves_what_scripts_rely_on(train, caplog, capsys):
    train("stage=pretext", "tasks=[rotation,sharpness]", "weights=[0.3,0.7]", "--run.dir=run")
    assert "Still at chance: rotation, sharpness" in capsys.readouterr().out  # after four steps
    folder = Path("run")
    assert {"config.yaml", "best.ckpt", "last.ckpt", "data.json"} <= {path.name for path in folder.iterdir()}
    found = tags(folder)
    assert {"train/loss", "val/loss"} <= set(found["scalars"])
    for task in ("rotation", "sharpness"):
        assert {f"val/accuracy/{task}", f"val/loss/{task}"} <= set(found["scalars"])
        assert f"val/confusion/{task}" in found["images"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["stage"] == "pretext"
    assert config["model"]["weights"] == [0.3, 0.7]
    # Nothing was given, so the synthetic dataset was used, with one warning.
    assert sum("NO DATA SET" in record.message for record in caplog.records) == 1


def test_a_downstream_run_leaves_what_scripts_rely_on(train, pretext_ckpt):
    train("stage=downstream", f"ckpt={pretext_ckpt}", "--run.dir=run")
    found = tags("run")
    assert {
        "train/loss", "train/log_cosh", "train/ssim_loss", "val/loss", "val/log_cosh", "val/ssim_loss",
        "val/psnr", "val/ssim", "val/psnr_composite", "val/ssim_composite",
    } <= set(found["scalars"])  # fmt: skip
    assert "val/images" in found["images"]


def test_the_encoder_is_the_pretext_encoder_and_stays_it(train, pretext_ckpt):
    train("stage=downstream", f"ckpt={pretext_ckpt}", "--run.dir=run")
    before = {k: v for k, v in weights(pretext_ckpt).items() if k.startswith("encoder.")}
    after = {k: v for k, v in weights("run/last.ckpt").items() if k.startswith("encoder.")}
    assert same(before, after)


def test_width_is_taken_from_the_pretext_checkpoint(train, pretext_ckpt):
    without_width = ["--data.image_size=64", "--data.resize=72", "--data.limit=8", "--trainer.accelerator=cpu"]
    train("stage=downstream", f"ckpt={pretext_ckpt}", "--run.dir=run", "--data.batch_size=4", small=without_width)
    assert InpaintModule.load_from_checkpoint("run/best.ckpt", weights_only=True).hparams["width"] == 8


@pytest.mark.parametrize("freeze", [0, 7])
def test_controls_without_a_pretext_checkpoint(train, freeze):
    train("stage=downstream", "ckpt=none", f"freeze_layers={freeze}", "loss=log_cosh", "--run.dir=run")
    module = InpaintModule.load_from_checkpoint("run/best.ckpt", weights_only=True)
    assert module.loss.alpha == 1.0
    assert next(module.encoder.parameters()).requires_grad == (freeze == 0)


def test_config_alone_repeats_a_run(train):
    train("stage=pretext", "tasks=rotation", "--run.dir=first", "--trainer.precision=32-true")
    main(["--config", "first/config.yaml", "--run.dir=second"])
    assert same(weights("first/last.ckpt"), weights("second/last.ckpt"))


def test_a_configuration_gives_way_to_what_is_typed_wherever_it_stands(train):
    Path("extra.yaml").write_text("model:\n  lr: 0.5\n  width: 8\n")
    train("--model.lr=0.001", "stage=pretext", "--run.dir=run", "--config=extra.yaml")
    assert PretextModule.load_from_checkpoint("run/last.ckpt", weights_only=True).hparams["lr"] == 0.001


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretext", "downstream"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(train, stage):
    args = [f"stage={stage}", "--model.lr=0.001", *(["ckpt=none", "freeze_layers=0"] if stage == "downstream" else [])]
    train(*args, "--run.dir=whole", epochs=3)
    train(*args, "--run.dir=parts", epochs=1)
    train("resume=last", "--run.dir=parts", small=[], epochs=3)
    assert same(weights("whole/last.ckpt"), weights("parts/last.ckpt"))
    assert read_checkpoint("parts/last.ckpt")["epoch"] == 2


@pytest.mark.parametrize("step", [1, 4, 6])
def test_ctrl_c_leaves_a_checkpoint_that_goes_on_exactly(train, monkeypatch, capsys, step):
    args = ["stage=pretext", "tasks=rotation", "--model.lr=0.001"]
    train(*args, "--run.dir=whole", epochs=3)
    original = PretextModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PretextModule, "training_step", interrupted)
    with pytest.raises(SystemExit) as stopped:
        train(*args, "--run.dir=parts", epochs=3)
    assert stopped.value.code == 130
    assert "resume=parts/last.ckpt" in capsys.readouterr().err
    assert read_checkpoint("parts/last.ckpt")["global_step"] == step + 1
    monkeypatch.setattr(PretextModule, "training_step", original)
    main(["resume=parts/last.ckpt", "--trainer.enable_progress_bar=false"])
    assert read_checkpoint("parts/last.ckpt")["global_step"] == read_checkpoint("whole/last.ckpt")["global_step"] == 12
    assert same(weights("whole/last.ckpt"), weights("parts/last.ckpt"))


@pytest.mark.parametrize("steps", [[3, 4], [0, 3, 7, 8], [7, 11]])
def test_a_run_that_is_stopped_again_and_again_goes_on_exactly(train, monkeypatch, steps):
    # Four steps an epoch: 3, 7 and 11 are the last ones of theirs, after which a run stops at the epoch's end.
    args = ["stage=pretext", "tasks=rotation", "--model.lr=0.001"]
    train(*args, "--run.dir=whole", epochs=3)
    left = interrupt_at(monkeypatch, PretextModule, steps)
    call = [*args, "--run.dir=parts"]
    for step in [step for step in steps if step != 11]:
        with pytest.raises(SystemExit):
            train(*call, epochs=3)
        assert read_checkpoint("parts/last.ckpt")["global_step"] == step + 1
        call = ["resume=parts/last.ckpt"]
    train(*call, epochs=3)
    assert not left
    assert same(weights("whole/last.ckpt"), weights("parts/last.ckpt"))
    best = [read_checkpoint(f"{run}/best.ckpt")["global_step"] for run in ("whole", "parts")]
    assert best[0] == best[1]


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint(train, monkeypatch, refused):
    original = PretextModule.training_step

    def spoilt(self, batch, batch_idx):
        loss = original(self, batch, batch_idx)
        return loss * float("nan") if self.global_step == 6 else loss

    monkeypatch.setattr(PretextModule, "training_step", spoilt)
    message = refused("stage=pretext", "--run.dir=run", epochs=3)
    assert "step 7" in message
    assert "last.ckpt" in message
    assert "model.lr" in message
    assert read_checkpoint("run/last.ckpt")["global_step"] == 4
    assert all(value.isfinite().all() for value in weights("run/last.ckpt").values())


def test_a_full_disk_keeps_the_previous_checkpoint(train, monkeypatch, refused):
    save = torch.save
    calls = []

    def full(checkpoint, file, *args, **kwargs):
        calls.append(file)
        if len(calls) > 2:
            file.write(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        return save(checkpoint, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    message = refused("stage=pretext", "--run.dir=run", epochs=3)
    assert "No space left" in message
    assert "unharmed" in message
    assert read_checkpoint("run/last.ckpt")["global_step"] == 4
    assert not list(Path("run").glob(".*tmp"))


def test_a_folder_that_holds_a_run_is_refused(train, refused):
    train("stage=pretext", "--run.dir=run")
    before = weights("run/last.ckpt")
    assert "holds a run already" in refused("stage=pretext", "--run.dir=run")
    assert same(before, weights("run/last.ckpt"))


def test_default_folder_is_new_every_time(train):
    train("stage=pretext")
    train("stage=pretext")
    assert len(list(Path("runs/pretext").iterdir())) == 2


def test_two_runs_begun_at_once_get_a_folder_each(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make_new, [tmp_path / "runs" / "pretext" / "20260101-120000"] * 8))
    assert len(set(made)) == 8
    assert all(directory.is_dir() for directory in made)


@pytest.mark.parametrize("wrong", ["--data.images=nowhere", "--model.width=0", "--trainer.max_steps=half"])
def test_a_run_that_cannot_begin_leaves_no_folder(refused, wrong):
    refused("stage=pretext", wrong)
    assert not Path("runs").exists()


def test_a_run_that_cannot_begin_leaves_other_runs(train, refused):
    train("stage=pretext")
    refused("stage=pretext", "--model.width=0")
    (kept,) = Path("runs/pretext").iterdir()
    assert (kept / "last.ckpt").is_file()


def test_test_takes_the_data_settings_of_the_training(train, caplog):
    train("stage=downstream", "ckpt=none", "--run.dir=run", "--data.hole_ratio=[0.2,0.4]")
    main(["test", "ckpt=run/best.ckpt", "--accelerator=cpu", "--out=figures"])
    assert "hole 20% to 40%" in caplog.records[-1].message
    figures = json.loads(Path("figures/metrics.json").read_text())
    assert figures["test/psnr_composite"] > figures["test/psnr"] > 0


def test_test_measures_a_pretext_model_on_the_test_split(train, capsys, refused):
    train("stage=pretext", "tasks=saturation,masked", "--run.dir=run", "--model.pretext_holes=true")
    capsys.readouterr()
    main(["test", "ckpt=run/best.ckpt", "--accelerator=cpu", "--out=figures"])
    figures = json.loads(Path("figures/metrics.json").read_text())
    assert f"test/accuracy/saturation {figures['test/accuracy/saturation']:.4f}" in capsys.readouterr().out
    module = PretextModule.load_from_checkpoint("run/best.ckpt", weights_only=True).eval()
    data = WSSLDataModule(**torch.load("run/best.ckpt", weights_only=True)["datamodule_hyper_parameters"])
    data.setup("test")
    states = {name: torch.zeros(task.state_shape) for name, task in module.tasks.items()}
    for raw in data.test_dataloader():
        with torch.no_grad():
            images, targets = module.prepare_inputs(data.on_after_batch_transfer(raw, 0))
            outputs = module(images)
        for name, task in module.tasks.items():
            states[name] += task.state(outputs[name], targets[name])
    for name, task in module.tasks.items():
        assert figures[f"test/{task.score_name}/{name}"] == pytest.approx(task.score(states[name]).item(), abs=1e-5)
    assert "lpips_weights" in refused("test", "ckpt=run/best.ckpt", "lpips_weights=x", small=[], epochs=None)
    assert "precision=8" in refused("test", "ckpt=run/best.ckpt", "precision=8", small=[], epochs=None)


def test_help_and_printed_configuration(capsys):
    main([])
    assert "stage=pretext" in capsys.readouterr().out
    for option in ("--help", "--print_config"):
        with pytest.raises(SystemExit) as stopped:
            main(["stage=downstream", option])
        assert stopped.value.code == 0
        assert "freeze_layers" in capsys.readouterr().out
