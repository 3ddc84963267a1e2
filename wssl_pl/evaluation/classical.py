"""Methods that fill holes without learning, one image at a time; imported without PyTorch."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wssl_pl.errors import WSSLError

RADIUS = 3  # pixels around a point that Telea and Navier-Stokes look at, as in OpenCV's own example
GREY = 0.5  # for an image that is all hole

Pixels = NDArray[np.float32]  # (H, W, 3) in [0, 1]
Fill = Callable[[Pixels, NDArray[np.bool_]], Pixels]


def fill_mean(image: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Fill with each channel's mean over the image's known pixels."""
    filled = image.copy()
    filled[mask] = image[~mask].mean(axis=0, dtype=np.float64)  # a sum of millions of float32 is not exact
    return filled


def fill_opencv(flag: int, image: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Fill by OpenCV's `inpaint` on 8 bits."""
    pixels = np.round(image * 255).astype(np.uint8)
    return cv2.inpaint(pixels, mask.astype(np.uint8), RADIUS, flag).astype(np.float32) / np.float32(255)


def fill_fsr(flag: int, image: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Fill by frequency selective reconstruction (Seiler et al. 2015; Genser et al. 2018) on 8 bits."""
    height, width = mask.shape
    # It leaves what is beyond the last whole block of 16 px as it is, and takes BGR and a mask that is 0 in the hole.
    padding = ((0, -height % 16), (0, -width % 16))
    pixels = np.pad(np.round(image[..., ::-1] * 255).astype(np.uint8), (*padding, (0, 0)), "edge")
    filled = np.zeros_like(pixels)
    opencv: Any = cv2  # whose types know the contrib modules only where they are installed
    opencv.xphoto.inpaint(pixels, np.pad(~mask, padding, "edge").astype(np.uint8), filled, flag)
    # By way of YCbCr, so that known pixels change by rounding.
    return np.where(mask[..., None], filled[:height, :width, ::-1].astype(np.float32) / np.float32(255), image)


def fill_biharmonic(image: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Fill by scikit-image's solution of the biharmonic equation (Damelin and Hoang 2018)."""
    from skimage.restoration import inpaint_biharmonic

    return np.asarray(inpaint_biharmonic(image, mask, channel_axis=-1), np.float32)


CLASSICAL: dict[str, Fill] = {
    "mean": fill_mean,
    "telea": partial(fill_opencv, cv2.INPAINT_TELEA),
    "navier_stokes": partial(fill_opencv, cv2.INPAINT_NS),
    "biharmonic": fill_biharmonic,
    "fsr_fast": partial(fill_fsr, 2),  # cv2.xphoto.INPAINT_FSR_FAST and _BEST
    "fsr_best": partial(fill_fsr, 1),
}


def missing_package(name: str) -> tuple[str, str] | None:
    """Return why a classical method cannot be used on this machine, and what to do; None if it can be."""
    if name == "biharmonic" and find_spec("skimage") is None:
        return "needs scikit-image", "pip install 'wssl-pl[classical]'"
    if name.startswith("fsr") and not hasattr(cv2, "xphoto"):
        headless = "opencv-contrib-python-headless"
        return "needs OpenCV's contrib modules", f"replace opencv-python-headless by {headless}, with pip"
    return None


def find_method(name: str) -> Fill:
    """Return a classical method by its name.

    Raises:
        WSSLError: no such method, or its package is not installed.
    """
    if name not in CLASSICAL:
        raise WSSLError("method", name, f"is not one of {', '.join(CLASSICAL)}")
    if missing := missing_package(name):
        raise WSSLError("method", name, *missing)
    return CLASSICAL[name]


def fill_classically(fill: Fill, image: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Return an image with its hole filled by a method, grey where nothing is known; `mask` is True in the hole."""
    if mask.all():
        return np.full_like(image, GREY)
    return fill(image, mask) if mask.any() else image
