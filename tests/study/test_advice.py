"""Advice from a made-up table."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from wssl_pl.cli import main
from wssl_pl.modules import PretextModule
from wssl_pl.study import advice
from wssl_pl.study.advice import Findings, Gain, Row, advise, choose, commands

HELPS, HARMS = Gain(0.8, 0.5, 1.1), Gain(-0.5, -0.9, -0.1)
PAIRS = {
    "scratch": Row("from scratch", 6, 20.0),
    "inpainting": Row("inpainting", 6, 20.8, gain=HELPS),
    "both": Row("both", 6, 20.9, gain=Gain(0.9, 0.6, 1.2), over_rival=Gain(0.1, -0.1, 0.3)),
}
NO = {"scratch": Row("from scratch", 6, 24.0), "inpainting": Row("inpainting", 6, 23.5, gain=HARMS)}
DAMAGED = {"blind": Row("blind", 6, 22.0), "joint_01": Row("heads beside it", 6, 22.4, gain=HELPS)}
FOUND = Findings("faces of 64 px", {"50": PAIRS, "3600": NO}, DAMAGED)


def test_the_best_arm_has_to_beat_its_rival():
    assert choose(PAIRS, "few_pairs") == "inpainting"
    clear = PAIRS | {"both": Row("both", 6, 20.9, gain=Gain(0.9, 0.6, 1.2), over_rival=Gain(0.3, 0.1, 0.5))}
    assert choose(clear, "few_pairs") == "both"
    # Of other seeds, with another mean: gains are compared, which are paired by seed.
    assert choose(clear | {"both": replace(clear["both"], psnr=20.5)}, "few_pairs") == "both"
    assert choose(NO, "few_pairs") is None
    assert choose(DAMAGED, "damaged") == "joint_01"


def test_an_arm_without_a_pretext_has_to_beat_the_rival_too_and_an_oracle_is_no_advice():
    oracle = Row("oracle", 6, 23.0, gain=HELPS, over_rival=HELPS, advisable=False)
    no_help = Row("restoring", 6, 22.0, gain=Gain(0.0, -0.2, 0.2))
    assert choose({"blind": DAMAGED["blind"], "oracle": oracle, "restoring": no_help}, "damaged") is None
    restoring = Row("restoring", 6, 22.2, gain=Gain(0.2, 0.05, 0.35))
    joint = Row("heads beside it", 6, 22.8, gain=HELPS, over_rival=Gain(0.6, 0.3, 0.9))
    assert choose({"blind": DAMAGED["blind"], "restoring": restoring, "joint_01": joint}, "damaged") == "joint_01"
    both = Row("both", 6, 20.2, gain=Gain(0.15, 0.01, 0.3), over_rival=Gain(0.05, -0.1, 0.2))
    inpainting = Row("inpainting", 6, 20.1, gain=Gain(0.1, -0.01, 0.28))
    assert choose({"scratch": PAIRS["scratch"], "inpainting": inpainting, "both": both}, "few_pairs") is None


@pytest.mark.parametrize(
    ("images", "damaged", "said", "not_said"),
    [
        (60, {}, ["with 50 training images", "Recommended: inpainting, +0.80 dB [+0.50", "reuse=all"], "covers"),
        (3000, {"jpeg": 0.1}, ["Measured with 3,600 training images", "No pretext is shown to help"], "Recommended"),
        (9, {}, ["The study covers 50 to 3,600 training images, not 9", "Recommended"], "No pretext"),
        (60, {"saturation": 0.9}, ["damages of saturation", "Recommended: heads beside it", "task_loss=0.1"], "covers"),
        (60, {"noise": 0.9}, ["The study covers saturation, sharpness, not noise", "images=CLEAN"], "No pretext"),
    ],
)  # fmt: skip
def test_advice_names_what_it_was_measured_with(images, damaged, said, not_said):
    text = "\n".join(advise(FOUND, images, damaged))
    assert all(part in text for part in said), text
    assert not_said not in text


def test_a_network_for_damaged_photographs_restores_and_is_trained_on_others():
    *_, why, command = advise(
        Findings("x", damaged={"blind": DAMAGED["blind"]}), 400, {"saturation": 0.9, "noise": 0.6}
    )
    assert why.startswith("Train on CLEAN, images without these damages")
    assert "restore=saturation,noise images=CLEAN" in command


def test_without_results_it_says_so():
    for damaged in ({}, {"saturation": 1.0}):
        lines = advise(None, 50, damaged)
        assert lines[0].startswith("The study has not covered this case yet: ")
        assert "downstream_psnr.yaml" in lines[-1]
    assert advise(Findings("x", {"50": PAIRS}), 50, {"jpeg": 0.6})[0].endswith("damaged images (jpeg)")


def test_commands_are_those_of_the_study():
    first, second = commands("both", "few_pairs", {"model.lr": 0.01})
    assert "'run.monitor=val/loss'" in first
    assert "'model.lr=0.01'" in second
    assert "stage=pretext images=POOL masks=DIR" in first
    assert "ckpt=runs/pretext/RUN/best.ckpt images=DIR masks=DIR" in second
    assert "'model.tasks=[saturation,sharpness,autoencoder]'" in first
    assert "'model.decoder=true'" in first
    assert "ckpt=runs/pretext/RUN/best.ckpt" in second
    assert "width" not in second
    (only,) = commands("joint_01", "damaged", {})
    assert "ckpt=none" in only
    assert "'model.restore=[saturation,sharpness]'" in only


def test_the_command_looks_at_the_images(tmp_path, monkeypatch, capsys):
    for name, count in (("images", 12), ("masks", 3)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.fromarray(np.full((40, 50, 3), number, np.uint8)).save(tmp_path / name / f"{number}.png")
    table = tmp_path / "advice.json"
    monkeypatch.setattr(advice, "TABLE", table)
    words = ["advise", f"images={tmp_path / 'images'}", f"masks={tmp_path / 'masks'}"]
    main(words)
    said = capsys.readouterr().out
    assert said.startswith("12 images, ")
    assert "short side 40 px in the median; 3 masks" in said
    assert "has not covered this case yet" in said
    table.write_text(json.dumps(asdict(FOUND)))
    main(words)
    assert "Recommended: inpainting" in capsys.readouterr().out
    (tmp_path / "images" / "7.png").write_bytes(b"cut short")
    main(words)
    assert "1 of 12 images that were looked at cannot be read" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        main([*words[:2], f"masks={tmp_path / 'empty'}"])
    assert "holds no JPEG, PNG or WebP file" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["size=32"], ["size=32", "format=shards"], ["format=shards", "encoding=file"]])
def test_the_command_takes_prepared_images(tmp_path, capsys, words):
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        (tmp_path / "images" / split).mkdir(parents=True)
        for number in range(count):
            image = Image.fromarray(np.full((40, 50, 3), 9 * count + number, np.uint8))
            image.save(tmp_path / "images" / split / f"{split}{number}.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (40, 40)).save(tmp_path / "masks" / "0.png")
    prepared = tmp_path / "prepared"
    main(["prepare", f"images={tmp_path / 'images'}", f"out={prepared}", "workers=1", *words])
    heads = tmp_path / "heads.ckpt"
    module = PretextModule(["saturation"], width=2)
    checkpoint = {"stage": module.stage, "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(checkpoint | {"datamodule_hyper_parameters": {"image_size": 32, "resize": 32}}, heads)
    main(["advise", f"images={prepared}", f"masks={tmp_path / 'masks'}", f"ckpt={heads}"])
    said = capsys.readouterr().out
    side = 256 if "encoding=file" in words else 32
    assert f"5 prepared images, 3 of them for training, read at {side} px; 1 masks" in said
    assert "Damages seen: " in said


def test_the_command_takes_prepared_images_without_any_for_training(tmp_path, capsys):
    (tmp_path / "masks").mkdir()
    Image.new("L", (40, 40)).save(tmp_path / "masks" / "0.png")
    for name in ("test", "val"):
        (tmp_path / "split" / name).mkdir(parents=True)
        Image.fromarray(np.full((40, 50, 3), len(name), np.uint8)).save(tmp_path / "split" / name / f"{name}.png")
    main(["prepare", f"images={tmp_path / 'split'}", f"out={tmp_path / 'out'}", "size=32", "workers=1"])
    main(["advise", f"images={tmp_path / 'out'}", f"masks={tmp_path / 'masks'}"])
    assert "2 prepared images, 0 of them for training, read at 32 px" in capsys.readouterr().out
