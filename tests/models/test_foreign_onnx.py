"""ONNX files of other projects: LaMa's and MI-GAN's conventions, by small files that fill with one brightness."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.inference.fakes import plane, square, tiny_onnx
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter
from wssl_pl.models import onnx as module
from wssl_pl.models import open_model

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


def save(path, nodes, inputs, output, constants):
    """Write a graph whose inputs and output are (name, type, shape) and whose constants are arrays by name."""
    values = [helper.make_tensor_value_info(*each) for each in inputs]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", values, [helper.make_tensor_value_info(*output)], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def lama(path, value=0.25, scale=255.0, size=64, mask="mask"):
    """`image` (1, 3, S, S) in [0, 1], `mask` 1 = hole: the image with `value` in the hole, times `scale`."""
    nodes = [
        helper.make_node("Sub", ["one", mask], ["known"]),
        helper.make_node("Mul", ["image", "known"], ["kept"]),
        helper.make_node("Mul", [mask, "value"], ["filled"]),
        helper.make_node("Add", ["kept", "filled"], ["sum"]),
        helper.make_node("Mul", ["sum", "scale"], ["output"]),
    ]
    constants = {"one": np.float32(1), "value": np.float32(value), "scale": np.float32(scale)}
    inputs = [("image", FLOAT, [1, 3, size, size]), (mask, FLOAT, [1, 1, size, size])]
    return save(path, nodes, inputs, ("output", FLOAT, [1, 3, size, size]), constants)


def migan(path, value=50):
    """`image` and `mask` uint8 of any size, mask 255 = known: the image with `value` in the hole, uint8."""
    nodes = [
        helper.make_node("Greater", ["mask", "half"], ["known"]),
        helper.make_node("Where", ["known", "image", "value"], ["result"]),
    ]
    inputs = [("image", UINT8, ["batch", 3, "height", "width"]), ("mask", UINT8, ["batch", 1, "height", "width"])]
    constants = {"half": np.uint8(127), "value": np.uint8(value)}
    return save(path, nodes, inputs, ("result", UINT8, ["batch", 3, "height", "width"]), constants)


def generator(path, known_first=True):
    """One input of 4 channels: MI-GAN's (known - 0.5, image in [-1, 1]), or LaMa's (image in [0, 1], hole)."""
    first, last = ([0, 1], [1, 4]) if known_first else ([3, 4], [0, 3])
    nodes = [
        helper.make_node("Slice", ["input", "a", "b", "axis"], ["marker"]),
        helper.make_node("Slice", ["input", "c", "d", "axis"], ["seen"]),
        # The hole gets the value of the marker there: -0.5 in [-1, 1], or 1.
        helper.make_node("Abs", ["marker"], ["size"]),
        helper.make_node("Greater" if known_first else "Less", ["marker", "half"], ["known"]),
        helper.make_node("Where", ["known", "seen", "marker"], ["output"]),
    ]
    numbers = {name: np.array([number], np.int64) for name, number in zip("abcd", [*first, *last], strict=True)}
    constants = numbers | {"axis": np.array([1], np.int64), "half": np.float32(0 if known_first else 0.5)}
    return save(path, nodes, [("input", FLOAT, [1, 4, 64, 64])], ("output", FLOAT, [1, 3, 64, 64]), constants)


def filled(path, shape=(64, 64), **convention):
    """Return the prediction of a file, from `open_model`, for a plane with a hole, and both."""
    image = (plane(*shape) / np.float32(255)).transpose(2, 0, 1)[None]
    mask = square(*shape, shape[0] // 3, shape[1] // 3, 12)[None, None].astype(np.float32)
    output = open_model(path, "cpu", **convention)((image * (1 - mask)).astype(np.float32), mask)
    assert output.dtype == np.float32
    assert output.shape == image.shape
    return output, image, mask > 0


@pytest.mark.parametrize(
    ("write", "convention", "value"),
    [
        (lama, {}, 0.25),
        (lambda path: lama(path, scale=1.0), {}, 0.25),
        (lambda path: lama(path, mask="input_1"), {}, 0.25),
        (lambda path: lama(path, value=191.25, scale=1.0), {"range": "0-255"}, 0.75),
        (lambda path: lama(path, value=0.5, scale=1.0), {"range": "-1-1"}, 0.75),
        (migan, {}, 50 / 255),
        (generator, {}, 0.25),
        (lambda path: generator(path, known_first=False), {"mask": "hole", "range": "0-1"}, 1.0),
    ],
    ids=["lama", "lama 0-1", "by channels", "0-255", "-1-1", "migan", "4 channels", "4 channels, mask last"],
)
def test_every_convention_fills_the_hole_and_keeps_known_pixels(tmp_path, write, convention, value):
    output, image, hole = filled(write(tmp_path / "model.onnx"), **convention)
    hole = np.broadcast_to(hole, image.shape)
    assert np.allclose(output[hole], value, atol=1e-3)
    assert np.allclose(output[~hole], image[~hole], atol=2 / 255)


def test_a_wrong_polarity_fills_the_rest(tmp_path):
    output, image, hole = filled(lama(tmp_path / "model.onnx"), mask="known")
    assert np.allclose(output[~np.broadcast_to(hole, image.shape)], 0.25, atol=1e-3)


@pytest.mark.parametrize("size", [(20, 30), (64, 40), (64, 64), (200, 100), (100, 500)])
def test_a_network_of_a_fixed_size_takes_any_size_padded_or_reduced(tmp_path, size):
    output, image, hole = filled(lama(tmp_path / "model.onnx"), size)
    hole = np.broadcast_to(hole, image.shape)
    inner = hole & (np.abs(output - 0.25) < 0.05)
    assert inner.sum() > 0.4 * hole.sum()
    known = ~hole
    if max(size) <= 64:
        assert np.allclose(output[known], image[known], atol=1e-3)
    else:
        assert np.median(np.abs(output[known] - image[known])) < 0.02


@pytest.mark.parametrize("write", [lama, migan])
@pytest.mark.parametrize("size", [(50, 60), (300, 200)])
def test_the_inpainter_takes_it_on_photos(tmp_path, write, size):
    image, hole = plane(*size), square(*size, 20, 25, 18)
    path = lama(tmp_path / "model.onnx", size=128) if write is lama else write(tmp_path / "model.onnx")
    result = Inpainter.from_checkpoint(path, "cpu")(image, hole)
    assert np.array_equal(result[~hole], image[~hole])
    assert np.abs(result[hole].astype(int) - (64 if write is lama else 50)).max() <= 2


def test_what_the_file_says_is_in_its_info(tmp_path):
    info = open_model(lama(tmp_path / "model.onnx"), "cpu").info
    assert (info.foreign, info.side, info.width) == (True, 64, None)
    assert open_model(migan(tmp_path / "any.onnx"), "cpu").info.side == 512
    assert open_model(migan(tmp_path / "any.onnx"), "cpu", size=96).info.side == 96


def test_a_size_that_is_given_is_kept(tmp_path):
    """The network sees `size` alone: one that takes only that size by its graph, but does not say so."""
    path = lama(tmp_path / "model.onnx", size=64)
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        for axis in (2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = "side"
    only = numpy_helper.from_array(np.ones((1, 1, 64, 64), np.float32), "one")
    model.graph.initializer[0].CopyFrom(only)
    onnx.save(model, path)
    with pytest.raises(WSSLError, match="fails on 512 x 512 pixels"):
        open_model(path, "cpu")
    assert filled(path, (40, 200), size=64)[0].shape == (1, 3, 40, 200)


def test_what_is_no_inpainting_network_is_refused_with_its_inputs(tmp_path):
    two = save(
        tmp_path / "classifier.onnx", [helper.make_node("Identity", ["x"], ["y"])], [("x", FLOAT, [1, 3, 64, 64])],
        ("y", FLOAT, [1, 3, 64, 64]), {},
    )  # fmt: skip
    with pytest.raises(WSSLError, match=r"its inputs are x \[1, 3, 64, 64\] tensor\(float\)"):
        open_model(two, "cpu")
    no_image = save(
        tmp_path / "grey.onnx", [helper.make_node("Identity", ["mask"], ["y"])],
        [("image", FLOAT, [1, 3, 64, 64]), ("mask", FLOAT, [1, 1, 64, 64])], ("y", FLOAT, [1, 1, 64, 64]), {},
    )  # fmt: skip
    with pytest.raises(WSSLError, match="not an image"):
        open_model(no_image, "cpu")


def one_value(path, nodes, constants=(), size=64, props=None):
    """A graph with LaMa's inputs whose output is (1, 3, S, S) if nothing else is done in `nodes`."""
    inputs = [("image", FLOAT, [1, 3, size, size]), ("mask", FLOAT, [1, 1, size, size])]
    save(path, nodes, inputs, ("output", FLOAT, None), dict(constants))
    if props:
        model = onnx.load(path)
        helper.set_model_props(model, props)
        onnx.save(model, path)
    return path


def endless(path, **options):
    """A loop that never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", FLOAT, None),
        ],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []), helper.make_tensor_value_info("y", FLOAT, None)],
    )
    loop = helper.make_node("Loop", ["", "always", "image"], ["output"], body=body)
    return one_value(path, [loop], {"always": np.bool_(True)}, **options)


FORGED = {
    "endless": (endless, "does not end in 0 s on 64 x 64 pixels"),
    "NaN": (
        lambda path: one_value(path, [helper.make_node("Add", ["image", "x"], ["output"])], {"x": np.float32("nan")}),
        "gives values that are not finite numbers",
    ),
    "2 channels": (
        lambda path: one_value(path, [helper.make_node("Concat", ["mask", "mask"], ["output"], axis=1)]),
        r"gives shape \(1, 2, 64, 64\) for \(1, 3, 64, 64\): not an image",
    ),
    "fails": (
        lambda path: one_value(
            path, [helper.make_node("Reshape", ["image", "size"], ["output"])], {"size": np.array([7], np.int64)}
        ),
        "fails on 64 x 64 pixels: ",
    ),
    "160 GB": (
        lambda path: one_value(
            path, [helper.make_node("Expand", ["one", "size"], ["output"])],
            {"one": np.float32(1), "size": np.array([200_000, 200_000], np.int64)},
        ),
        "fails on 64 x 64 pixels: ",
    ),
    "a large side": (lambda path: lama(path, size=200_000), "takes 200000 x 200000 pixels, above 4096 on a side"),
    "not UTF-8": (
        lambda path: path.write_bytes(lama(path).read_bytes() + b"r\x06\n\x01\xff\x12\x01\xff"),
        "its metadata cannot be read",
    ),
    "a name that is not UTF-8": (
        lambda path: path.write_bytes(lama(path).read_bytes().replace(b"Mul", b"M\xe0l")), "is not an ONNX model"
    ),
    "other settings": (
        lambda path: one_value(
            path, [helper.make_node("Identity", ["image"], ["output"])],
            props={"hyper_parameters": "[1]", "training": "[" * 100_000},
        ),
        "its metadata cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged_files(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(module, "TIME_LIMIT_S", 0.1)
    write, message = FORGED[name]
    write(tmp_path / "forged.onnx")
    with pytest.raises(WSSLError, match=message) as raised:
        open_model(tmp_path / "forged.onnx", "cpu")
    assert str(raised.value).startswith(f"ckpt={tmp_path / 'forged.onnx'}: ")
    assert "\n" not in str(raised.value)
    assert not capsys.readouterr().out


def identity(path, name="image", **options):
    """A graph that gives an input as it is."""
    return one_value(path, [helper.make_node("Identity", [name], ["output"])], **options)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda *args, **own: identity(*args, "mask", size=32, **own), r"gives shape \(1, 1, 32, 32\)"),
        (lambda *args, **own: identity(*args, size=64, **own), "fails on 32 x 32 pixels: "),
        (lambda *args, **own: endless(*args, size=32, **own), "does not end in 0 s on 32 x 32 pixels"),
    ],
)
def test_forged_files_that_say_they_are_of_this_project(tmp_path, monkeypatch, write, message):
    monkeypatch.setattr(module, "TIME_LIMIT_S", 0.1)
    write(tmp_path / "own.onnx", props={"hyper_parameters": "{}", "training": "{}"})
    with pytest.raises(WSSLError, match=message):
        open_model(tmp_path / "own.onnx", "cpu")


@pytest.mark.parametrize(
    ("convention", "message"),
    [
        ({"mask": "white"}, "mask=white: is not one of hole, known"),
        ({"range": "0-2"}, "range=0-2: is not one of"),
        ({"size": 8}, "size=8: must be from 32 to 4096"),
        ({"size": 5000}, "size=5000: must be from 32 to 4096"),
        ({"size": 128}, "size=128: the file takes 64 x 64 pixels alone"),
    ],
)
def test_conventions_that_cannot_be(tmp_path, convention, message):
    with pytest.raises(WSSLError, match=message):
        open_model(lama(tmp_path / "model.onnx"), "cpu", **convention)


def test_conventions_are_refused_for_models_of_this_project(tmp_path, model_files):
    for path in (tiny_onnx(tmp_path / "own.onnx"), model_files["safetensors"]):
        for convention in ({"mask": "hole"}, {"range": "0-1"}, {"size": 64}):
            with pytest.raises(WSSLError, match="for ONNX files of other projects"):
                open_model(path, "cpu", **convention)


def test_weights_outside_of_the_folder_are_not_read(tmp_path):
    inside, outside = tmp_path / "model", tmp_path / "secret.bin"
    inside.mkdir()
    outside.write_bytes(np.float32(0.25).tobytes())
    model = onnx.load(lama(inside / "model.onnx"))
    (value,) = [each for each in model.graph.initializer if each.name == "value"]
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    for place in ("../secret.bin", str(outside), "link.bin"):
        del value.external_data[:]
        value.external_data.add(key="location", value=place)
        (inside / "model.onnx").write_bytes(model.SerializeToString())
        (inside / "link.bin").unlink(missing_ok=True)
        (inside / "link.bin").symlink_to(outside)
        with pytest.raises(WSSLError, match="is not an ONNX model that onnxruntime loads"):
            open_model(inside / "model.onnx", "cpu")
    (inside / "link.bin").unlink()
    (inside / "link.bin").write_bytes(outside.read_bytes())
    assert open_model(inside / "model.onnx", "cpu").info.foreign


def test_a_file_that_is_too_large_or_none_is_not_opened(tmp_path):
    with (tmp_path / "vast.onnx").open("wb") as file:
        file.truncate(2**31 + 1)
    with pytest.raises(WSSLError, match=r"is larger than 2\.1 GB"):
        open_model(tmp_path / "vast.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(WSSLError, match="neither a file nor a folder"):
        open_model(tmp_path / "pipe.onnx")
