"""A small network for the page, and a package in place of onnxruntime-web, which computes nothing."""

import json

import numpy as np
import onnx

from wssl_pl.export.web import PACKAGE, VERSION, WASM, WEBGPU
from wssl_pl.export.weights import metadata
from wssl_pl.models import ModelInfo


def write_network(path, ours=True, **training):
    """Write a network of two layers as `wssl export onnx` would: PyTorch's exporter takes half a minute for any.

    With `ours=False` it says nothing about itself, like another project's; else also what is given of its training.
    """
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    random = np.random.default_rng(0)
    shapes = {"image": ("b", 3, "h", "w"), "mask": ("b", 1, "h", "w"), "output": ("b", 3, "h", "w")}
    *inputs, output = [helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()]
    weights = {"first": random.normal(0, 0.2, (8, 4, 7, 7)), "second": random.normal(0, 0.4, (3, 8, 3, 3))}
    nodes = [
        helper.make_node("Concat", ["image", "mask"], ["joined"], axis=1),
        helper.make_node("Conv", ["joined", "first"], ["features"], pads=[3, 3, 3, 3]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("Conv", ["active", "second"], ["values"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["values"], ["output"]),
    ]
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "network", inputs, [output], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, metadata(ModelInfo("", {"width": 2}, {"image_size": 64} | training)) if ours else {})
    onnx.save(model, path)


def write_package(folder):
    """Write the files that a page takes from onnxruntime-web, with their names in them; return the folder."""
    (folder / "dist").mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps({"name": PACKAGE, "version": VERSION}))
    for name in WASM + WEBGPU:
        (folder / "dist" / name).write_text(name)
    return folder
