"""Any model file can be measured: the shipped model, and ONNX files of this and of other projects."""

import pytest
import torch

from tests.inference.fakes import tiny_onnx
from tests.models.test_foreign_onnx import lama, migan
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.evaluate import Settings, evaluate
from wssl_pl.evaluation.methods import Model

CPU = torch.device("cpu")


def test_the_shipped_model_is_measured_without_a_file(pairs):
    method = Model(None, CPU)
    assert method.name == "the shipped model wssl-w16.safetensors"
    assert method.describe()["width"] == 16
    assert evaluate(pairs, method, Settings(limit=2)).means["psnr_composite"] > 15


@pytest.mark.parametrize("write", [tiny_onnx, lama, migan])
def test_onnx_files_are_measured(pairs, tmp_path, write):
    method = Model(write(tmp_path / "model.onnx"), CPU)
    result = evaluate(pairs, method, Settings(limit=3, batch_size=2))
    if write is not tiny_onnx:
        # These give known pixels back, up to 8 bits.
        assert result.means["psnr"] == pytest.approx(result.means["psnr_composite"], abs=0.1)
    assert "width" not in method.describe() or write is tiny_onnx


def test_a_model_that_onnxruntime_runs_has_its_own_precision(tmp_path):
    with pytest.raises(WSSLError, match="precision=bf16-mixed: an ONNX model computes in its own"):
        Model(tiny_onnx(tmp_path / "model.onnx"), CPU, "bf16-mixed")
