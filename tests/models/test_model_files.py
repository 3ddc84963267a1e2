import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.inference.fakes import hostile_files, square, tiny_onnx
from wssl_pl.errors import WSSLError
from wssl_pl.export.weights import write_folder, write_safetensors
from wssl_pl.inference import Inpainter
from wssl_pl.models import SHIPPED_LICENSE, ModelInfo, open_model
from wssl_pl.models.weights import read_info, read_weights
from wssl_pl.modules.checkpoint import read_safetensors


@pytest.mark.parametrize("kind", ["ckpt", "safetensors", "folder"])
def test_every_kind_of_file_gives_the_same_model(model_files, tiny_module, kind):
    inpainter = Inpainter.from_checkpoint(str(model_files[kind]), device="cpu")
    for key, value in tiny_module.state_dict().items():
        assert torch.equal(inpainter.predictor.module.state_dict()[key], value)
    assert inpainter.info.side == 64
    assert inpainter.info.width == 2
    assert inpainter.info.training["hole_ratio"] == [0.3, 0.5]
    # JSON, in which the other two kinds keep the settings, has lists in place of tuples.
    expected, found = dict(tiny_module.hparams), inpainter.info.hyper_parameters
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert "images" not in inpainter.info.training
    assert inpainter.device == "cpu"
    assert not inpainter.predictor.module.training


def test_half_precision_takes_half_the_space_and_computes_in_float32(model_files, tmp_path):
    state, info = read_weights(model_files["ckpt"])
    write_safetensors(state, info, tmp_path / "half.safetensors", half=True)
    size = model_files["safetensors"].stat().st_size
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * size
    half = Inpainter.from_checkpoint(tmp_path / "half.safetensors", "cpu")
    assert {value.dtype for value in half.predictor.module.state_dict().values()} == {torch.float32}
    picture, hole = np.full((50, 50, 3), 100, np.uint8), square(50, 50, 10, 10, 20)
    whole = Inpainter.from_checkpoint(model_files["ckpt"], "cpu")(picture, hole)
    assert np.abs(half(picture, hole).astype(int) - whole).max() <= 1


@pytest.mark.parametrize(("cost", "precision"), [(0.5, "bf16-mixed"), (1.4, "32-true")])
def test_automatic_precision_is_bfloat16_where_it_is_faster(model_files, monkeypatch, cost, precision):
    monkeypatch.setattr("wssl_pl.devices.cpu_has_bf16", lambda: True)
    monkeypatch.setattr("wssl_pl.devices.bf16_cost", lambda: cost)
    picture, hole = np.full((50, 50, 3), 100, np.uint8), square(50, 50, 10, 10, 20)
    exact = Inpainter.from_checkpoint(model_files["ckpt"], "cpu")
    found = Inpainter.from_checkpoint(model_files["ckpt"], "cpu", precision="auto")
    assert (exact.precision, found.precision) == ("32-true", precision)
    images, masks = np.random.default_rng(0).random((1, 3, 64, 64), np.float32), np.zeros((1, 1, 64, 64), np.float32)
    difference = np.abs(found.predictor(images, masks) - exact.predictor(images, masks)).max()
    assert (difference > 0) == (precision == "bf16-mixed")
    assert difference < 0.03  # random weights; 8 bits of mantissa
    assert np.array_equal(found(picture, hole)[~hole], picture[~hole])


def test_an_unknown_precision_is_refused():
    with pytest.raises(WSSLError, match="precision=8: is not one of auto, 32-true, bf16-mixed, 16-mixed"):
        open_model(precision="8")


def test_the_shipped_model_is_used_and_named_where_no_other_is_given(model_files, tmp_path, monkeypatch):
    monkeypatch.setattr("wssl_pl.models.info.SHIPPED", tmp_path / "wssl-w16.safetensors")
    with pytest.raises(WSSLError, match="no model is shipped"):
        Inpainter.from_checkpoint()
    shutil.copy(model_files["safetensors"], tmp_path / "wssl-w16.safetensors")
    assert Inpainter.from_checkpoint().info.name == "the shipped model wssl-w16.safetensors"


@pytest.mark.parametrize("name", ["folder/../wssl-w16.safetensors", "folder/copy.safetensors", "link.safetensors"])
def test_the_shipped_weights_keep_their_licence_by_any_path(model_files, tmp_path, monkeypatch, name):
    shipped = tmp_path / "wssl-w16.safetensors"
    shutil.copy(model_files["safetensors"], shipped)
    monkeypatch.setattr("wssl_pl.models.info.SHIPPED", shipped)
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    shutil.copy(shipped, "folder/copy.safetensors")
    Path("link.safetensors").symlink_to(shipped)
    assert read_info(Path(name)).training["license"] == SHIPPED_LICENSE
    other = bytearray(shipped.read_bytes())
    other[-1] ^= 1
    Path("other.safetensors").write_bytes(other)
    assert "license" not in read_info(Path("other.safetensors")).training


def test_settings_that_a_later_version_adds_are_passed_on(model_files, tmp_path):
    state, info = read_weights(model_files["ckpt"])
    later = ModelInfo("", info.hyper_parameters | {"from_the_future": 1}, info.training)
    write_safetensors(state, later, tmp_path / "later.safetensors")
    with pytest.raises(WSSLError, match="from_the_future"):
        Inpainter.from_checkpoint(tmp_path / "later.safetensors", "cpu")


def test_nothing_of_a_hostile_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = hostile_files(tmp_path / "hostile")
    assert len(files) == 7
    for path in files:
        with pytest.raises(WSSLError) as refused:
            Inpainter.from_checkpoint(path, "cpu")
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not Path("was_run").exists()


def test_settings_that_ask_for_all_memory_are_refused_before_it_is_taken(model_files, tmp_path):
    state, info = read_weights(model_files["ckpt"])
    vast = ModelInfo("", info.hyper_parameters | {"width": 100_000}, info.training)
    write_safetensors(state, vast, tmp_path / "vast.safetensors")
    with pytest.raises(WSSLError, match="other shapes"):
        Inpainter.from_checkpoint(tmp_path / "vast.safetensors", "cpu")


@pytest.mark.parametrize("width", ["16", -3, None, [1]])
def test_settings_that_make_no_network_are_refused(model_files, tmp_path, width):
    state, info = read_weights(model_files["ckpt"])
    write_safetensors(state, ModelInfo("", info.hyper_parameters | {"width": width}), tmp_path / "bad.safetensors")
    with pytest.raises(WSSLError):
        Inpainter.from_checkpoint(tmp_path / "bad.safetensors", "cpu")


def test_files_that_are_no_models_of_ours(model_files, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.onnx").write_text("no protobuf")
    (tmp_path / "empty.safetensors").touch()
    whole = model_files["safetensors"].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    torch.save({"stage": "pretext", "state_dict": {}, "hyper_parameters": {}}, tmp_path / "pretext.ckpt")
    torch.save({"stage": "downstream", "state_dict": {"a": 1}}, tmp_path / "odd.ckpt")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "other.safetensors": "does not say its network",
        "text.onnx": "is not an ONNX model",
        "empty.safetensors": "not a safetensors file",
        "cut.safetensors": "cut short",
        "pretext.ckpt": "is a pretext checkpoint",
        "odd.ckpt": "its state_dict holds more than tensors",
        "folder": "without model.safetensors",
        "nowhere.ckpt": "does not exist",
    }.items():
        with pytest.raises(WSSLError) as refused:
            Inpainter.from_checkpoint(tmp_path / name, "cpu")
        assert message in str(refused.value)


@pytest.mark.parametrize("kind", ["ckpt", "safetensors", "folder"])
def test_weights_that_are_not_finite_are_refused(model_files, tmp_path, kind):
    state, info = read_weights(model_files["ckpt"])
    key = next(iter(state))
    state = state | {key: torch.full_like(state[key], torch.nan)}
    path = tmp_path / f"diverged.{kind}"
    if kind == "ckpt":
        torch.save(torch.load(model_files["ckpt"], weights_only=True) | {"state_dict": state}, path)
    elif kind == "folder":
        path.mkdir()
        write_folder(state, info, path)
    else:
        write_safetensors(state, info, path)
    with pytest.raises(WSSLError, match=rf"^ckpt={path}: its weights {key} are not finite numbers"):
        open_model(path)


def test_outputs_that_are_no_image_or_not_finite(model_files):
    predictor = open_model(model_files["safetensors"], "cpu")
    images, masks = np.zeros((1, 3, 32, 32), np.float32), np.zeros((1, 1, 32, 32), np.float32)
    for output, message in (
        (torch.zeros(1, 4, 32, 32), "not an image"),
        (torch.full((1, 3, 32, 32), torch.nan), "finite"),
    ):
        predictor.module = lambda *_, output=output: output
        with pytest.raises(WSSLError, match=message):
            predictor(images, masks)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hyper_parameters": [1]}, "its hyper_parameters is of another kind"),
        ({"hyper_parameters": {1: 2}}, "its hyper_parameters is of another kind"),
        ({"hyper_parameters": {"width": [[1]]}}, "make no network here"),
        ({"datamodule_hyper_parameters": 1}, "its datamodule_hyper_parameters is of another kind"),
        ({"state_dict": [1]}, "its state_dict is of another kind"),
        ({"epoch": "last"}, "its epoch is of another kind"),
        ({"callbacks": [1], "format": 2}, "its callbacks is of another kind"),
        ({"stage": ["downstream"]}, "it has no stage"),
    ],
)
def test_forged_checkpoints(model_files, tmp_path, values, message):
    path = tmp_path / "forged.ckpt"
    torch.save(torch.load(model_files["ckpt"], weights_only=True) | values, path)
    with pytest.raises(WSSLError, match=message):
        open_model(path)


def test_deeply_nested_settings(model_files, tmp_path):
    nested = "[" * 100_000 + "]" * 100_000
    state, _ = read_weights(model_files["ckpt"])
    metadata = {"stage": "downstream", "training": "{}", "hyper_parameters": nested}
    state = {key: torch.zeros(value.shape) for key, value in state.items()}
    save_file(state, tmp_path / "nested.safetensors", metadata)
    shutil.copytree(model_files["folder"], tmp_path / "nested")
    (tmp_path / "nested" / "config.json").write_text(nested)
    for name in ("nested.safetensors", "nested"):
        with pytest.raises(WSSLError, match=r"does not say its network|cannot be read"):
            open_model(tmp_path / name)


@pytest.mark.parametrize("kind", ["ckpt", "safetensors", "folder", "onnx"])
def test_an_unreadable_file_is_called_unreadable(model_files, tmp_path, kind, permissions_count):
    path = tmp_path / f"model.{kind}"
    if kind == "folder":
        shutil.copytree(model_files["folder"], path)
    else:
        shutil.copy(model_files["safetensors" if kind == "onnx" else kind], path)
    path.chmod(0)
    with pytest.raises(WSSLError, match=rf"^ckpt={path}: cannot be read: Permission denied"):
        open_model(path)
    path.chmod(0o700)
    tmp_path.chmod(0)
    with pytest.raises(WSSLError, match=r": cannot be read: Permission denied$"):
        open_model(path)
    tmp_path.chmod(0o700)


def test_a_folder_whose_configuration_is_damaged(model_files, tmp_path):
    folder = shutil.copytree(model_files["folder"], tmp_path / "exported")
    for text in ("{", "[]", json.dumps({"stage": "pretext"})):
        (folder / "config.json").write_text(text)
        with pytest.raises(WSSLError, match=r"config\.json"):
            Inpainter.from_checkpoint(folder, "cpu")


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda", "no CUDA device"), ("cuda:7", "CUDA device"), ("gpu", "no CUDA device"), ("mps", "no MPS device"),
     ("tpu", "not one of auto"), ("cpu:1", "not one of auto"), ("cuda:x", "not one of auto")],
)  # fmt: skip
def test_a_device_that_is_not_there(model_files, tmp_path, device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(WSSLError, match=message):
        Inpainter.from_checkpoint(model_files["safetensors"], device)
    with pytest.raises(WSSLError, match="MPS|mps" if device == "mps" else "no CUDA provider|not one of auto"):
        Inpainter.from_checkpoint(tiny_onnx(tmp_path / "tiny.onnx"), device)


def test_threads_out_of_range(model_files):
    with pytest.raises(WSSLError, match="threads=0"):
        Inpainter.from_checkpoint(model_files["safetensors"], threads=0)


def test_an_interrupted_write_leaves_nothing(model_files, tmp_path, monkeypatch):
    state, info = read_weights(model_files["ckpt"])
    target = tmp_path / "model.safetensors"
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_safetensors(state, info, target)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert target.read_text() == "old"


def test_safetensors_tell_their_network_in_their_metadata(model_files):
    _, metadata = read_safetensors(model_files["safetensors"])
    assert json.loads(metadata["hyper_parameters"])["width"] == 2
    assert json.loads(metadata["hyper_parameters"])["norm"] == "none"
    assert json.loads(metadata["hyper_parameters"])["loss"] == "wssl"
    assert json.loads(metadata["training"])["image_size"] == 64


NO_TORCH = """
import sys
import numpy as np
from wssl_pl.cli import main
from wssl_pl.inference import Inpainter

picture, mask = np.full((300, 200, 3), 128, np.uint8), np.zeros((300, 200), bool)
mask[10:250, 20:180] = True
picture[mask] = 0
filled = Inpainter.from_checkpoint("tiny.onnx")(picture, mask)
assert abs(int(filled[12, 30, 0]) - 128) <= 1, filled[12, 30]
main(["inpaint", "photo.png", "mask.png", "-o", "filled.png", "ckpt=tiny.onnx"])
main(["inpaint", "photos", "mask.png", "-o", "filled", "ckpt=tiny.onnx"])
assert "torch" not in sys.modules
for number, model in enumerate(sys.argv[1:]):
    main(["inpaint", "photo.png", "mask.png", "-o", f"{number}.png", f"ckpt={model}"])
# Each of these takes seconds to import.
assert not {"lightning", "kornia", "torch._dynamo", "matplotlib"} & set(sys.modules)
print("done without")
"""


def test_an_onnx_file_needs_no_pytorch_and_no_model_file_lightning(tmp_path, model_files):
    from PIL import Image

    tiny_onnx(tmp_path / "tiny.onnx")
    (tmp_path / "photos").mkdir()
    for name in ("photo.png", "photos/a.png"):
        Image.new("RGB", (60, 50)).save(tmp_path / name)
    Image.fromarray(square(50, 60, 5, 5, 9)).save(tmp_path / "mask.png")
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, *map(str, model_files.values())], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "done without" in done.stdout
