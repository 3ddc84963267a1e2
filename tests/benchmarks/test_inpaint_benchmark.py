import json

import inpaint
import numpy as np
import pytest

from tests.inference.fakes import tiny_onnx
from wssl_pl.data import WSSLDataModule
from wssl_pl.evaluation.pairs import write_pairs
from wssl_pl.inference import Inpainter


def test_the_masks_are_as_large_as_they_are_said_to_be():
    for holes in (1, 20):
        for shape in ((1000, 1000), (3000, 4000)):
            mask = inpaint.scattered(shape, 120_000, holes)
            assert mask.sum() == pytest.approx(120_000, rel=0.02)
    assert 0.2 <= inpaint.strokes(512, 1).mean() <= 0.5
    assert inpaint.photo(30, 40).shape == (30, 40, 3)
    assert inpaint.photo(30, 40).std() > 5


def test_ratios_are_taken_within_rounds():
    assert inpaint.ratio([2.0, 40.0, 6.0], [1.0, 10.0, 3.0]) == 2.0
    calls = []
    taken = inpaint.in_turn(2, lambda: calls.append("a"), lambda: calls.append("b"))
    assert calls == ["a", "b"] * 3
    assert [len(times) for times in taken] == [2, 2]


def test_the_peak_memory_is_that_of_the_whole_command(tmp_path):
    small = inpaint.peak_memory(tmp_path, tiny_onnx(tmp_path / "model.onnx"), 0.2)
    assert not small["PyTorch was imported"]
    assert 0.03 < small["GB"] < 1
    assert small["megapixels"] == pytest.approx(0.2, rel=0.02)


def test_the_memory_of_large_photos_is_bounded(tmp_path):
    """Pixels and masks, not activations, make the difference: 8 bytes for each, and the tiles, whose size is fixed."""
    model = tiny_onnx(tmp_path / "model.onnx")
    gigabytes = [inpaint.peak_memory(tmp_path, model, megapixels)["GB"] for megapixels in (0.5, 4)]
    assert gigabytes[1] - gigabytes[0] < 3.5e6 * 14 / 1e9


def test_a_folder_is_timed(tmp_path):
    found = inpaint.folder_mode(tmp_path, tiny_onnx(tmp_path / "model.onnx"), 2)
    assert found["photos"] == 2
    assert 0 < found["busy"] <= 1.2
    assert len(list((tmp_path / "filled").iterdir())) == 2


def test_the_table_beside_the_classical_methods(tmp_path):
    data = WSSLDataModule("synthetic", "synthetic", image_size=48, resize=55, limit=4, hole_ratio=(0.1, 0.5))
    write_pairs(data, "test", tmp_path / "pairs")
    grey = Inpainter.from_checkpoint(tiny_onnx(tmp_path / "model.onnx"))
    found = inpaint.beside_classical(tmp_path / "pairs", {"grey": grey}, 3)
    assert found["count"] == 3
    assert set(found["methods"]) == {"grey", "telea", "biharmonic"}
    figures = [row["PSNR"] for row in found["methods"].values()]
    assert all(5 < figure < 60 for figure in figures)
    assert all(np.isfinite(row["seconds"]) for row in found["methods"].values())


@pytest.mark.slow
def test_the_whole_program(tmp_path, monkeypatch, capsys):
    words = [
        "inpaint.py", "--width=2", "--rounds=1", "--megapixels=0.3", "--memory-width=2", "--photos=2",
        "--name=trial", f"--results={tmp_path}",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    # The exporter takes seconds, and has tests of its own.
    monkeypatch.setattr(inpaint, "as_onnx", lambda model, path: tiny_onnx(path))
    monkeypatch.setattr(inpaint, "as_int8", lambda model, path: tiny_onnx(path))
    monkeypatch.setattr(inpaint, "SIDES", (64,))
    monkeypatch.setattr(inpaint, "large_photo", lambda *_: {"one": {"12 MP s": 2, "1 MP s": 1, "ratio": 2}})
    inpaint.main()
    result = json.loads((tmp_path / "trial.json").read_text())
    assert set(result["against the bars"]) == set(inpaint.BARS)
    assert result["small"]["seconds"]["ONNX"]["median"] > 0
    assert [row["hole"] for row in result["by size"]] == list(inpaint.HOLES)
    assert not result["memory"]["ONNX"]["PyTorch was imported"]
    assert result["memory"]["PyTorch"]["PyTorch was imported"]
    text = (tmp_path / "trial.md").read_text()
    for name in inpaint.BARS:
        assert f"| {name} |" in text
