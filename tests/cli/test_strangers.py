"""What the folder of somebody else's run may do when it is resumed: nothing but train."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Callback

from tests.cli.test_run_table import PRETEXT, TINY
from wssl_pl.cli.arguments import read_line
from wssl_pl.cli.configuration import base_on_resumed_run
from wssl_pl.cli.train import ALIASES

EVIL = "from pathlib import Path\nfrom lightning import Callback\nPath('was_run').touch()\nclass E(Callback): pass\n"
LIGHTNING = "lightning.pytorch."


class Own(Callback):
    """A callback that Lightning does not ship."""


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Write the folder of a run with changes to its configuration, and return what its resumption is based on."""
    monkeypatch.chdir(tmp_path)
    Path("evilmod.py").write_text(EVIL)
    Path("plain").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("wssl_pl.cli.configuration.read_checkpoint", lambda *args, **kwargs: {"stage": "pretext"})

    def run(config, *typed):
        Path("run").mkdir(exist_ok=True)
        Path("run/last.ckpt").touch()
        Path("run/config.yaml").write_text(yaml.safe_dump(config))
        line = read_line(["resume=run/last.ckpt", *typed], ALIASES, {"run.trust"})
        base_on_resumed_run(line)
        return yaml.safe_load(next(value for value in line.values("config") if "\n" in value))

    yield run
    assert not Path("was_run").exists()
    sys.modules.pop("evilmod", None)


def of_class(path, **arguments):
    return {"class_path": path, "init_args": arguments}


CSV, PROFILER, CHECKPOINT = f"{LIGHTNING}loggers.CSVLogger", f"{LIGHTNING}profilers.SimpleProfiler", "ModelCheckpoint"


@pytest.mark.parametrize(
    "trainer",
    [
        {"callbacks": [of_class("evilmod.E")]},
        {"callbacks": "evilmod.E"},
        {"callbacks": [of_class(f"{LIGHTNING}callbacks.LambdaCallback", on_fit_start="os.system")]},
        {"callbacks": [of_class(f"{LIGHTNING}trainer.trainer.os.system")]},
        {"callbacks": [of_class("wssl_pl.__main__.main")]},
        {"callbacks": [of_class(CHECKPOINT, dirpath="/tmp")]},
        {"callbacks": [of_class(CHECKPOINT, dirpath="run", filename="../out")]},
        {"callbacks": {"class_path": "EarlyStopping", "dict_kwargs": {"x": {"class_path": "evilmod.E"}}}},
        {"logger": of_class(CSV, save_dir="csv")},
        {"logger": of_class(CSV, save_dir="run", name="../../csv")},
        {"logger": of_class(CSV, save_dir="lightning.pytorch.loggers.CSVLogger")},
        {"logger": of_class(CSV)},
        {"logger": "WandbLogger"},
        {"logger": [of_class(f"{LIGHTNING}loggers.CometLogger", save_dir="run", api_key="theirs")]},
        {"profiler": of_class(PROFILER, dirpath="~")},
        {"profiler": "plain"},
        {"plugins": ["evilmod.E"]},
        {"strategy": "evilmod.E"},
        {"default_root_dir": "/tmp"},
    ],
)
def test_other_code_and_other_places_need_trust(given, trainer):
    with pytest.raises(Exception, match=r"^resume=run/last\.ckpt: its config\.yaml has trainer\.\w+.* --trust"):
        given({"trainer": trainer})
    assert given({"trainer": trainer}, "--trust")["trainer"] == trainer
    (name,) = trainer
    assert "trainer" not in given({"trainer": trainer}, f"--trainer.{name}=null")


@pytest.mark.parametrize(
    "trainer",
    [
        {"callbacks": [of_class(f"{LIGHTNING}callbacks.EarlyStopping", monitor="val/ssim", mode="max")]},
        {"callbacks": [of_class(f"{LIGHTNING}callbacks.ModelCheckpoint", dirpath="run/more", filename="{epoch}")]},
        {"logger": of_class(CSV, save_dir="run/csv", name="", version=None)}
        | {"max_time": "00:12:00:00", "precision": "bf16-mixed", "devices": "0,1", "strategy": "ddp", "max_epochs": 3},
    ],
)
def test_what_lightning_ships_inside_the_run_needs_none(given, trainer):
    assert given({"trainer": trainer})["trainer"] == trainer


def test_only_our_own_options_are_taken(given):
    run = {"dir": "/tmp/elsewhere", "resume": "x", "trust": True, "monitor": "val/loss", "monitor_mode": "auto"}
    config = {"run": run, "seed_everything": 3, "stage": "downstream", "optimizer": {"class_path": "evilmod.E"}}
    assert given(config | {"model": {"tasks": ["evilmod.E"]}}) == {
        "run": {"monitor": "val/loss", "monitor_mode": "auto"},
        "seed_everything": 3,
        "model": {"tasks": ["evilmod.E"]},
    }


def test_a_link_out_of_the_run_is_not_written_through(given):
    Path("run").mkdir()
    Path("run/metrics.csv").symlink_to("/tmp/victim")
    with pytest.raises(Exception, match=r"run/metrics\.csv is a link to a file outside the run"):
        given({})
    given({"seed_everything": 1}, "trust=true")


def test_paths_of_a_moved_run_are_the_only_options_in_its_data_json(given):
    Path("run").mkdir()
    Path("run/data.json").write_text('{"typed": {"data.images": "plain", "trainer.callbacks": "plain"}}')
    stored = {"data": {"images": "/gone"}, "trainer": {"callbacks": "/gone"}}
    assert given(stored, "--trust") == {"data": {"images": "plain"}, "trainer": {"callbacks": "/gone"}}


def test_checkpoints_of_the_user_beside_ours(train):
    """Lightning takes two of one monitor and interval for the same callback."""
    own = of_class(f"{LIGHTNING}callbacks.ModelCheckpoint", dirpath="run/more", filename="{step}", save_top_k=-1)
    best = of_class(f"{LIGHTNING}callbacks.ModelCheckpoint", dirpath="run/best3", monitor="val/score", mode="max")
    Path("own.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [own, best]}}))
    train(*PRETEXT, "--run.dir=run", "config=own.yaml", small=TINY)
    train("resume=run", small=[], epochs=2)
    assert len(list(Path("run/more").glob("step=*.ckpt"))) == 2
    assert len(list(Path("run/best3").glob("*.ckpt"))) == 1
    assert {path.name for path in Path("run").glob("*.ckpt")} == {"best.ckpt", "last.ckpt"}


def test_a_run_with_a_callback_of_its_owner(train, refused):
    own = f"{__name__}.Own"
    train(*PRETEXT, "--run.dir=run", f"--trainer.callbacks={own}", small=TINY)
    assert own in refused("resume=run", small=[], epochs=2)
    assert not Path("run/config.1.yaml").exists()
    train("resume=run", "--trust", small=[], epochs=2)
    train(*PRETEXT, "--run.dir=run", "resume=auto", f"--trainer.callbacks={own}", small=TINY, epochs=3)
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["run"]["trust"] is False
    assert config["trainer"]["max_epochs"] == 3
    assert [callback["class_path"] for callback in config["trainer"]["callbacks"]] == [own]
    assert torch.load("run/last.ckpt", weights_only=True)["epoch"] == 2


def test_a_configuration_that_is_none_is_one_line(train, refused):
    train(*PRETEXT, "--run.dir=run", small=TINY)
    for text, message in {
        "- 1\n": "config=run/config.yaml: holds no options",
        "{a: " * 2000 + "}" * 2000: "config=run/config.yaml: is nested too deeply",
        "data: {images: [1]}\n": "config.yaml of the resumed run: data.images=[1]: is not of the option's type",
    }.items():
        Path("run/config.yaml").write_text(text)
        assert message in refused("resume=run", small=[])
