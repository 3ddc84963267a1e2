"""Damaged, oversized and odd pictures through every door that takes one."""

import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.mutations import damage, png_chunks, png_file
from tests.fuzz.runner import Case, Lost
from tests.fuzz.seeds import SIDE

SPECIAL = 0.04  # of the cases


def make_case(rng: Random, base: Path) -> Case:
    """Return one picture at one door."""
    seeds = sorted((base / "pictures").iterdir())
    if rng.random() < SPECIAL:
        name, make = rng.choice(sorted(SPECIALS.items()))
        suffix = rng.choice((".png", ".png", ".jpg", ".webp"))
        made = make(rng)
    else:
        seed = rng.choice([*seeds, base / "holes" / "mask.png"])
        others = [path.read_bytes() for path in rng.sample(seeds, 2)]
        name, suffix = seed.name, seed.suffix if rng.random() < 0.9 else rng.choice((".png", ".jpg", ".webp"))
        made = damaged(rng, seed.read_bytes(), others)
    door_name, door = rng.choice(sorted(DOORS.items()))
    Path("in").mkdir()
    path = Path("in", f"a{suffix}")
    made(path) if callable(made) else path.write_bytes(made)
    run = door(rng, base, path)
    return Case(run, ("out", "in/.wssl-masks"), f"{name} to {door_name}")


def damaged(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """Return damaged bytes of a picture, those of a PNG often with right checksums."""
    if content.startswith(b"\x89PNG") and rng.random() < 0.6:
        chunks = png_chunks(content)
        at = rng.randrange(len(chunks))
        kind, data = chunks[at]
        change = rng.randrange(6)
        if change == 0:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
        elif change == 1:
            del chunks[at]
        elif change == 2:
            chunks[at] = (rng.choice((b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"acTL", b"zTXt", b"IDAT")), data)
        elif kind == b"IDAT" and change == 3:
            chunks[at] = (kind, zlib.compress(damage(rng, zlib.decompress(data))))
        else:
            chunks[at] = (kind, damage(rng, data))
        return png_file(chunks)
    return damage(rng, content, others)


# Doors: each returns what is to be run on the file.


def _cli(*words: object) -> Callable[[], Any]:
    from wssl_pl.cli import main

    return lambda: main([str(word) for word in words])


def _out(rng: Random) -> Path:
    Path("out").mkdir()
    return Path("out", rng.choice(("b.png", "b.png", "b.webp", "b.jpg")))


def _known_pixels(photo: Path, out: Path, mask: Path, options: Any) -> None:
    """Raise `Lost` if a pixel outside of the hole has changed."""
    from wssl_pl.inference.masks import find_mask
    from wssl_pl.inference.photo import read_photo

    if out.suffix == ".jpg" or not out.exists():
        return
    before, after = read_photo(photo), read_photo(out)
    hole, _ = find_mask(before, mask, options)
    if before.pixels.shape[:2] != after.pixels.shape[:2] or (before.pixels[~hole] != after.pixels[~hole]).any():
        raise Lost("known pixels changed")


def _inpaint(rng: Random, base: Path, photo: Path, mask: Path) -> Callable[[], Any]:
    out, resize = _out(rng), rng.random() < 0.7
    main = _cli(
        "inpaint", photo, mask, f"out={out}", f"ckpt={base / 'model.safetensors'}", "device=cpu",
        f"resize_mask={str(resize).lower()}",
    )  # fmt: skip

    def run() -> None:
        from wssl_pl.inference.masks import MaskOptions

        main()
        _known_pixels(photo, out, mask, MaskOptions(resize_mask=resize))

    return run


def inpaint_photo(rng: Random, base: Path, path: Path) -> Callable[[], Any]:
    """`wssl inpaint`, with the picture as the photo."""
    return _inpaint(rng, base, path, base / "holes" / "mask.png")


def inpaint_mask(rng: Random, base: Path, path: Path) -> Callable[[], Any]:
    """`wssl inpaint`, with the picture as the mask."""
    return _inpaint(rng, base, base / "pictures" / rng.choice(("rgb.png", "plain.jpg", "rgb16.png")), path)


def decode(rng: Random, base: Path, path: Path) -> Callable[[], Any]:
    """Reading as training does it."""
    from wssl_pl.data.decode import read_image, read_mask
    from wssl_pl.data.files import list_images

    if path not in list_images(path.parent):
        return lambda: None  # training reads what is listed, and pipes and devices are not
    if rng.random() < 0.5:
        return lambda: read_image(path, 18, "lanczos")
    return lambda: read_mask(path, 16, bright=True)


def prepare(rng: Random, base: Path, path: Path) -> Callable[[], Any]:
    """`wssl prepare` of a folder with the picture and a good one."""
    Image.open(base / "pictures" / "rgb.png").save(path.with_name("good.png"))
    return _cli("prepare", f"images={path.parent}", "out=out", "size=16", "workers=0", "split_rule=hash")


def masks_stats(rng: Random, base: Path, path: Path) -> Callable[[], Any]:
    """`wssl masks stats` of a folder with the picture and a good one, without the drawing."""
    from wssl_pl.data import mask_stats

    mask_stats.draw = lambda scans, out, masks: out  # type: ignore[assignment]
    Image.open(base / "holes" / "mask.png").save(path.with_name("good.png"))
    return _cli("masks", "stats", path.parent, "out=out.png", "size=16")


def predictions(rng: Random, base: Path, path: Path) -> Callable[[], Any]:
    """`wssl evaluate` with the picture among another program's results."""
    from wssl_pl.evaluation.pairs import Pairs
    from wssl_pl.evaluation.predictions import Predictions

    pairs = Pairs.open(base / "pairs")
    names = [pair.name for pair in pairs.pairs]
    path.rename(path.with_name(f"{names[0]}{path.suffix}"))

    def run() -> None:
        import torch

        method = Predictions(path.parent, names[:1], names, True)
        images, masks = pairs.read(pairs.pairs[:1])
        method(names[:1], images.float() / 255, masks.to(torch.float32))

    return run


def page(rng: Random, base: Path, path: Path) -> Callable[[], Any]:
    """The page's button, with the picture as the photo or the mask."""
    from wssl_pl.app.work import fill_photo, read_mask
    from wssl_pl.inference import Inpainter

    Path("out").mkdir()
    inpainter = Inpainter.from_checkpoint(base / "model.safetensors", "cpu")
    role, scaled = rng.choice(("photo", "mask")), rng.random() < 0.5
    photo = path if role == "photo" else base / "pictures" / "rgb.png"
    mask = path if role == "mask" else base / "holes" / "mask.png"

    def find(opened: Any) -> Any:
        return read_mask(opened, mask, 50.0, scaled)

    return lambda: fill_photo(photo, find, inpainter, Path("out"), 50.0)


def inpainter(rng: Random, base: Path, path: Path) -> Callable[[], Any]:
    """`Inpainter`, called with a picture that Pillow has opened and not read."""
    from wssl_pl.inference import Inpainter

    inpainter = Inpainter.from_checkpoint(base / "model.safetensors", "cpu")
    as_mask = rng.random() < 0.3

    def run() -> None:
        if not path.is_file():
            return  # a pipe or a device, which the caller himself would have to open
        try:
            picture = Image.open(path, formats=("JPEG", "PNG", "WEBP"))
        except Exception:
            return  # Pillow refuses it, and we never see it
        if as_mask:
            inpainter(Image.new("RGB", picture.size), picture)
            return
        mask = np.zeros(picture.size[::-1], bool)
        mask[: max(1, picture.height // 2)] = True
        filled = inpainter(picture, mask)
        if filled.mode == picture.mode and (np.asarray(filled)[~mask] != np.asarray(picture)[~mask]).any():
            raise Lost("known pixels changed")

    return run


DOORS = {
    function.__name__: function
    for function in (inpaint_photo, inpaint_mask, decode, prepare, masks_stats, predictions, page, inpainter)
}


# Special pictures: each returns bytes, or a function that makes something at a path.


def _png(width: int, height: int, kind: int, depth: int, data: bytes = b"", extra: Any = ()) -> bytes:
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, kind, 0, 0, 0])
    return png_file([(b"IHDR", header), *extra, (b"IDAT", zlib.compress(data, 1)), (b"IEND", b"")])


def _zeros(rng: Random) -> bytes:
    """A picture of the largest size that is allowed, in some hundred kB."""
    side, kind, depth, bits = rng.choice(
        ((10000, 0, 1, 1), (10000, 0, 8, 8), (10000, 2, 8, 24), (7000, 6, 16, 64), (7000, 2, 16, 48), (9999, 3, 1, 1))
    )
    palette = [(b"PLTE", bytes(6))] if kind == 3 else []
    return _png(side, side, kind, depth, bytes((-(-side * bits // 8) + 1) * side), palette)


def _claims(rng: Random) -> bytes:
    side = rng.choice((0, 1, 65535, 65536, 10**6, 2**31 - 1, 2**32 - 1))
    return _png(side, rng.choice((0, 1, side)), rng.choice((0, 2, 3, 4, 6)), rng.choice((1, 8, 16)), bytes(100))


def _claims_jpeg(rng: Random) -> bytes:
    content = bytearray(_saved("JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xdc\x00\x01"))
    return bytes(content)


def _claims_webp(rng: Random) -> bytes:
    content = bytearray(_saved("WEBP", lossless=True, exif=b"Exif\0\0" + bytes(30)))
    at = content.index(b"VP8X") + 12
    content[at : at + 6] = rng.choice((b"\xff" * 6, b"\xff\x3f\x00\xff\x3f\x00", b"\xff\x5f\x00\x00\x00\x00"))
    return bytes(content)


def _thin(rng: Random) -> bytes:
    width, height = rng.choice(((17000, 8), (8, 17000), (66000, 8), (1, 70000), (70000, 1), (1, 1), (2, 1), (1, 4000)))
    return _png(width, height, 2, 8, bytes((width * 3 + 1) * height))


def _text(rng: Random) -> bytes:
    """Chunks that grow when they are unpacked."""
    big = zlib.compress(bytes(60_000_000), 9)
    chunk = rng.choice(
        ((b"zTXt", b"Comment\0\0" + big), (b"iCCP", b"profile\0\0" + big), (b"iTXt", b"Comment\0\1\0\0\0" + big))
    )
    return _png(SIDE, SIDE, 2, 8, bytes((SIDE * 3 + 1) * SIDE), [chunk])


def _exif(rng: Random) -> bytes:
    start = rng.choice((bytes(4), b"\xff" * 4, b"\x08\0\0\0"))
    block = b"Exif\0\0II*\0" + start + rng.randbytes(rng.choice((0, 6, 90)))
    return _saved(rng.choice(("JPEG", "PNG", "WEBP")), exif=block)


def _many_chunks(rng: Random) -> bytes:
    data = zlib.compress(bytes((SIDE * 3 + 1) * SIDE))
    header = SIDE.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    empty = [(b"IDAT", b"")] * 50_000 + [(b"tEXt", b"a\0b")] * 50_000
    return png_file([(b"IHDR", header), *empty, (b"IDAT", data), (b"IEND", b"")])


def _other_format(rng: Random) -> bytes:
    return _saved(rng.choice(("GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PCX")))


def _text_file(rng: Random) -> bytes:
    texts = (b"", b"\0", b"%!PS-Adobe-3.0 EPSF\n", b"<svg xmlns='x'/>", b"P6 99999 99999 255 ", b"\xff\xd8\xff")
    return rng.choice(texts)


def _moving(rng: Random) -> bytes:
    more = [Image.new("RGB", (SIDE, SIDE), (10 * i, 0, 0)) for i in range(1, 5)]
    return _saved(rng.choice(("PNG", "WEBP", "GIF")), save_all=True, append_images=more)


def _saved(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (200, 10, 30)).save(buffer, form, **options)
    return buffer.getvalue()


def _no_file(rng: Random) -> Callable[[Path], Any]:
    """A pipe, devices, links, a folder, a socket, a closed file."""
    return rng.choice(
        (
            os.mkfifo,
            Path.mkdir,
            lambda path: path.symlink_to("/dev/zero"),
            lambda path: path.symlink_to("/dev/full"),
            lambda path: path.symlink_to("nowhere"),
            lambda path: path.symlink_to(path.name),
            lambda path: path.symlink_to("/proc/self/mem"),
            lambda path: path.symlink_to("/proc/kmsg"),
        )
    )


SPECIALS = {
    function.__name__.strip("_"): function
    for function in (
        _zeros, _claims, _claims_jpeg, _claims_webp, _thin, _text, _exif, _many_chunks, _other_format, _text_file,
        _moving, _no_file,
    )
}  # fmt: skip
