import numpy as np
import onnx
import pytest
from PIL import Image

from wssl_pl.cli import main
from wssl_pl.errors import WSSLError
from wssl_pl.export import int8 as module_under_test
from wssl_pl.export.int8 import COUNT, Comparison, sample
from wssl_pl.inference import Inpainter
from wssl_pl.models import open_model


@pytest.fixture
def few(monkeypatch):
    """Fewer images than in earnest."""
    monkeypatch.setattr(module_under_test, "COUNT", 4)
    monkeypatch.setattr(module_under_test, "TIMED", 64)


def operators(path):
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_int8_gives_nearly_what_float32_gives(model_files, onnx_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["export", "onnx", f"ckpt={model_files['safetensors']}", "out=int8.onnx", "precision=int8"])
    printed = capsys.readouterr().out
    assert "dB less in the holes of 2 images" in printed
    assert ", int8) from" in printed
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["int8.onnx"]
    assert "QuantizeLinear" in operators("int8.onnx")
    assert "QuantizeLinear" not in operators(onnx_file)
    int8, float32 = open_model("int8.onnx", "cpu"), open_model(onnx_file, "cpu")
    assert (int8.info.hyper_parameters, int8.info.side) == (float32.info.hyper_parameters, 64)
    images, masks = sample(None, 70)
    difference = np.abs(int8(images, masks) - float32(images, masks))
    assert 0 < difference.mean() < 0.01
    picture, hole = np.full((90, 80, 3), 120, np.uint8), np.zeros((90, 80), bool)
    hole[30:50, 20:60] = True
    filled = Inpainter.from_checkpoint("int8.onnx", "cpu")(picture, hole)
    assert np.array_equal(filled[~hole], picture[~hole])


@pytest.mark.slow
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("longest", "kept"), [(1e9, "int8"), (0.0, "float32")])
def test_auto_keeps_what_pays(model_files, tmp_path, monkeypatch, capsys, longest, kept):
    monkeypatch.setattr(module_under_test, "MAX_TIME", longest)
    monkeypatch.setattr(module_under_test, "MAX_LOSS", 1e9)
    out = tmp_path / "model.onnx"
    main(["export", "onnx", f"ckpt={model_files['safetensors']}", f"out={out}", "precision=auto"])
    assert ("QuantizeLinear" in operators(out)) == (kept == "int8")
    assert f", {kept}) from" in capsys.readouterr().out


@pytest.mark.parametrize(("loss", "time", "pays"), [
    (0.04, 0.6, True), (-0.1, 0.6, True), (0.06, 0.6, False), (0.04, 0.95, False), (float("nan"), 0.6, False),
])  # fmt: skip
def test_it_pays_where_it_is_faster_and_as_good(loss, time, pays):
    assert Comparison(loss, time, 24).pays == pays


def test_a_folder_is_sampled_evenly(tmp_path):
    for number in range(3 * COUNT):
        Image.new("RGB", (40, 50), (number, 0, 0)).save(tmp_path / f"{number}.png")
    images, masks = sample(tmp_path, 32)
    assert images.shape == (COUNT, 3, 32, 32)
    assert masks.shape == (COUNT, 1, 32, 32)
    reds = (images[:, 0, 0, 0] * 255).round().astype(int)
    assert sorted(reds) == sorted(set(reds))
    for half in (reds[: COUNT // 2], reds[COUNT // 2 :]):
        assert half.min() < 6
        assert half.max() > 3 * COUNT - 7
    assert set(np.unique(masks)) == {0.0, 1.0}


def test_images_that_cannot_be_used(model_files, tmp_path, capsys):
    Image.new("RGB", (40, 50)).save(tmp_path / "one.png")
    with pytest.raises(WSSLError, match="has 1 images; 2 are needed"):
        sample(tmp_path, 32)
    out = tmp_path / "model.onnx"
    for words, message in (
        ([f"images={tmp_path}"], "is of no use with precision=float32"),
        (["precision=int8", f"images={tmp_path / 'none'}"], "none"),
        (["precision=int4"], "int4"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["export", "onnx", f"ckpt={model_files['safetensors']}", f"out={out}", *words])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    assert not out.exists()
