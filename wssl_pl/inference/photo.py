"""Photos as files: known pixels, transparency, orientation and colour profile are the same after a round trip."""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from wssl_pl.data import exif
from wssl_pl.data.exif import PREFIX
from wssl_pl.data.files import MEGAPIXELS, SUFFIXES, reason, too_large
from wssl_pl.errors import WSSLError
from wssl_pl.files import check_readable, replacing
from wssl_pl.inference import metadata
from wssl_pl.inference.metadata import Chunk

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_SIDES = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383}  # pixels, of the format or of its encoder
PHOTO_SUFFIXES = SUFFIXES | {".tif", ".tiff", ".heic", ".heif"}
KINDS = "a JPEG, PNG, WebP, TIFF or HEIC image"
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"}
BITS, COMPRESSION, PHOTOMETRIC, TURN, SAMPLES, PLANES, EXTRA, SAMPLE_FORMAT = 258, 259, 262, 274, 277, 284, 338, 339
"""Tags of TIFF."""
READ_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}  # none, fax, LZW, JPEG, Deflate, PackBits
READ_COLOURS = {0, 1, 2, 3, 5, 8}  # greys, RGB, palettes, CMYK, Lab; YCbCr in JPEG alone
MAX_DPI = 30_000
MAX_EXIF = 65_533  # bytes that a JPEG file holds
QUALITY = 95
EFFORT = 4  # of PNG: files as small as by Pillow's own 6, in half the time
STRIP = 256  # rows that are converted at once, so that memory does not grow with the image


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
        chunks: what else a PNG file says about its colours.
        dpi: its resolution across and down, or None.
        format: Pillow's name of its file's format; None if it is not from a file.
        notes: what the user should know about its colours.
    """

    path: Path
    pixels: NDArray[Any]
    alpha: NDArray[Any] | None
    turn: int
    exif: bytes | None
    profile: bytes | None
    chunks: list[Chunk]
    dpi: tuple[float, float] | None = None
    format: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def opaque(self) -> bool:
        """Whether no pixel is transparent."""
        return self.alpha is None or bool((self.alpha == np.iinfo(self.alpha.dtype).max).all())

    @property
    def invisible(self) -> NDArray[np.bool_] | None:
        """`(H, W)`, True where a pixel is wholly transparent, so that its colour means nothing; None without alpha."""
        return None if self.alpha is None else self.alpha == 0

    def opaque_in(self, mask: NDArray[np.bool_]) -> "Photo":
        """Return the photo with all pixels of a hole `(H, W)` opaque: what is filled in must be visible."""
        if self.alpha is None:
            return self
        return replace(self, alpha=np.where(mask, np.iinfo(self.alpha.dtype).max, self.alpha).astype(self.alpha.dtype))


@contextmanager
def open_image(path: Path, name: str, megapixels: float) -> Iterator[tuple[Image.Image, BinaryIO, tuple[int, int]]]:
    """Open an image file, check its header, and yield it undecoded, with the file and its (height, width).

    The size is that which a viewer shows, by its EXIF orientation.

    Args:
        path: the file.
        name: the parameter that named it, for messages.
        megapixels: the largest size that is read, in millions of pixels.

    Raises:
        WSSLError: no such file, not an image of `KINDS`, an animation, several pages, or too large; also for what
            decoding in the block raises.
    """
    check_readable(path, name)
    if not path.is_file():
        raise WSSLError(name, path, "is a folder" if path.is_dir() else "is no file")
    try:
        with path.open("rb") as file, Image.open(file, formats=_formats(file, path, name)) as image:
            if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
                raise WSSLError(name, path, "is an animation", "give a single image")
            if isinstance(image, TiffImageFile) and image.tag_v2.next:
                raise WSSLError(name, path, "has several pages", "give a single image")
            if why := too_large(image.size, megapixels):
                raise WSSLError(name, path, why, "make it smaller", "raise max_megapixels=")
            if image.format == "PNG" and "exif" not in image.info and (block := metadata.late_exif(file)):
                image.info["exif"] = block
            exif.ignore_xmp(image)
            width, height = image.size
            turned = exif.orientation(image.info.get("exif")) >= 5
            yield image, file, (width, height) if turned else (height, width)
    except WSSLError:
        raise
    except Image.DecompressionBombError:
        why = f"has far more than {megapixels:g} million pixels"
        raise WSSLError(name, path, why, "make it smaller", "raise max_megapixels=") from None
    except UnidentifiedImageError:
        if kind := _unread_tiff(path):
            raise WSSLError(name, path, kind, "store it as PNG") from None
        raise WSSLError(name, path, f"is not {KINDS}, or its beginning is damaged") from None
    except MemoryError:
        raise WSSLError(name, path, "needs more memory than there is", "make it smaller") from None
    except Exception as error:
        # Pillow's decoders raise whatever their format's parser does; each means that this file is bad.
        broken = isinstance(error, OSError) and error.errno
        if not broken and (kind := _unread_tiff(path)):
            raise WSSLError(name, path, kind, "store it as PNG") from None
        why = reason(error) if broken else "is damaged, or was cut short: it cannot be decoded"
        raise WSSLError(name, path, why) from None


def _unread_tiff(path: Path) -> str | None:
    """Return what kind of TIFF a file is that cannot be decoded; None for other files and for kinds that are read."""
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as body:
            if body[:4] not in (b"II*\0", b"MM\0*"):
                return None
            tags = exif.whole_numbers(body, (BITS, COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT))
    except (OSError, ValueError):
        return None
    compression, photometric, signs = ((tags.get(tag) or (1,))[0] for tag in (COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT))
    bits = max(tags.get(BITS) or (1,))
    colours = photometric in READ_COLOURS or (photometric == 6 and compression in (6, 7))
    if compression in READ_COMPRESSIONS and colours and signs == 1 and bits <= 16:
        return None
    numbers = f"{'floating-point' if signs == 3 else 'signed' if signs == 2 else 'whole'} numbers"
    return (
        f"is a TIFF of a kind that is not read: compression {compression}, photometric interpretation {photometric}, "
        f"{bits} bits a channel, {numbers}"
    )


def _formats(file: BinaryIO, path: Path, name: str) -> tuple[str, ...]:
    """Return Pillow's names of the formats that a file may have."""
    head = file.read(12)
    file.seek(0)
    if head[4:8] != b"ftyp" or head[8:] not in HEIF_BRANDS:
        return "JPEG", "PNG", "WEBP", "TIFF"
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise WSSLError(name, path, "is HEIC, which needs pillow-heif", "pip install 'wssl-pl[heic]'") from None
    register_heif_opener(thumbnails=False)
    return ("HEIF",)


def read_photo(path: Path, megapixels: float = MEGAPIXELS, name: str = "photo", reduced_to: int | None = None) -> Photo:
    """Read a photo, 16-bit PNG and TIFF with all of their bits.

    Args:
        path: the file.
        megapixels: the largest photo, in millions of pixels.
        name: the parameter that named it, for messages.
        reduced_to: decode a JPEG at the smallest of its own scales (1/2, 1/4, 1/8) at which no side is shorter, as
            images of a training are.

    Raises:
        WSSLError: see `open_image`; or it is damaged.
    """
    chunks: list[Chunk] = []
    notes: tuple[str, ...] = ()
    with open_image(path, name, megapixels) as (image, file, size):
        if reduced_to and image.draft(None, (reduced_to, reduced_to)):
            width, height = image.size
            size = (width, height) if exif.orientation(image.info.get("exif")) >= 5 else (height, width)
        block, profile, dpi = (image.info.get(key) for key in ("exif", "icc_profile", "dpi"))
        form = "JPEG" if image.format == "MPO" else image.format  # with a second image, as phones write it
        grey = image.mode in ("1", "L", "LA", "I", "I;16")
        if image.format == "PNG":
            file.seek(0)
            content = file.read()
            chunks = metadata.read_chunks(content)
            if chunks[0][1][8] == 16:
                pixels, alpha = _decode_16_bit(content, grey)
                if grey and alpha is None and (key := dict(chunks).get(b"tRNS")):  # which OpenCV omits
                    alpha = np.where(pixels[..., 0] == int.from_bytes(key), 0, 65535).astype(np.uint16)
            else:
                pixels, alpha = _decode(image, grey)
        elif isinstance(image, TiffImageFile) and _is_16_bit(image, path, name):
            file.seek(0)
            pixels, alpha = _decode_16_bit(file.read(), grey)
        elif image.mode == "CMYK":
            converted, note = _from_cmyk(image, profile)
            notes = (note,)
            pixels, alpha = _decode(converted, grey)
        else:
            pixels, alpha = _decode(image, grey)
        turn = exif.orientation(block)
        pixels, alpha = exif.upright(pixels, turn), None if alpha is None else exif.upright(alpha, turn)
        if pixels.shape[:2] != size:
            raise ValueError("not of the size that its header says")
    if block:
        block = exif.without_thumbnail(block)
    chunks = [
        (key, block.removeprefix(PREFIX) if key == b"eXIf" and block else data)
        for key, data in chunks
        if key in metadata.KEPT_CHUNKS
    ]
    if profile and profile[16:20] != (b"GRAY" if pixels.shape[-1] == 1 else b"RGB "):
        profile = None  # of CMYK, which became RGB
    if dpi and not all(1 <= each <= MAX_DPI for each in dpi):
        dpi = None
    return Photo(path, pixels, alpha, turn, block, profile, chunks, dpi, form, notes)


def _decode(image: Image.Image, grey: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return colours and alpha as `Photo` has them, but as stored; both are views of one array."""
    image.load()  # may change its size, by which the strips are cut
    if image.mode not in ("L", "LA", "RGB", "RGBA") or "transparency" in image.info:
        mode = "L" if grey else "RGB"
        image = image.convert(mode + "A" if image.has_transparency_data else mode)
    colours = 1 if image.mode in ("L", "LA") else 3
    pixels = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for top in range(0, image.height, STRIP):
        strip = np.asarray(image.crop((0, top, image.width, min(top + STRIP, image.height))))
        pixels[top : top + STRIP] = strip.reshape(*strip.shape[:2], -1)
    return pixels[..., :colours], pixels[..., colours] if pixels.shape[-1] > colours else None


def _from_cmyk(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """Return a CMYK image as sRGB, by its ICC profile if it has one that can be used, and a note that says so."""
    if profile and profile[16:20] == b"CMYK":
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None  # damaged
        if converted is not None:
            return converted, "is CMYK, and the result RGB, by its colour profile"
    return image.convert("RGB"), "is CMYK without a colour profile, and the result RGB: its colours may differ"


def _is_16_bit(image: TiffImageFile, path: Path, name: str) -> bool:
    """Return whether a TIFF file has 16 bits a channel, rather than 8.

    Raises:
        WSSLError: it has neither, or is not decoded right by OpenCV.
    """
    tags = image.tag_v2
    bits = max(tags.get(BITS, (1,)))
    if bits > 8 and (bits != 16 or image.mode in ("I", "F")):
        raise WSSLError(name, path, f"is a TIFF of {bits} bits a channel, or of signed values", "store 8 or 16")
    separate = tags.get(PLANES, 1) != 1 and tags.get(SAMPLES, 1) > 1
    other = tags.get(PHOTOMETRIC) not in (1, 2) or tags.get(TURN, 1) != 1 or 1 in tags.get(EXTRA, ())
    if bits == 16 and (separate or other):
        reason = "is a TIFF of 16 bits that is turned by a tag, in planes, premultiplied, or neither grey nor RGB"
        raise WSSLError(name, path, reason, "store it as 16-bit PNG")
    return bool(bits == 16)


def _decode_16_bit(content: bytes, grey: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
    # Pillow cuts 16-bit colours to 8.
    pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("a 16-bit file that cannot be decoded")
    if pixels.ndim == 2:
        return pixels[..., None], None
    alpha = pixels[..., 3] if pixels.shape[-1] == 4 else None
    return pixels[..., :1] if grey else pixels[..., 2::-1], alpha  # OpenCV has no grey with alpha, and BGR for RGB


def output_format(path: Path, photo: Photo | None = None) -> str:
    """Return the format that a file name stands for: PNG, JPEG or WEBP.

    Raises:
        WSSLError: none of these, or it cannot hold the photo's size, its 16 bits or its transparency.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise WSSLError("out", path, f"the name must end in {', '.join(FORMATS)}")
    if photo is not None and form != "PNG" and photo.pixels.dtype == np.uint16:
        raise WSSLError("out", path, f"{form} holds 8 bits a channel, the photo has 16", "name a .png file")
    if photo is not None and form == "JPEG" and not photo.opaque:
        raise WSSLError("out", path, "JPEG holds no transparency, the photo has some", "name a .png or .webp file")
    if photo is not None and form == "JPEG" and len(photo.exif or b"") > MAX_EXIF:
        reason = f"JPEG holds {MAX_EXIF} bytes of EXIF, the photo has {len(photo.exif or b'')}"
        raise WSSLError("out", path, reason, "name a .png file")
    if photo is not None and max(photo.pixels.shape[:2]) > MAX_SIDES[form]:
        size = f"{photo.pixels.shape[1]} x {photo.pixels.shape[0]}"
        raise WSSLError(
            "out", path, f"{form} holds {MAX_SIDES[form]} pixels a side, the photo has {size}", "name a .png file"
        )
    return form


def write_photo(photo: Photo, path: Path) -> None:
    """Write a photo in the orientation in which it was stored, with its metadata; whole or not at all.

    In another format than its file's it is stored upright, since viewers read the orientation of some formats only.

    PNG and WebP keep every pixel; JPEG does not.

    Raises:
        WSSLError: the format cannot hold the photo's size, its 16 bits or its transparency.
        OSError: it cannot be written.
    """
    form = output_format(path, photo)
    parts = [photo.pixels] if photo.alpha is None or form == "JPEG" else [photo.pixels, photo.alpha[..., None]]
    block = photo.exif
    if photo.format in (form, None):
        parts = [exif.as_stored(part, photo.turn) for part in parts]
    elif block:
        block = exif.as_upright(block)
    profile = photo.profile
    if form == "WEBP" and profile and profile[16:20] == b"GRAY":
        profile = None  # grey becomes RGB
    given: dict[str, Any] = {"exif": block, "icc_profile": profile, "dpi": photo.dpi}
    extra = {key: value for key, value in given.items() if value}
    with replacing(path) as file:
        if photo.pixels.dtype == np.uint16:
            _write_16_bit(file, parts, photo.chunks or metadata.colour_chunks(photo.profile, photo.dpi))
            return
        image = _to_pil(np.concatenate(parts, axis=-1))
        if form == "JPEG":
            image.save(file, form, quality=QUALITY, subsampling=0, **extra)
        elif form == "WEBP":
            image.save(file, form, lossless=True, exact=True, **extra)
        elif photo.chunks:
            buffer = io.BytesIO()
            image.save(buffer, form, compress_level=EFFORT)
            file.write(metadata.with_chunks(buffer.getvalue(), photo.chunks))
        else:
            image.save(file, form, compress_level=EFFORT, **extra)


def _to_pil(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _write_16_bit(file: BinaryIO, parts: Sequence[NDArray[np.uint16]], extra: Iterable[Chunk]) -> None:
    """Write a PNG of 16 bits a channel, strip by strip: Pillow has no such, OpenCV takes all of it again in memory.

    Args:
        file: where to.
        parts: its channels, each `(H, W, C)`.
        extra: chunks to add.
    """
    height, width = parts[0].shape[:2]
    channels = sum(part.shape[-1] for part in parts)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    file.write(metadata.PNG_SIGNATURE)
    for chunk in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)), *extra):
        file.write(metadata.chunk_bytes(*chunk))
    # As OpenCV compresses: of 16 bits half are noise, and more effort makes no smaller files.
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    for top in range(0, height, STRIP):
        strip = np.concatenate([part[top : top + STRIP] for part in parts], axis=-1).astype(">u2", order="C")
        rows = strip.view(np.uint8).reshape(len(strip), -1)
        # Each row is a 1 and the differences to the pixel on the left.
        lines = np.pad(rows, ((0, 0), (1, 0)), constant_values=1)
        lines[:, 1 + 2 * channels :] -= rows[:, : -2 * channels]
        file.write(metadata.chunk_bytes(b"IDAT", packer.compress(lines.data)))
    file.write(metadata.chunk_bytes(b"IDAT", packer.flush()) + metadata.chunk_bytes(b"IEND", b""))
