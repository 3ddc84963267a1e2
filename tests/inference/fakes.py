"""Predictors that need no network, images by formula, and files that would run code."""

import json
import pickle
from pathlib import Path

import numpy as np
import torch

from wssl_pl.models import ModelInfo


class Fake:
    """Calls a function in place of a network, and counts what it was shown."""

    device = "cpu"

    def __init__(self, draw, side=128, width=16):
        self.draw = draw
        self.info = ModelInfo("fake", {"width": width}, {"image_size": side})
        self.windows = []

    def __call__(self, images, masks):
        assert images.dtype == masks.dtype == np.float32
        assert not images[np.broadcast_to(masks > 0, images.shape)].any(), "the network was shown the hole"
        self.windows.append(images.shape)
        return self.draw(images, masks).astype(np.float32)

    @property
    def pixels(self):
        """Pixels that went through."""
        return sum(count * height * width for count, _, height, width in self.windows)


def constant(value):
    """A backend that draws one brightness."""
    return Fake(lambda images, masks: np.full_like(images, value))


def draw_plane(images, masks):
    """Fits a plane through the known pixels of each channel: exact where the picture is a plane."""
    count, channels, height, width = images.shape
    y, x = np.mgrid[:height, :width]
    features = np.stack([np.ones(y.size), y.ravel(), x.ravel()], axis=1)
    result = np.empty_like(images)
    for number in range(count):
        known = masks[number, 0].ravel() == 0
        for channel in range(channels):
            values = images[number, channel].ravel()[known]
            fitted = np.linalg.lstsq(features[known], values, rcond=None)[0]
            result[number, channel] = (features @ fitted).reshape(height, width)
    return result


def plane(height, width, channels=3, dtype=np.uint8):
    """A picture whose channels are planes, `(H, W, C)`."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y / max(1, height - 1), x / max(1, width - 1)
    planes = [0.2 + 0.5 * y + 0.2 * x, 0.8 - 0.3 * y - 0.3 * x, 0.5 + 0.3 * y - 0.3 * x][:channels]
    top = 1.0 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    picture = np.stack(planes, axis=-1) * top
    return picture.astype(dtype) if top == 1.0 else np.rint(picture).astype(dtype)


def square(height, width, top, left, side):
    """A hole, `(H, W)` bool."""
    hole = np.zeros((height, width), bool)
    hole[top : top + side, left : left + side] = True
    return hole


class Hostile:
    """Makes a file `was_run` when it is unpickled."""

    def __reduce__(self):
        return (Path("was_run").touch, ())


def hostile_files(folder):
    """Files of all kinds of models, each of which would run code if it was unpickled."""
    folder.mkdir()
    torch.save({"stage": "downstream", "state_dict": {}, "bad": Hostile()}, folder / "a.ckpt")
    (folder / "plain.ckpt").write_bytes(pickle.dumps(Hostile()))
    (folder / "b.safetensors").write_bytes(pickle.dumps(Hostile()))
    torch.save(Hostile(), folder / "c.safetensors")
    (folder / "d.onnx").write_bytes(pickle.dumps(Hostile()))
    exported = folder / "exported"
    exported.mkdir()
    (exported / "config.json").write_text(json.dumps({"stage": "downstream", "width": 4, "norm": "none"}))
    torch.save(Hostile(), exported / "model.safetensors")
    torch.save(Hostile(), exported / "pytorch_model.bin")
    only_pickle = folder / "only_pickle"
    only_pickle.mkdir()
    (only_pickle / "config.json").write_text(json.dumps({"stage": "downstream", "width": 4, "norm": "none"}))
    torch.save(Hostile(), only_pickle / "pytorch_model.bin")
    return sorted(path for path in folder.iterdir())


def tiny_onnx(path, half=0.5):
    """An ONNX file with our inputs and metadata that draws one brightness; no PyTorch is needed to make or run it."""
    import onnx
    from onnx import TensorProto, helper

    sizes = ["batch", 3, "height", "width"]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, sizes),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 1, "height", "width"]),
    ]
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [half])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    nodes = [
        helper.make_node("Mul", ["image", "zero"], ["black"]),
        helper.make_node("Add", ["black", "value"], ["output"]),
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, sizes)
    graph = helper.make_graph(nodes, "tiny", inputs, [output], [value, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    stored = {"hyper_parameters": json.dumps({"width": 16}), "training": json.dumps({"image_size": 128})}
    helper.set_model_props(model, stored)
    onnx.save(model, path)
    return path
