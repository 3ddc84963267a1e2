"""Lightning's own options: what is asked for is shown and done, and nothing is announced that does not exist."""

import errno
import io
import json
import logging
import os
import pickle
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from wssl_pl.callbacks import AtomicCheckpointIO, with_atomic_checkpoints
from wssl_pl.callbacks.checkpoints import BestCheckpoint
from wssl_pl.cli.messages import LOGGERS, silence_messages
from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import DiskFull
from wssl_pl.modules import InpaintModule

TINY = [
    "stage=pretext", "tasks=rotation", "--data.image_size=32", "--data.resize=36", "--data.batch_size=4",
    "--data.limit=8", "--data.num_workers=0", "--model.width=2", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip
CALLBACKS = "lightning.pytorch.callbacks"


def test_what_lightning_is_asked_to_report_is_shown(train, caplog):
    caplog.set_level(logging.INFO)
    train(
        "--trainer.profiler=simple",
        "--trainer.callbacks+=ModelSummary",
        "--trainer.callbacks+=EarlyStopping",
        "--trainer.callbacks.monitor=val/loss",
        "--trainer.callbacks.verbose=true",
        "--run.dir=run",
        small=TINY,
    )
    shown = [record.getMessage() for record in caplog.records]
    assert any("FIT Profiler Report" in message for message in shown)
    assert any("Trainable params" in message for message in shown)
    assert any("Metric val/loss improved" in message for message in shown)


def test_a_plain_run_shows_our_lines_alone(train, caplog, capsys, recwarn):
    caplog.set_level(logging.INFO)
    train("--run.dir=run", "--model.ema=0.9", small=TINY)
    train("resume=last", "--run.dir=run", small=["--trainer.enable_progress_bar=false"], epochs=2)
    assert {record.name.partition(".")[0] for record in caplog.records} == {"wssl_pl"}
    assert "lightning" not in capsys.readouterr().err.lower()
    assert not [each for each in recwarn if "WeightAveraging" in str(each.message)]


def test_single_messages_are_silenced_at_their_loggers(caplog):
    silence_messages()
    caplog.set_level(logging.INFO)
    for name in LOGGERS:
        logging.getLogger(name).info("Seed set to 0")
        logging.getLogger(name).info("of another kind")
    assert {record.getMessage() for record in caplog.records} == {"of another kind"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"],
            "give model.ema=0.999",
        ),
        (["--trainer.limit_train_batches=0.01"], "trainer: You requested to check 0.01 of the `train_dataloader`"),
    ],
)
def test_what_lightning_cannot_do_here_is_one_line(refused, options, said):
    assert said in refused("--run.dir=run", *options, small=TINY)
    assert not Path("run").exists()


def test_one_callback_and_one_plugin_as_yaml_mappings(train):
    one = {"class_path": f"{CALLBACKS}.EarlyStopping", "init_args": {"monitor": "val/loss"}}
    plugin = {"class_path": "lightning.pytorch.plugins.io.AsyncCheckpointIO"}
    Path("one.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": one, "plugins": plugin}}))
    train("--config=one.yaml", "--run.dir=run", small=TINY)
    assert {"best.ckpt", "last.ckpt"} <= {path.name for path in Path("run").iterdir()}


def test_a_wrapping_checkpoint_plugin_wraps_ours():
    (only,) = with_atomic_checkpoints([])
    assert isinstance(only, AtomicCheckpointIO)
    (wrapping,) = with_atomic_checkpoints([AsyncCheckpointIO()])
    assert isinstance(wrapping.checkpoint_io, AtomicCheckpointIO)
    theirs = TorchCheckpointIO()
    assert with_atomic_checkpoints([theirs]) == [theirs]


NO_BEST = {
    "--trainer.fast_dev_run=true": "No checkpoint was written",
    "--trainer.enable_checkpointing=false": "No checkpoint was written",
    "--trainer.limit_val_batches=0": "last.ckpt",
}


@pytest.mark.parametrize("option", NO_BEST)
def test_no_checkpoint_is_announced_that_does_not_exist(train, capsys, option):
    train(option, small=TINY)
    said = capsys.readouterr().out
    assert "best.ckpt" not in said
    assert NO_BEST[option] in said


def test_fast_dev_run_leaves_no_folder(train):
    train("--trainer.fast_dev_run=true", small=TINY)
    assert not Path("runs").exists()
    train("--trainer.fast_dev_run=true", "--run.dir=run", small=TINY)
    assert not Path("run").exists()


@pytest.mark.slow
def test_ddp_fork_does_not_state_a_number_of_steps_that_it_does_not_know(tmp_path):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    options = ["--trainer.devices=2", "--trainer.strategy=ddp_fork", "--trainer.max_epochs=1", "--run.dir=run"]
    command = [sys.executable, "-m", "wssl_pl", *TINY, *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Finished: val/" in done.stdout
    assert (tmp_path / "run" / "config.yaml").is_file()


@pytest.mark.parametrize(("given", "seed"), [("true", 11), ("3", 3)])
def test_the_seed_that_lightning_takes_is_the_seed_of_the_data_and_is_recorded(train, monkeypatch, given, seed):
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    train(f"--seed_everything={given}", "--run.dir=run", small=TINY)
    assert yaml.safe_load(Path("run/config.yaml").read_text())["seed_everything"] == seed
    assert json.loads(Path("run/data.json").read_text())["seed"] == seed


def test_barebones_is_one_line(refused):
    assert "trainer.barebones=true" in refused("--trainer.barebones=true", small=TINY)
    assert not Path("runs").exists()


def fail_in_setup(monkeypatch):
    def setup(self, stage):
        raise RuntimeError("no data")

    monkeypatch.setattr(WSSLDataModule, "setup", setup)


def fail_in_the_first_step(monkeypatch):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(InpaintModule, "training_step", training_step)


@pytest.mark.parametrize("fail", [fail_in_setup, fail_in_the_first_step])
@pytest.mark.parametrize("directory", [[], ["--run.dir=new"], ["--run.dir=mine"]])
def test_a_run_that_fails_before_its_first_step_leaves_nothing(train, monkeypatch, fail, directory):
    Path("mine").mkdir()
    Path("mine/log.txt").write_text("of the user\n")
    fail(monkeypatch)
    with pytest.raises(RuntimeError):
        train("stage=downstream", "ckpt=none", *directory, small=TINY[2:])
    assert [str(path) for path in Path().rglob("*")] == ["mine", "mine/log.txt"]


def test_a_resumed_run_that_fails_to_start_keeps_all_it_had(train, monkeypatch):
    train("stage=downstream", "ckpt=none", "--run.dir=run", small=TINY[2:])
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    fail_in_setup(monkeypatch)
    with pytest.raises(RuntimeError):
        train("resume=run/last.ckpt", small=[], epochs=2)
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_full_disk_is_named_where_a_checkpoint_is_written(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("wssl_pl.callbacks.checkpoints.replacing", lambda path: nullcontext(Full()))
    with pytest.raises(DiskFull, match=r"last\.ckpt \(No space left on device\); there was none before; make room"):
        AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(9)}, tmp_path / "last.ckpt")


def test_checkpoints_are_read_as_plain_values_whatever_is_asked(tmp_path):
    class Stranger:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"x": Stranger()}, tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert not (tmp_path / "ran").exists()


def test_a_best_score_goes_with_its_checkpoint(tmp_path):
    saved = {
        "monitor": "val/score", "best_model_score": torch.tensor(0.9), "best_loss": 0.1, "kth_value": torch.tensor(0.9),
        "current_score": torch.tensor(0.9), "best_k_models": {},
    }  # fmt: skip
    without, there = BestCheckpoint(str(tmp_path / "a"), "val/score"), BestCheckpoint(str(tmp_path / "b"), "val/score")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "best.ckpt").touch()
    for each in (without, there):
        each.load_state_dict(saved)
    assert (without.best_model_score, without._best_loss) == (None, None)
    assert (there.best_model_score, there._best_loss) == (0.9, 0.1)
