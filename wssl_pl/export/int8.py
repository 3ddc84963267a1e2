"""ONNX files whose convolutions compute in 8-bit integers, where the processor has instructions for them."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import torch

from wssl_pl.data.decode import read_image
from wssl_pl.data.files import check_folder, list_images
from wssl_pl.errors import WSSLError
from wssl_pl.metrics import psnr_hole
from wssl_pl.models import Predictor
from wssl_pl.models.info import Array, Convention
from wssl_pl.models.onnx import open_onnx
from wssl_pl.synthetic import synthetic_faces, synthetic_masks

# With all of these, what is between two convolutions stays in integers, too.
OPERATORS = ["Conv", "ConvTranspose", "MaxPool", "Concat", "Resize", "Relu", "LeakyRelu"]
COUNT = 48
"""Images at most: half of them give the ranges of the values, the others the loss."""
MAX_LOSS = 0.05
"""dB that an int8 file may lose to be chosen."""
MAX_TIME = 0.9
"""Its time over that of float32, to be chosen."""
TIMED, ROUNDS = 512, 5
"""Side in pixels of the image that is timed, and how often it is, both files in turn."""


@dataclass(frozen=True)
class Comparison:
    """An int8 file beside the float32 file that it was made from.

    Attributes:
        loss: how many dB of PSNR in the holes it loses, in the mean over images.
        time: its time over that of float32 on this machine, the median of rounds.
        count: the number of these images.
    """

    loss: float
    time: float
    count: int

    @property
    def pays(self) -> bool:
        """Whether it is faster here and as good."""
        return self.loss <= MAX_LOSS and self.time <= MAX_TIME

    def __str__(self) -> str:
        return (
            f"{self.time:.2f} of the time of float32 here, {self.loss:.3f} dB less in the holes of {self.count} images"
        )


def write_int8(path: Path, out: Path, images: Array, masks: Array) -> Comparison:
    """Write the int8 form of an ONNX file, and compare both.

    Weights are rounded by output channel, values to 256 steps between the least and the greatest that occur on the
    first half of the images; the second half is compared.

    Args:
        path: a file of `write_onnx`.
        out: the int8 file.
        images: `(B, 3, S, S)` in [0, 1], at least 2.
        masks: `(B, 1, S, S)`, 1 = hole.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    half = len(images) // 2
    pairs = zip(images[:half, None], masks[:half, None], strict=True)
    feeds = iter([{"image": image, "mask": mask} for image, mask in pairs])
    with TemporaryDirectory(dir=out.parent) as folder:
        simplified = Path(folder) / "simplified.onnx"
        quant_pre_process(str(path), str(simplified), skip_symbolic_shape=True)
        quantize_static(
            str(simplified),
            str(out),
            SimpleNamespace(get_next=lambda: next(feeds, None)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    float32, int8 = (open_onnx(file, "cpu", None, Convention()) for file in (path, out))
    losses = [
        _psnr(float32, image, mask) - _psnr(int8, image, mask)
        for image, mask in zip(images[half:], masks[half:], strict=True)
    ]
    return Comparison(statistics.mean(losses), _time_ratio(int8, float32), len(losses))


def sample(images: Path | None, side: int) -> tuple[Array, Array]:
    """Return images `(B, 3, S, S)` and masks `(B, 1, S, S)` with which an int8 file is made.

    Args:
        images: a folder, from which up to `COUNT` images are taken, evenly spaced; None: drawn faces.
        side: their side S, in pixels.

    Raises:
        WSSLError: there are fewer than two images, or one cannot be read.
    """
    if images is None:
        faces = synthetic_faces("val", side, COUNT)
    else:
        check_folder("images", images)
        files = list_images(images)
        if len(files) < 2:
            raise WSSLError("images", images, f"has {len(files)} images; 2 are needed, better {COUNT}")
        chosen = np.unique(np.linspace(0, len(files) - 1, COUNT).round().astype(int))
        # In turn, so that both halves are of the whole folder.
        chosen = np.concatenate([chosen[::2], chosen[1::2]])
        faces = np.stack([read_image(files[number], side) for number in chosen])
    masks = synthetic_masks("val", side, count=len(faces))
    return (faces.transpose(0, 3, 1, 2) / 255).astype(np.float32), masks[:, None].astype(np.float32)


def _psnr(predictor: Predictor, image: Array, mask: Array) -> float:
    output = torch.from_numpy(predictor(image[None], mask[None]))
    return float(psnr_hole(output, torch.from_numpy(image[None]), torch.from_numpy(mask[None])))


def _time_ratio(one: Predictor, other: Predictor) -> float:
    image = np.random.default_rng(0).random((1, 3, TIMED, TIMED), np.float32)
    mask = synthetic_masks("val", TIMED, count=1)[None].astype(np.float32)
    ratios = []
    for _ in range(1 + ROUNDS):  # the first warms up
        seconds = []
        for predictor in (one, other):
            start = time.perf_counter()
            predictor(image, mask)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios[1:])
