"""Restoration from the command line."""

from pathlib import Path

import yaml

from wssl_pl.cli import main
from wssl_pl.evaluation.results import read_result
from wssl_pl.models import open_model


def test_a_restoring_model_is_trained_resumed_and_opened(train):
    train("stage=downstream", "ckpt=none", "freeze_layers=0", "restore=saturation,sharpness", "--run.dir=run")
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["restore"] == ["saturation", "sharpness"]
    train("resume=last", "--run.dir=run", small=[], epochs=2)
    assert "val/psnr_known" in Path("run/metrics.csv").read_text()
    main(["pairs", "images=synthetic", "masks=synthetic", "image_size=64", "resize=72", "limit=16",
          "restore=saturation,sharpness", "out=pairs"])  # fmt: skip
    main(["evaluate", "pairs=pairs", "ckpt=run/best.ckpt", "--accelerator=cpu", "out=evaluated"])
    main(["test", "ckpt=run/best.ckpt", "--accelerator=cpu", "out=tested"])
    results = [read_result(folder) for folder in ("evaluated", "tested")]
    assert results[0].pairs.hash == results[1].pairs.hash
    assert "psnr_known" in results[1].means
    assert results[0].method["restore"] == ["saturation", "sharpness"]
    assert open_model("run/best.ckpt").info.hyper_parameters["restore"] == ["saturation", "sharpness"]


def test_a_task_that_cannot_damage_is_one_line(refused):
    line = refused("stage=downstream", "ckpt=none", "restore=rotation")
    assert "rotation does not damage an image by degrees" in line
