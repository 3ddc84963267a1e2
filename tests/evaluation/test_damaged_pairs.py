"""Pairs whose inputs are damaged, and how they are measured."""

import csv
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import sample_data

from wssl_pl import InpaintModule
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.compare import compare
from wssl_pl.evaluation.evaluate import Settings, evaluate
from wssl_pl.evaluation.methods import Classical
from wssl_pl.evaluation.pairs import Pairs, write_named_pairs, write_pairs
from wssl_pl.evaluation.predictions import Predictions
from wssl_pl.evaluation.report import facts, write_report
from wssl_pl.evaluation.results import read_result
from wssl_pl.metrics import psnr


class Given:
    """The input as it is: a blind method."""

    name, notes = "given", []

    def __init__(self, **described):
        self.described = described

    def __call__(self, names, images, masks):
        assert (images * masks).abs().max() == 0
        return images

    def describe(self):
        return self.described


def test_inputs_are_what_validation_gives_a_restoring_model(damaged):
    module, data = InpaintModule(width=2, restore=["saturation", "sharpness"]), sample_data()
    data.setup("test")
    data.crop_margin = module.crop_margin
    batch = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    assert "image_with_margin" in batch
    expected = module.given(batch).mul(255).round()
    assert (damaged.read_inputs(damaged.pairs).float() - expected).abs().max() <= 1.0  # of 255, rounded once more
    strengths = module.damages(batch["image"], batch["random"])[1]
    rows = list(csv.DictReader((damaged.folder / "pairs.csv").open()))
    for name, values in strengths.items():
        assert [float(row[f"strength_{name}"]) for row in rows] == pytest.approx(values.tolist(), abs=1e-6)


def test_some_images_may_stay_as_they_are(tmp_path):
    settings = {"restore": ["saturation", "jpeg"], "undamaged": 0.5}
    made = write_pairs(sample_data(limit=8), "test", tmp_path / "pairs", **settings)
    assert Pairs.open(made.folder).manifest.undamaged == 0.5
    rows = list(csv.DictReader((made.folder / "pairs.csv").open()))
    module, data = InpaintModule(width=2, **settings), sample_data(limit=8)
    data.setup("test")
    (batch,) = [data.on_after_batch_transfer(raw, 0) for raw in data.test_dataloader()]
    for name, values in module.damages(batch["image"], batch["random"])[1].items():
        found = [float(row[f"strength_{name}"]) for row in rows]
        assert found == pytest.approx(values.tolist(), abs=1e-5)
    assert 0 < sum(float(row["strength_jpeg"]) == 100.0 for row in rows) < 8


def test_images_and_masks_are_those_without_damage(pairs, damaged):
    assert damaged.manifest.restore == ["saturation", "sharpness"]  # in the order in which tasks change an image
    assert [(one.image_sha256, one.mask_sha256) for one in damaged.pairs] == [
        (one.image_sha256, one.mask_sha256) for one in pairs.pairs
    ]
    assert damaged.manifest.hash != pairs.manifest.hash
    assert "damaged by saturation, sharpness" in (damaged.folder / "README.md").read_text()
    assert not (pairs.folder / "inputs").exists()
    assert torch.equal(pairs.read_inputs(pairs.pairs), pairs.read(pairs.pairs)[0])


def test_made_twice_they_are_the_same(damaged, tmp_path):
    again = write_pairs(sample_data(), "test", tmp_path / "again", batch_size=3, restore=["saturation", "sharpness"])
    assert again.manifest.hash == damaged.manifest.hash
    other = write_pairs(sample_data(limit=2), "test", tmp_path / "other", restore=["noise"])
    assert [path.name for path in sorted((other.folder / "inputs").iterdir())] == ["00000.png", "00001.png"]


def test_an_input_that_is_changed_or_missing_is_refused(damaged):
    first, second = (damaged.folder / "inputs" / f"0000{number}.png" for number in (1, 2))
    shutil.copy(second, first)
    second.unlink()
    message = r"was changed \(hash\): inputs/00001.png, inputs/00002.png \(missing\): write the pairs again"
    with pytest.raises(WSSLError, match=message):
        Pairs.open(damaged.folder)


def test_pairs_by_name_of_any_size(tmp_path):
    for folder, shape in (("images", (20, 31, 3)), ("masks", (20, 31))):
        (tmp_path / folder).mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        Image.fromarray(pixels).save(tmp_path / folder / "one.png")
    write = [tmp_path / "images", tmp_path / "masks"]
    found = [
        write_named_pairs(*write, tmp_path / f"{seed}", restore=["blur", "jpeg"], seed=seed).manifest for seed in (0, 1)
    ]
    assert found[0].restore == ["blur", "jpeg"]
    assert found[0].hash != found[1].hash


@pytest.mark.parametrize(
    ("restore", "reason"),
    [
        (["rotation"], "rotation does not damage an image by degrees: give one or more of saturation"),
        (["saturation", "masked"], "masked does not damage"),
        (["saturation", "saturation"], "saturation is given twice"),
        (["fog"], "is not a pretext task"),
        ([], "none given"),
    ],
)  # fmt: skip
def test_what_cannot_damage_is_refused_before_anything_is_read(tmp_path, monkeypatch, restore, reason):
    data = sample_data()
    monkeypatch.setattr(data, "setup", None)
    with pytest.raises(WSSLError, match=rf"^restore=.*{reason}"):
        write_pairs(data, "test", tmp_path / "pairs", restore=restore)
    assert not (tmp_path / "pairs").exists()


def test_hole_known_part_and_whole_are_measured(pairs, damaged, tmp_path):
    method = Given(method="given")
    result = evaluate(damaged, method)
    assert result.table.metrics == ("psnr", "ssim", "l1", "psnr_hole", "l1_hole", "psnr_known", "l1_known")
    image, mask = (part.float() for part in damaged.read(damaged.pairs))
    given = damaged.read_inputs(damaged.pairs) / 255
    expected = psnr(torch.where(mask > 0.5, 0.0, given), image / 255)
    assert result.table.column("psnr").tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    parts = [[part[:, mask[i, 0] < 0.5] for part in (given[i], image[i] / 255)] for i in range(8)]
    known = [-10 * math.log10((ours - true).square().mean()) for ours, true in parts]
    assert result.table.column("psnr_known").tolist() == pytest.approx(known, abs=1e-3)
    assert evaluate(pairs, method).table.column("psnr_composite").max() > 0
    write_report(result, tmp_path / "out", damaged, method, torch.device("cpu"))
    again = read_result(tmp_path / "out")
    assert again.table.restored
    assert again.pairs.restore == ["saturation", "sharpness"]
    assert "Inputs damaged by saturation, sharpness" in facts(again)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Columns of the images: masked input, prediction, truth." in text
    assert "not pasted back" in text
    assert Image.open(tmp_path / "out" / "sample_1.png").size == (3 * 50 + 2, 52)


def test_another_programs_images_are_measured_as_they_are(damaged):
    names = [pair.name for pair in damaged.pairs]
    inputs = evaluate(damaged, Predictions(damaged.folder / "inputs", names, names)).table
    truth = evaluate(damaged, Predictions(damaged.folder / "images", names, names)).table
    assert (inputs.column("psnr_known") < 60).all()
    assert np.isinf(truth.column("psnr_known")).all()


def test_what_a_model_was_trained_for_is_said(pairs, damaged):
    def notes(pairs, **described):
        found = evaluate(pairs, Given(ckpt="x", **described), Settings(limit=1)).notes
        return [note for note in found if note.startswith("given was trained")]

    line = "given was trained to restore {}, the inputs are damaged by {}"
    assert notes(damaged) == [line.format("nothing", "saturation, sharpness")]
    assert notes(damaged, restore=["sharpness", "saturation"]) == notes(pairs) == []
    assert notes(pairs, restore=["jpeg"]) == [line.format("jpeg", "nothing")]


def test_results_of_damaged_and_whole_inputs_are_not_compared(pairs, damaged, tmp_path):
    for name, measured in (("pairs", pairs), ("damaged", damaged), ("mean", damaged)):
        evaluate(measured, Classical("mean") if name == "mean" else Given()).save(tmp_path / name)
    with pytest.raises(WSSLError, match="was measured on other pairs"):
        compare([tmp_path / "pairs", tmp_path / "damaged"])
    found = compare([tmp_path / "damaged", tmp_path / "mean"])
    assert found.ranked_by == "psnr"
    assert found.leaderboard[0].name == "mean"
    assert found.others[0].groups["all"]["psnr_known"].difference == pytest.approx(0.0, abs=1e-5)
