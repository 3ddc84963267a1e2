"""A trained model as one ONNX file, for images of any size."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import wssl_pl
from wssl_pl.errors import WSSLError
from wssl_pl.export.weights import metadata
from wssl_pl.files import replacing, writing
from wssl_pl.models import ModelInfo
from wssl_pl.models.info import Convention
from wssl_pl.models.onnx import open_onnx
from wssl_pl.modules.filling import FillingModule

MULTIPLE = 32  # of both sides, from which the networks' five poolings need no padding
OPSET = 20
TOLERANCE = 1e-3
# Sizes (batch, height, width) at which the file is compared with PyTorch: with padding, without, and the smallest.
COMPARED = ((2, 100, 70), (1, 128, 128), (3, MULTIPLE, 2 * MULTIPLE + 1))
VALUES = {
    "image": "float32 (batch, 3, height, width), RGB in [0, 1]; what is in the hole is not looked at",
    "mask": "float32 (batch, 1, height, width): 1 is hole, 0 is known",
    "output": "float32 (batch, 3, height, width), RGB in [0, 1], the whole image: known pixels are best taken from "
    "image, as mask * output + (1 - mask) * image",
    "sizes": f"any height and width from {MULTIPLE} on; sides that do not divide by {MULTIPLE} are padded inside",
}


def write_onnx(module: FillingModule, info: ModelInfo, path: Path) -> float:
    """Write a model as ONNX, compare it with PyTorch, and return the largest difference that was found.

    Args:
        module: the model.
        info: what the file says about it.
        path: the file; whole or not at all.

    Raises:
        WSSLError: a package is missing, or the file cannot be written.
        RuntimeError: the file computes something else than PyTorch.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401  (for the comparison)
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise WSSLError(None, None, f"an export to ONNX needs {error.name}", "pip install 'wssl-pl[onnx]'") from None
    module = module.cpu().eval()
    proto = _exported(module)
    # The exporter notes file names and lines of this machine at each node.
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.functions):
        del part.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
        value.doc_string = VALUES[value.name]
    proto.producer_name, proto.producer_version = "wssl-pl", wssl_pl.__version__
    facts = {
        "width": str(info.hyper_parameters.get("width")),
        "norm": str(info.hyper_parameters.get("norm")),
        "trained_at": f"{info.side} x {info.side} pixels",
    }
    onnx.helper.set_model_props(proto, metadata(info) | VALUES | facts)
    onnx.checker.check_model(proto, full_check=True)
    with writing("out", path), replacing(path) as file:
        file.write(proto.SerializeToString())
        file.flush()
        difference = compare(module, Path(file.name))
        if not difference < TOLERANCE:
            raise RuntimeError(f"the ONNX file differs from PyTorch by {difference:.2g}, more than {TOLERANCE}")
    return difference


def _exported(module: FillingModule) -> Any:
    """The ONNX model of torch's exporter, with batch, height and width left open."""
    # Open, with whatever range the networks need: a declared smallest size fails in torch's exporter with some blocks.
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    example = torch.rand(2, 3, 100, 70), (torch.rand(2, 1, 100, 70) > 0.5).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=["image", "mask"],
            output_names=["output"],
            dynamic_shapes=(axes, axes),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def compare(module: FillingModule, path: Path) -> float:
    """The largest difference between an ONNX file and PyTorch at three sizes."""
    predictor = open_onnx(path, "cpu", None, Convention())
    random = np.random.default_rng(0)
    largest = 0.0
    for batch, height, width in COMPARED:
        images = random.random((batch, 3, height, width), np.float32)
        masks = (random.random((batch, 1, height, width)) < 0.4).astype(np.float32)
        with torch.inference_mode():
            expected = module(torch.from_numpy(images), torch.from_numpy(masks)).numpy()
        largest = max(largest, float(np.abs(predictor(images, masks) - expected).max()))
    return largest
