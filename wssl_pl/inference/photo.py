"""Photos as files: every known pixel, the transparency, the orientation and the colour profile survive the trip."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wssl_pl.data.files import reason
from wssl_pl.errors import UsageError
from wssl_pl.inference import exif, png
from wssl_pl.inference.output import replacing

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MEGAPIXELS = 100.0
QUALITY = 95


@dataclass
class Photo:
    """A photo as a viewer shows it.

    Attributes:
        path: its file.
        pixels: `(H, W, C)`, `C` 1 for grey and 3 for RGB, uint8 or uint16, turned upright.
        alpha: `(H, W)` of the same type, or None.
        turn: the EXIF orientation that it is stored with.
        exif: its EXIF block, or None.
        profile: its ICC profile, or None.
        chunks: what else a PNG file says of its colours.
    """

    path: Path
    pixels: NDArray[Any]
    alpha: NDArray[Any] | None
    turn: int
    exif: bytes | None
    profile: bytes | None
    chunks: list[png.Chunk]


def check_size(path: Path, name: str, megapixels: float) -> tuple[int, int]:
    """(height, width) of a picture file as a viewer shows it, from its header.

    Args:
        path: the file.
        name: the parameter that named it, for messages.
        megapixels: the largest size that is read, in millions of pixels.

    Raises:
        UsageError: no such file, not a JPEG, PNG or WebP picture, an animation, or too large.
    """
    if not path.is_file():
        raise UsageError(f"{name}={path} {'is a folder' if path.is_dir() else 'does not exist'}")
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
            width, height = image.size
            animated = image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1
            turn = exif.orientation(image.info.get("exif"))
    except Image.DecompressionBombError as error:
        raise UsageError(f"{name}={path} is too large: {' '.join(str(error).split())}") from None
    except Exception as error:
        # Pillow's decoders raise whatever their format's parser does; each means that this file is bad.
        raise UsageError(f"{name}={path} is not a JPEG, PNG or WebP picture, or is damaged ({reason(error)})") from None
    if animated:
        raise UsageError(f"{name}={path} is an animation: give a single picture")
    if width * height > megapixels * 1e6:
        raise UsageError(
            f"{name}={path} has {width} x {height} pixels, {width * height / 1e6:.0f} million: above "
            f"max_megapixels={megapixels:g}"
        )
    return (width, height) if turn >= 5 else (height, width)


def read_photo(path: Path, megapixels: float = MEGAPIXELS, name: str = "photo") -> Photo:
    """Reads a photo, 16-bit PNG with all of its bits.

    Raises:
        UsageError: see :func:`check_size`; or it is damaged.
    """
    check_size(path, name, megapixels)
    try:
        chunks: list[png.Chunk] = []
        bits = 8
        content = path.read_bytes()
        if content.startswith(png.SIGNATURE):
            bits, chunks = png.kept_chunks(content)
        with Image.open(io.BytesIO(content)) as image:
            block, profile = image.info.get("exif"), image.info.get("icc_profile")
            grey = image.mode in ("1", "L", "LA", "I", "I;16")
            pixels = _decode_16_bit(content, grey) if bits == 16 else _decode(image, grey)
    except UsageError:
        raise
    except Exception as error:
        # See check_size.
        raise UsageError(f"{name}={path} {reason(error)}") from None
    if block:
        block = exif.without_thumbnail(block)
    turn = exif.orientation(block)
    chunks = [(key, block[len(exif.PREFIX) :] if key == b"eXIf" and block else data) for key, data in chunks]
    pixels = exif.upright(pixels, turn)
    colours = 1 if pixels.shape[-1] <= 2 else 3
    alpha = np.ascontiguousarray(pixels[..., -1]) if pixels.shape[-1] in (2, 4) else None
    if profile and profile[16:20] != (b"GRAY" if colours == 1 else b"RGB "):
        profile = None  # of CMYK, which became RGB
    pixels = np.ascontiguousarray(pixels[..., :colours])
    # What Pillow shares is read only.
    pixels = pixels if pixels.flags.writeable else pixels.copy()
    return Photo(path, pixels, alpha, turn, block, profile, chunks)


def _decode(image: Image.Image, grey: bool) -> NDArray[Any]:
    """`(H, W, C)` with 1 to 4 channels: grey, grey and alpha, RGB, RGBA."""
    if image.mode not in ("L", "LA", "RGB", "RGBA") or "transparency" in image.info:
        if image.has_transparency_data:
            image = image.convert("LA" if grey else "RGBA")
        else:
            image = image.convert("L" if grey else "RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _decode_16_bit(content: bytes, grey: bool) -> NDArray[Any]:
    # Pillow cuts 16-bit colours to 8.
    pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("a 16-bit PNG file that cannot be decoded")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if grey and pixels.shape[-1] == 4:
        return pixels[..., [0, 3]]
    if pixels.shape[-1] == 1:
        return pixels
    return pixels[..., ::-1] if pixels.shape[-1] == 3 else pixels[..., [2, 1, 0, 3]]


def check_output(path: Path, name: str = "out") -> str:
    """The format that a file name stands for: PNG, JPEG or WEBP.

    Raises:
        UsageError: none of these.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{name}={path}: the name must end in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def write_photo(photo: Photo, path: Path) -> None:
    """Writes a photo in the orientation that it was stored in, with what it said of itself; whole or not at all.

    PNG and WebP keep every pixel; JPEG does not.

    Raises:
        UsageError: the format cannot hold 16 bits, or transparency.
        OSError: it cannot be written.
    """
    form = check_output(path)
    pixels, alpha = photo.pixels, photo.alpha
    if form == "JPEG" and alpha is not None and (alpha == np.iinfo(alpha.dtype).max).all():
        alpha = None
    check_holds(path, form, pixels.dtype, alpha is not None)
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[..., None]], axis=-1)
    stored = np.ascontiguousarray(exif.as_stored(pixels, photo.turn))
    extra = {key: value for key, value in (("exif", photo.exif), ("icc_profile", photo.profile)) if value}
    with replacing(path) as temporary:
        if form == "PNG":
            temporary.write_bytes(png.with_chunks(_encode_png(stored), _png_chunks(photo)))
        elif form == "JPEG":
            _image(stored).save(temporary, form, quality=QUALITY, subsampling=0, **extra)
        else:
            _image(stored).save(temporary, form, lossless=True, exact=True, **extra)


def check_holds(path: Path, form: str, dtype: np.dtype, transparent: bool) -> None:
    """Raises `UsageError` if a format cannot hold 16 bits or transparency."""
    if form != "PNG" and dtype == np.uint16:
        raise UsageError(f"out={path}: {form} holds 8 bits a channel, the photo has 16: name a .png file")
    if form == "JPEG" and transparent:
        raise UsageError(f"out={path}: JPEG holds no transparency, the photo has some: name a .png or .webp file")


def _png_chunks(photo: Photo) -> list[png.Chunk]:
    if photo.chunks:
        return photo.chunks
    made = [png.profile_chunk(photo.profile)] if photo.profile else []
    return made + ([(b"eXIf", photo.exif[len(exif.PREFIX) :])] if photo.exif else [])


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _encode_png(pixels: NDArray[Any]) -> bytes:
    if pixels.dtype == np.uint8:
        buffer = io.BytesIO()
        _image(pixels).save(buffer, "PNG")
        return buffer.getvalue()
    if pixels.shape[-1] == 2:
        # OpenCV has no grey with alpha.
        pixels = pixels[..., [0, 0, 0, 1]]
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[-1]]
    encoded, content = cv2.imencode(".png", pixels[..., order])
    if not encoded:
        raise OSError("OpenCV could not encode the PNG file")
    return content.tobytes()
