"""Restoration from the command line."""

from pathlib import Path

import yaml

from wssl_pl.models import open_model


def test_a_restoring_model_is_trained_resumed_and_opened(train):
    train("stage=downstream", "ckpt=none", "freeze_layers=0", "restore=saturation,sharpness", "--run.dir=run")
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["restore"] == ["saturation", "sharpness"]
    train("resume=last", "--run.dir=run", small=[], epochs=2)
    assert "val/psnr_known" in Path("run/metrics.csv").read_text()
    assert open_model("run/best.ckpt").info.hyper_parameters["restore"] == ["saturation", "sharpness"]


def test_a_task_that_cannot_damage_is_one_line(refused):
    line = refused("stage=downstream", "ckpt=none", "restore=rotation")
    assert "rotation does not damage an image by degrees" in line
