"""Restoration from the command line."""

import shutil
from pathlib import Path

import yaml
from PIL import Image

from tests.cli.checkpoints import same, weights
from wssl_pl.cli import main
from wssl_pl.evaluation.results import read_result
from wssl_pl.models import open_model
from wssl_pl.modules import InpaintModule


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


def test_an_oracle_is_trained_resumed_and_measured_and_fills_no_photo(train, refused):
    oracle = ["stage=downstream", "ckpt=none", "freeze_layers=0", "restore=saturation,sharpness"]
    oracle.append("--model.strength_channels=true")
    train(*oracle, "--run.dir=whole", epochs=2)
    train(*oracle, "--run.dir=parts")
    train("resume=last", "--run.dir=parts", small=[], epochs=2)
    assert same(weights("whole/last.ckpt"), weights("parts/last.ckpt"))
    module = InpaintModule.load_from_checkpoint("parts/last.ckpt")
    assert module.encoder.stages[0].first.conv.weight.shape[1] == 5
    pairs = ["pairs", "images=synthetic", "masks=synthetic", "image_size=64", "resize=72", "limit=16"]
    main([*pairs, "restore=saturation,sharpness", "out=pairs"])
    main([*pairs, "out=clean"])
    main(["evaluate", "pairs=pairs", "ckpt=parts/best.ckpt", "--accelerator=cpu", "out=evaluated"])
    main(["test", "ckpt=parts/best.ckpt", "--accelerator=cpu", "out=tested"])
    evaluated, tested = (read_result(folder) for folder in ("evaluated", "tested"))
    assert evaluated.means == tested.means
    assert any("is an oracle" in note for note in tested.notes)
    Image.new("RGB", (64, 64)).save("x.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 32))
    mask.save("mask.png")
    exports = (["export", kind, f"out={name}"] for kind, name in (("onnx", "x.onnx"), ("safetensors", "x")))
    for command in (["inpaint", "x.png", "mask=mask.png", "out=y.png"], *exports, ["diagnose", "x.png"]):
        line = refused(*command, "ckpt=parts/best.ckpt", small=[], epochs=None)
        assert "needs the strengths of the damages (strength_channels), which nobody knows of a photo" in line
    line = refused("evaluate", "pairs=clean", "ckpt=parts/best.ckpt", "out=no", small=[], epochs=None)
    assert "needs the strengths of saturation, sharpness, the pairs have those of none: write them with" in line


def test_joint_training_resumes_exactly_without_the_pretext_checkpoint(train):
    train("stage=pretext", "tasks=rotation,saturation", "weights=1,3", "--run.dir=pretext")
    joint = ["stage=downstream", "ckpt=pretext/best.ckpt", "freeze_layers=0", "restore=saturation,sharpness"]
    joint.append("--model.task_loss=0.1")
    train(*joint, "--run.dir=whole", epochs=2)
    train(*joint, "--run.dir=parts")
    shutil.rmtree("pretext")
    train("resume=last", "--run.dir=parts", small=[], epochs=2)
    assert same(weights("whole/last.ckpt"), weights("parts/last.ckpt"))
    module = InpaintModule.load_from_checkpoint("parts/last.ckpt")
    assert module.joint.weighting.weights == {"rotation": 0.25, "saturation": 0.75}
    assert module.joint.others == ["rotation"]
    logged = Path("parts/metrics.csv").read_text()
    assert all(f"{split}/{what}/rotation" in logged for split in ("train", "val") for what in ("loss", "accuracy"))
    open_model("parts/best.ckpt")


def test_joint_training_without_tasks_is_one_line(refused):
    line = refused("stage=downstream", "ckpt=none", "freeze_layers=0", "--model.task_loss=0.1")
    assert line.startswith("error: model.task_loss=0.1: there are no tasks: give tasks=")
    line = refused("stage=downstream", "ckpt=none", "freeze_layers=0", "tasks=rotation")
    assert line == "error: tasks=[rotation]: no task is trained in this stage: give task_loss=0.1, or omit it"


def test_temperatures_are_no_option(refused):
    assert "unknown option 'model.temperatures'" in refused("stage=pretext", "--model.temperatures={}")


def test_a_task_that_cannot_damage_is_one_line(refused):
    line = refused("stage=downstream", "ckpt=none", "restore=rotation")
    assert "rotation does not damage an image by degrees" in line
