"""What a run records, whatever the loggers."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyExperiment, Logger
from PIL import Image

from tests.cli.checkpoints import same, weights
from wssl_pl.callbacks import RunCSVLogger

RUN_FILES = {"config.yaml", "data.json", "best.ckpt", "last.ckpt"}


class StubWandbLogger(Logger):
    """The interface of Lightning's WandbLogger, with its default directory."""

    images: list = []  # noqa: RUF012  (read by the tests)

    def __init__(self, save_dir: str = ".") -> None:
        super().__init__()
        self._save_dir = save_dir

    name, version = "lightning_logs", "stub"

    @property
    def save_dir(self):
        return self._save_dir

    @property
    def experiment(self):
        return DummyExperiment()

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_image(self, key, images, step=None, **kwargs):
        self.images += [(key, image, step) for image in images]


STUB = f"{__name__}.StubWandbLogger"


def files(folder):
    return {path.name for path in Path(folder).iterdir()}


def read_rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


LOGGERS = {
    "CSVLogger": ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=csv"],
    "wandb": [f"--trainer.logger={STUB}"],
    "none": ["--trainer.logger=false"],
    "several": [f"--trainer.logger+={STUB}", "--trainer.logger+=CSVLogger", "--trainer.logger.save_dir=csv"],
}


@pytest.mark.parametrize("loggers", LOGGERS)
def test_the_files_of_a_run_are_in_its_directory_whatever_the_loggers(train, loggers):
    Path("config.yaml").write_text("of the user\n")
    train("stage=pretext", "tasks=rotation", "--run.dir=run", *LOGGERS[loggers])
    assert files("run") >= RUN_FILES
    assert Path("config.yaml").read_text() == "of the user\n"
    assert not Path("config.1.yaml").exists()
    assert not Path("data.json").exists()
    assert not Path("csv", "config.yaml").exists()
    # All settings are found again, of which the command line says nothing here.
    train("resume=run/last.ckpt", "--trust", small=["--trainer.enable_progress_bar=false"], epochs=2)
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["tasks"] == ["rotation"]
    assert yaml.safe_load(Path("run/config.1.yaml").read_text())["trainer"]["max_epochs"] == 1


@pytest.mark.parametrize(("stage", "keys"), [
    (["stage=pretext", "tasks=rotation,masked"], {"val/confusion/rotation", "val/images/masked"}),
    (["stage=downstream", "ckpt=none"], {"val/images"}),
])  # fmt: skip
def test_images_go_to_every_logger_that_takes_them(train, monkeypatch, stage, keys):
    monkeypatch.setattr(StubWandbLogger, "images", [])
    several = ["--trainer.logger+=CSVLogger", "--trainer.logger.save_dir=csv", f"--trainer.logger+={STUB}"]
    train(*stage, "--run.dir=run", *several)
    assert {key for key, _, _ in StubWandbLogger.images} == keys
    assert all(isinstance(image, Image.Image) and step == 4 for _, image, step in StubWandbLogger.images)


def test_metrics_csv_is_appended_to_by_a_resumed_run(train):
    train("stage=pretext", "tasks=rotation", "--run.dir=run")
    first = read_rows("run/metrics.csv")
    assert {"step", "train/loss", "val/score", "val/loss/rotation"} <= set(first[0])
    # A process killed within a row leaves half of it.
    with Path("run/metrics.csv").open("a") as file:
        file.write("1,4,0.2")
    train("resume=run/last.ckpt", small=["--trainer.enable_progress_bar=false"], epochs=2)
    rows = read_rows("run/metrics.csv")
    assert rows[: len(first)] == first
    steps = [int(row["step"]) for row in rows if row["val/loss"]]
    assert steps == [3, 7]
    assert None not in rows[-1]


def test_metrics_csv_keeps_its_rows_when_a_new_metric_comes(tmp_path):
    logger = RunCSVLogger(str(tmp_path))
    logger.log_metrics({"a": 1.0}, step=0)
    logger.save()
    resumed = RunCSVLogger(str(tmp_path))
    resumed.log_metrics({"b": 2.0}, step=1)
    resumed.save()
    rows = read_rows(tmp_path / "metrics.csv")
    assert rows == [{"a": "1.0", "b": "", "step": "0"}, {"a": "", "b": "2.0", "step": "1"}]
    assert files(tmp_path) == {"metrics.csv"}


@pytest.mark.parametrize("content", [b"a,step\n1,\xff\n", b"a,step\n" + b"1" * 200_000 + b",0\n", b"\x80" * 9])
def test_a_damaged_metrics_csv_is_kept_aside(tmp_path, caplog, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    logger = RunCSVLogger(str(tmp_path))
    logger.log_metrics({"b": 2.0}, step=1)
    logger.save()
    assert read_rows(tmp_path / "metrics.csv") == [{"b": "2.0", "step": "1"}]
    assert (tmp_path / "metrics.damaged.csv").read_bytes().startswith(content)
    assert "metrics.damaged.csv" in caplog.text


def test_a_full_disk_costs_no_row_of_metrics_csv(tmp_path, monkeypatch):
    logger = RunCSVLogger(str(tmp_path))
    logger.log_metrics({"a": 1.0}, step=0)
    logger.save()

    def full(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerows", full)
    logger.log_metrics({"b": 2.0}, step=1)
    with pytest.raises(OSError, match="No space"):
        logger.save()
    assert read_rows(tmp_path / "metrics.csv") == [{"a": "1.0", "step": "0"}]


def test_lightnings_own_csv_logger_would_delete_the_file(tmp_path):
    """The reason for `RunCSVLogger`."""
    (tmp_path / "metrics.csv").write_text("step\n0\n")
    with pytest.warns(UserWarning, match="will be deleted"):
        _ = CSVLogger(str(tmp_path), name="", version="").experiment
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize(("logger", "package"), [("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow")])
def test_a_logger_that_is_not_installed_is_one_line(refused, monkeypatch, logger, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert f"pip install {package}" in refused("stage=pretext", f"--trainer.logger={logger}")
    assert not Path("runs").exists()


def test_config_yaml_repeats_a_run_from_any_directory(train, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    folder = tmp_path / "data" / "celeba_hq" / "train"
    folder.mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (80, 80), (20 * number, 90, 120)).save(folder / f"{number}.png")
    (folder.parent / "val").mkdir()
    Image.new("RGB", (80, 80)).save(folder.parent / "val" / "0.png")
    options = ["--data.masks=synthetic", "--trainer.precision=32-true"]
    # The images by the default directory, and the encoder by a relative path.
    train("stage=pretext", "tasks=rotation", "--run.dir=runs/a", *options)
    train("stage=downstream", "ckpt=runs/a/best.ckpt", "--run.dir=runs/b", *options)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for run in "ab":
        train("--config=../runs/" + run + "/config.yaml", f"--run.dir={run}", small=[], epochs=None)
        assert same(weights(f"../runs/{run}/last.ckpt"), weights(f"{run}/last.ckpt"))


def test_a_project_that_was_moved_with_its_data_is_resumed(train, tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    for split in ("train", "val"):
        (old / "faces" / split).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (80, 80), (20 * number, 90, 120)).save(old / "faces" / split / f"{number}.png")
    monkeypatch.chdir(old)
    train("stage=pretext", "tasks=rotation", "--data.images=faces", "--run.dir=run")
    assert yaml.safe_load(Path("run/config.yaml").read_text())["data"]["images"] == str(old / "faces")
    monkeypatch.chdir(tmp_path)
    old.rename(new)
    monkeypatch.chdir(new)
    train("resume=run/last.ckpt", small=[], epochs=2)
    assert json.loads(Path("run/data.json").read_text())["images"]["source"] == "faces"
