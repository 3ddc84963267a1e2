"""The small untrained model of the inpainting tests, and its ONNX file."""

import pytest

from tests.inference.conftest import model_files, tiny_module  # noqa: F401  (fixtures)
from wssl_pl.cli import main


@pytest.fixture(scope="session")
def onnx_file(model_files, tmp_path_factory):  # noqa: F811
    """Written once, by the command: the exporter takes seconds."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    main(["export", "onnx", f"ckpt={model_files['safetensors']}", "-o", str(path)])
    return path
