import json
import os
import sys
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.inference.fakes import plane
from wssl_pl.cli import main
from wssl_pl.errors import WSSLError
from wssl_pl.export import onnx_file as module_under_test
from wssl_pl.export.onnx_file import write_onnx
from wssl_pl.files import owned
from wssl_pl.inference import Inpainter
from wssl_pl.models import ModelInfo
from wssl_pl.models.weights import read_module
from wssl_pl.modules import InpaintModule
from wssl_pl.networks import make_contexts

slow = pytest.mark.slow


@slow
@pytest.mark.parametrize("size", [(1, 64, 96), (3, 33, 47), (2, 200, 150)])
def test_onnxruntime_gives_what_pytorch_gives(onnx_file, tiny_module, size):
    batch, height, width = size
    rng = np.random.default_rng(1)
    images = rng.random((batch, 3, height, width), np.float32)
    masks = (rng.random((batch, 1, height, width)) < 0.4).astype(np.float32)
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    (output,) = session.run(["output"], {"image": images, "mask": masks})
    with torch.no_grad():
        expected = tiny_module(torch.from_numpy(images), torch.from_numpy(masks)).numpy()
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() < 1e-5
    # What lies in the hole is not looked at.
    (other,) = session.run(["output"], {"image": np.where(masks > 0, 0.7, images).astype(np.float32), "mask": masks})
    assert np.array_equal(other, output)


@slow
@pytest.mark.parametrize("size", [(1, 2), (20, 31), (60, 50), (150, 200)])
def test_the_inpainter_gives_the_same_with_both(onnx_file, model_files, size):
    picture, hole = plane(*size), np.zeros(size, bool)
    hole[size[0] // 3 : size[0] // 3 + 30, size[1] // 2 : size[1] // 2 + 40] = True
    filled = [Inpainter.from_checkpoint(path, "cpu")(picture, hole) for path in (onnx_file, model_files["ckpt"])]
    assert np.abs(filled[0].astype(int) - filled[1]).max() <= 1
    assert np.array_equal(filled[0][~hole], picture[~hole])


@slow
def test_the_file_tells_what_it_takes(onnx_file):
    model = onnx.load(onnx_file)
    stored = {prop.key: prop.value for prop in model.metadata_props}
    assert "RGB in [0, 1]" in stored["image"]
    assert "1 is hole" in stored["mask"]
    assert "RGB in [0, 1]" in stored["output"]
    assert (stored["width"], stored["trained_at"]) == ("2", "64 x 64 pixels")
    assert json.loads(stored["hyper_parameters"])["width"] == 2
    assert "32" in stored["sizes"]
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "image": ["batch", 3, "height", "width"],
        "mask": ["batch", 1, "height", "width"],
        "output": ["batch", 3, "height", "width"],
    }


@slow
def test_the_file_tells_nothing_of_the_machine(onnx_file):
    content = onnx_file.read_bytes()
    for word in (b".py", b"site-packages", b"/home", b"/some/where", b"stack_trace"):
        assert word not in content


@slow
def test_a_network_with_normalisation(tmp_path):
    torch.manual_seed(0)
    module = InpaintModule(width=2, norm="instance").eval()
    assert write_onnx(module, ModelInfo("", dict(module.hparams)), tmp_path / "model.onnx") < 1e-3


def test_a_file_that_computes_something_else_is_not_left_behind(model_files, tmp_path, monkeypatch):
    proto = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    monkeypatch.setattr(module_under_test, "_exported", lambda module: proto)
    monkeypatch.setattr(module_under_test, "compare", lambda module, path: 0.01)
    module, info = read_module(model_files["ckpt"])
    with pytest.raises(RuntimeError, match=r"differs from PyTorch by 0\.01"):
        write_onnx(module, info, tmp_path / "model.onnx")
    monkeypatch.setattr(module_under_test, "compare", lambda module, path: float("nan"))
    with pytest.raises(RuntimeError, match="differs"):
        write_onnx(module, info, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_and_a_second_export(model_files, tmp_path, monkeypatch, capsys):
    proto = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    monkeypatch.setattr(module_under_test, "_exported", lambda module: proto)
    monkeypatch.setattr(module_under_test, "compare", lambda module, path: 0.0)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    for what, name in (("onnx", "x.onnx"), ("safetensors", "x.safetensors"), ("safetensors", "folder")):
        out = tmp_path / name
        words = ["export", what, f"ckpt={model_files['ckpt']}", f"out={out}"]
        with pytest.raises(SystemExit), owned(out, folder=name == "folder"):
            main(words)
        assert f"error: out={out}: is being written by another process" in capsys.readouterr().err
        with patch.object(os, "fsync", full), pytest.raises(SystemExit):
            main(words)
        message = f"error: out={out}: cannot be written: No space left on device: make room\n"
        assert capsys.readouterr().err == message
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(model_files, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    module, info = read_module(model_files["ckpt"])
    with pytest.raises(WSSLError, match=rf"needs {package}: pip install 'wssl-pl\[onnx\]'"):
        write_onnx(module, info, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "unknown command 'export'"),
        (["tflite"], "unknown command 'export tflite'"),
        (["onnx"], "out: is required"),
        (["onnx", "out=model.pt"], "does not end in .onnx"),
        (["onnx", "out=there.onnx", "ckpt=model.ckpt"], "there.onnx: exists already"),
        (["onnx", "out=no/where.onnx", "ckpt=model.ckpt"], "the folder no does not exist"),
        (["onnx", "out=new.onnx", "ckpt=there.onnx"], "is an ONNX file already"),
        (["onnx", "out=new.onnx", "ckpt=no.ckpt"], "ckpt=no.ckpt: does not exist"),
        (["onnx", "out=new.onnx", "ckpt=text.ckpt"], "is not a checkpoint"),
        (["onnx", "out=new.onnx", "width=3"], "unknown option"),
        (["safetensors"], "out: is required"),
        (["safetensors", "out=there.onnx", "ckpt=model.ckpt"], "is a file: name a folder"),
        (["safetensors", "out=there", "ckpt=model.ckpt"], "config.json exists already"),
        (["safetensors", "out=new", "ckpt=model.ckpt", "figures=there"], "is not a finished result"),
        (["safetensors", "out=model.ckpt", "ckpt=model.ckpt"], "is the model itself"),
        (["onnx", "out=new.onnx", "ckpt=model.ckpt", "data.resize=36"], "unknown option 'data.resize'"),
        (
            ["onnx", "out=read-only/x.onnx", "ckpt=no.ckpt"],
            "x.onnx: cannot be written: Permission denied",
        ),
        (["safetensors", "out=read-only/new", "ckpt=model.ckpt"], "cannot be written: Permission denied"),
        (["safetensors", "out=closed/new", "ckpt=model.ckpt"], "out=closed/new: cannot be written: Permission denied"),
        (["onnx", "out=closed/x.onnx", "ckpt=model.ckpt"], "out=closed/x.onnx: cannot be written: Permission denied"),
        (["safetensors", "out=read-only/x.safetensors", "ckpt=model.ckpt"], "cannot be written: Permission denied"),
    ],
)
def test_one_line_and_exit_code_2(model_files, tmp_path, monkeypatch, capsys, read_only, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.ckpt").write_bytes(model_files["ckpt"].read_bytes())
    (tmp_path / "there").mkdir()
    for name in ("there.onnx", "text.ckpt", "there/config.json"):
        (tmp_path / name).write_text("old")
    (tmp_path / "closed").mkdir(mode=0)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["export", *words])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.onnx").read_text() == "old"


@slow
def test_smooth_fill_and_context_blocks_compute_in_onnx_what_they_do_in_pytorch(tmp_path):
    inputs = {"fill": "smooth", "mask_channel": True, "output": "change"}
    module = InpaintModule(width=2, block="gated", context="fourier", context_levels=3, **inputs)
    others = [
        make_contexts(name, module.encoder.out_channels, 3)[level] for level, name in ((1, "dilated"), (2, "attention"))
    ]
    module.contexts = torch.nn.ModuleList([module.contexts[0], *others])
    for block in (*module.contexts, module.decoder):
        torch.nn.init.normal_(block.project.weight, std=0.3)
    # It compares at three sizes, and refuses a difference of 1e-3.
    assert write_onnx(module, ModelInfo("m"), tmp_path / "m.onnx") < 1e-4


@slow
@pytest.mark.parametrize("context", ["dilated", "attention"])
def test_a_context_block_alone_is_exported_at_any_size(tmp_path, context):
    """Beside a Fourier block, which limits the sizes itself, torch's exporter takes what it refuses alone."""
    module = InpaintModule(width=2, context=context)
    torch.nn.init.normal_(module.contexts[0].project.weight, std=0.3)
    assert write_onnx(module, ModelInfo("m"), tmp_path / "m.onnx") < 1e-4
