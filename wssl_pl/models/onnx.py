"""ONNX files, of this project and of others, run by onnxruntime without PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from threading import Timer
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from wssl_pl.devices import usable_cores
from wssl_pl.errors import WSSLError, first_line
from wssl_pl.models.info import (
    MAX_SIDE,
    RANGES,
    Array,
    Convention,
    ModelInfo,
    Predictor,
    check_output,
    parse_device,
    positive,
)
from wssl_pl.records import read_settings

FOREIGN_SIZE = 512  # of a network that takes any size
TIME_LIMIT_S = 30.0  # for each 256 x 256 pixels: a graph may loop for ever
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def open_onnx(path: Path, device: str, threads: int | None, convention: Convention) -> Predictor:
    """Return the predictor of an ONNX file, of `wssl export onnx` or of another project; see `open_model`.

    Raises:
        WSSLError: onnxruntime is missing, it is no inpainting network, or there is no such device.
    """
    network = Network(path, device, threads)
    try:
        stored = network.session.get_modelmeta().custom_metadata_map
        if not {"hyper_parameters", "training"} <= stored.keys():
            return ForeignPredictor(network, convention)
        convention.refuse()
        info = ModelInfo(str(path), *read_settings(stored))
    except WSSLError:
        raise
    except ValueError as error:  # also of bytes that are not UTF-8
        raise WSSLError("ckpt", path, f"its metadata cannot be read: {error}") from None
    return OnnxPredictor(network, info)


class Network:
    """The network of an ONNX file, run by onnxruntime.

    Attributes:
        path: the file.
        session: onnxruntime's.
        device: where it computes.

    Raises:
        WSSLError: onnxruntime is missing or cannot load the file, or there is no such device.
    """

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        self.path = path
        self.session, self.device = _open_session(path, device, threads)

    def run(self, feeds: Mapping[str, NDArray[Any]], shape: tuple[int, ...], remedy: str | None = None) -> NDArray[Any]:
        """Return the first output, which is an image.

        Args:
            feeds: the inputs by name.
            shape: `(B, 3, H, W)` of the output.
            remedy: what to do if it fails.

        Raises:
            WSSLError: the network fails, does not end in time, or gives something else than an image.
        """
        from onnxruntime import RunOptions

        options = RunOptions()
        seconds = TIME_LIMIT_S * max(1, shape[0] * shape[2] * shape[3] / 256**2)
        timer = Timer(seconds, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            output: NDArray[Any] = self.session.run(None, dict(feeds), options)[0]
        except Exception as error:
            # onnxruntime has an exception of its own for each status.
            reason = f"does not end in {seconds:.0f} s" if options.terminate else "fails"
            line = "" if options.terminate else f": {first_line(error)}"
            raise WSSLError("ckpt", self.path, f"{reason} on {shape[2]} x {shape[3]} pixels{line}", remedy) from None
        finally:
            timer.cancel()
        check_output(output, shape, self.path)
        return output


def _open_session(path: Path, device: str, threads: int | None) -> tuple[Any, str]:
    """Return onnxruntime's session of a file, and where it computes."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise WSSLError("ckpt", path, "needs onnxruntime", "pip install 'wssl-pl[onnx]'") from None
    kind, number = parse_device(device)
    has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    if kind == "mps":
        raise WSSLError("device", device, "ONNX models run on cpu and cuda")
    if kind == "cuda" and not has_cuda:
        raise WSSLError("device", device, "this onnxruntime has no CUDA provider", "device=cpu works everywhere")
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind != "cpu" and has_cuda:
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": number or "0"}))
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    options.intra_op_num_threads = threads or usable_cores()
    try:
        # By its path, so that onnxruntime refuses weights in files outside of the folder.
        # Without a second try on the CPU where that was the first one, which prints several lines.
        session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=len(providers) > 1)
    except Exception as error:
        # onnxruntime has an exception of its own for each status; all of them mean a bad file.
        line = first_line(error).replace(str(path), path.name)
        raise WSSLError("ckpt", path, f"is not an ONNX model that onnxruntime loads: {line}") from None
    if len(session.get_providers()) < len(providers):
        raise WSSLError("device", device, "onnxruntime could not start on CUDA", "device=cpu works everywhere")
    return session, "cuda" if len(providers) > 1 else "cpu"


class OnnxPredictor:
    """A file of `wssl export onnx`, run by onnxruntime; see `Predictor`."""

    def __init__(self, network: Network, info: ModelInfo) -> None:
        self._network, self.info, self.device = network, info, network.device
        self(np.zeros((1, 3, 32, 32), np.float32), np.ones((1, 1, 32, 32), np.float32))  # refuses what gives no image

    def __call__(self, images: Array, masks: Array) -> Array:
        """See `Predictor`."""
        height, width = images.shape[-2:]
        # The graph is made for sides of 32 and more; shorter ones are padded here as the network does it in PyTorch.
        # There the hole is filled before, which differs where its value depends on the image (`smooth`, `mean`).
        images, masks, inside = _padded(images, masks, (max(height, 32), max(width, 32)), "edge")
        output: Array = self._network.run({"image": images, "mask": masks}, images.shape)[inside]
        return output


class ForeignPredictor:
    """An ONNX file of another project; see `Predictor` and `open_model`.

    It takes an image of 3 channels and a mask of 1, or both in one input of 4 channels, and its first output is the
    image. Images larger than a fixed size are reduced to it, smaller ones are padded.
    """

    def __init__(self, network: Network, convention: Convention) -> None:
        self._network, self._path, self.device = network, network.path, network.device
        self._image, self._mask = self._inputs()
        self._image_type = DTYPES[self._image.type]
        self._mask_type = DTYPES[self._mask.type] if self._mask else None
        joined = self._mask is None
        default = "known" if joined or self._mask_type == np.uint8 else "hole"
        self._known = (convention.mask or default) == "known"
        self._range = convention.range or ("-1-1" if joined else "0-1")
        self._output_range: str = self._range
        self._batch, _, height, width = (positive(side) for side in self._image.shape)
        for side in (height, width):
            if (side or 0) > MAX_SIDE:
                raise WSSLError("ckpt", self._path, f"takes {height} x {width} pixels, above {MAX_SIDE} on a side")
            if convention.size and side and side != convention.size:
                raise WSSLError("size", convention.size, f"the file takes {height} x {width} pixels alone", "omit it")
        self._size = (height or convention.size, width or convention.size)
        side = min((known for known in self._size if known), default=FOREIGN_SIZE)
        self.info = ModelInfo(str(self._path), {}, {"image_size": side}, foreign=True)
        self._probe(self._size[0] or side, self._size[1] or side)

    def _inputs(self) -> tuple[Any, Any]:
        """Return the inputs of the image and of the mask; None for the mask if one input takes both."""
        inputs = self._network.session.get_inputs()
        channels = {node.name: node.shape[1] if len(node.shape) == 4 else None for node in inputs}
        masks = [node for node in inputs if channels[node.name] == 1 or "mask" in node.name.lower()]
        images = [node for node in inputs if node not in masks]
        known = all(node.type in DTYPES for node in inputs)
        if known and len(inputs) == 1 and list(channels.values()) == [4]:
            return inputs[0], None
        if known and (len(images), len(masks)) == (1, 1) and channels[images[0].name] not in (None, 1, 2, 4):
            return images[0], masks[0]
        found = ", ".join(f"{node.name} {node.shape} {node.type}" for node in inputs) or "none"
        raise WSSLError(
            "ckpt", self._path, f"is not an inpainting network that is known here: its inputs are {found}",
            "it must take an image (N, 3, H, W) and a mask (N, 1, H, W), or one input (N, 4, H, W)",
        )  # fmt: skip

    def _probe(self, height: int, width: int) -> None:
        """Run the network once on a bright image: it must give an image, whose values say their range."""
        images, masks = np.full((1, 3, height, width), 0.75, np.float32), np.zeros((1, 1, height, width), np.float32)
        masks[..., height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4] = 1
        output = self._run(images * (1 - masks), masks)
        if output.dtype == np.uint8 or np.median(output) > 2:
            self._output_range = "0-255"
        elif self._output_range == "0-255":
            self._output_range = "0-1"

    def _run(self, images: Array, masks: Array) -> NDArray[Any]:
        """Return the network's first output as it is."""
        known = 1 - masks
        low, high = RANGES["0-255" if self._image_type == np.uint8 else self._range]
        values = images * np.float32(high - low) + np.float32(low)
        if self._mask is None:
            parts = [known - 0.5, values * known] if self._known else [values * known, masks]
            feeds: dict[str, Any] = {self._image.name: np.concatenate(parts, axis=1).astype(self._image_type)}
        else:
            marked = (known if self._known else masks) * (255 if self._mask_type == np.uint8 else 1)
            values = np.rint(values) if self._image_type == np.uint8 else values
            feeds = {self._image.name: values.astype(self._image_type), self._mask.name: marked.astype(self._mask_type)}
        return self._network.run(feeds, images.shape, None if all(self._size) else "give another size=")

    def __call__(self, images: Array, masks: Array) -> Array:
        """See `Predictor`."""
        height, width = images.shape[-2:]
        size = self._size[0] or -(-height // 32) * 32, self._size[1] or -(-width // 32) * 32
        scale = min(1.0, size[0] / height, size[1] / width)
        images, masks = _reduced(images, masks, scale)
        inner = images.shape[-2:]
        images, masks, inside = _padded(images, masks, size, "reflect")
        step = self._batch or len(images)
        outputs = [self._run(images[i : i + step], masks[i : i + step]) for i in np.arange(0, len(images), step)]
        low, high = RANGES[self._output_range]
        output: Array = ((np.concatenate(outputs).astype(np.float32) - low) / np.float32(high - low)).clip(0, 1)[inside]
        return output if inner == (height, width) else _resized(output, height, width, enlarge=True)


def _padded(
    images: Array, masks: Array, size: tuple[int, int], short: Literal["edge", "reflect"]
) -> tuple[Array, Array, Any]:
    """Return images and masks padded on all sides to a size, and the index that takes the padding off again.

    They are reflected, or with `short="edge"` repeated where a side has too few pixels for one reflection.
    """
    inside: list[Any] = [slice(None), slice(None)]
    for axis, target in ((2, size[0]), (3, size[1])):
        side = images.shape[axis]
        before, after = (target - side) // 2, -((side - target) // 2)
        inside.append(slice(before, before + side))
        if after:
            padding = [(0, 0)] * 4
            padding[axis] = (before, after)
            mode = short if after >= side else "reflect"
            images, masks = np.pad(images, padding, mode=mode), np.pad(masks, padding, mode=mode)
    return images, masks, tuple(inside)


def _reduced(images: Array, masks: Array, scale: float) -> tuple[Array, Array]:
    """Return images and masks of a smaller size, from known pixels alone."""
    if scale == 1.0:
        return images, masks
    height, width = (max(1, int(side * scale)) for side in images.shape[-2:])
    known = _resized(1 - masks, height, width)
    means = _resized(images * (1 - masks), height, width) / np.maximum(known, np.float32(1e-6))
    holes = known < 0.5
    return np.where(holes, np.float32(0), means), holes.astype(np.float32)


def _resized(values: Array, height: int, width: int, enlarge: bool = False) -> Array:
    way = cv2.INTER_CUBIC if enlarge else cv2.INTER_AREA
    planes = [cv2.resize(plane, (width, height), interpolation=way) for plane in values.reshape(-1, *values.shape[-2:])]
    return np.stack(planes).reshape(*values.shape[:2], height, width).clip(0, 1)
