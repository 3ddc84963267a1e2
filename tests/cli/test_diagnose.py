import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from wssl_pl.cli import main, run
from wssl_pl.modules import PretextModule
from wssl_pl.tasks import import_task


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a pretext checkpoint, two photos and a damaged one."""
    monkeypatch.chdir(tmp_path)
    module = PretextModule(["rotation", "blur"], width=2, temperatures={"rotation": 2.0, "blur": 1.0})
    checkpoint = {"stage": "pretext", "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(checkpoint | {"datamodule_hyper_parameters": {"image_size": 32, "resize": 40}}, "model.ckpt")
    for name in ("a.png", "b.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(name)
    (tmp_path / "damaged.png").write_bytes(b"no image")
    return tmp_path


def test_photos_are_reported(folder, capsys):
    found = run(["diagnose", "a.png", "b.jpg", "ckpt=model.ckpt"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a.png (its middle 32 x 32 px, at a short side of 40 px)"
    assert len(lines) == 6
    assert all(finding.text in line for finding, line in zip(found["a.png"].findings, lines[1:3], strict=True))


@pytest.mark.filterwarnings("error")
def test_pillow_does_not_warn_of_large_photos(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    run(["diagnose", "a.png", "ckpt=model.ckpt"])
    assert Image.MAX_IMAGE_PIXELS == 2000


def test_json(folder, capsys):
    found = run(["diagnose", "a.png", "ckpt=model.ckpt", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["a.png"]["findings"][0]["text"] == found["a.png"].findings[0].text
    assert sum(printed["a.png"]["findings"][0]["levels"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["a.png"], 2, "error: ckpt: is required, the shipped model has no heads: give the checkpoint of a pretext"),
        (["nothing.png", "ckpt=model.ckpt"], 2, "error: photo=nothing.png: does not exist"),
        (["damaged.png", "ckpt=model.ckpt"], 2, "error: photo=damaged.png: "),
        ([".", "ckpt=nothing.ckpt"], 2, "error: photo=.: is a folder: name its photos: ./*.jpg"),
        (["ckpt=model.ckpt"], 2, "error: photo: is required"),
        (["a.png", "damaged.png", "ckpt=model.ckpt"], 1, "error: 1 photos were not read:\n  photo=damaged.png: "),
        (["a.png", "ckpt=a.png"], 2, "error: ckpt=a.png: is not a checkpoint"),
    ],
)
def test_bad_input_is_one_line(args, code, message, folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["diagnose", *args])
    assert stopped.value.code == code
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == message.count("\n") + 1
    assert ("a.png (" in captured.out) == (code == 1)


OWN = """
from wssl_pl.tasks import Classification


class Mirrored(Classification):
    name = "mirrored"
    default_levels = (0.0, 1.0)
    ordered, unchanged = False, 0.0

    def describe(self, level):
        return "mirrored"
"""


def test_a_task_of_ones_own(folder, capsys, monkeypatch):
    (folder / "own_mirrored.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    import_task("own_mirrored.Mirrored")
    module = PretextModule(["own_mirrored.Mirrored"], width=2)
    checkpoint = {"stage": "pretext", "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(checkpoint, "own.ckpt")
    monkeypatch.delitem(sys.modules, "own_mirrored")
    with pytest.raises(SystemExit):
        main(["diagnose", "a.png", "ckpt=own.ckpt"])
    assert "module own_mirrored is not imported: type tasks=own_mirrored.Mirrored" in capsys.readouterr().err
    (found,) = run(["diagnose", "a.png", "ckpt=own.ckpt", "tasks=own_mirrored.Mirrored"])["a.png"].findings
    assert found.text in ("mirrored", "mirrored: nothing found")
    assert "Note: the model file holds no calibration" in capsys.readouterr().out
