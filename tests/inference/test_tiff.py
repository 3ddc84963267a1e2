"""Photos in TIFF files, which are of many kinds."""

import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.inference.fakes import plane
from wssl_pl.errors import WSSLError
from wssl_pl.inference.photo import read_photo, write_photo


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "1"])
def test_tiff_as_a_viewer_shows_it(tmp_path, mode, turn):
    image = Image.fromarray(plane(40, 50)).convert(mode)
    image.save(tmp_path / "photo.tif", compression="tiff_lzw", tiffinfo={274: turn}, icc_profile=b"x" * 16 + b"RGB ")
    photo = read_photo(tmp_path / "photo.tif")
    shown = ImageOps.exif_transpose(Image.open(tmp_path / "photo.tif"))
    expected = np.asarray(shown.convert({"1": "L", "CMYK": "RGB"}.get(mode, mode))).reshape(*shown.size[::-1], -1)
    assert photo.pixels.shape[:2] == ((40, 50) if turn == 1 else (50, 40))
    assert np.array_equal(photo.pixels, expected[..., : photo.pixels.shape[-1]])
    assert (photo.alpha is not None) == (mode == "RGBA")
    write_photo(photo, tmp_path / "out.png")
    assert np.array_equal(read_photo(tmp_path / "out.png").pixels, photo.pixels)


def test_tiff_of_16_bits_keeps_them(tmp_path):
    for channels in (1, 3):
        pixels = np.random.default_rng(0).integers(0, 65535, (30, 20, channels), np.uint16)
        cv2.imwrite(str(tmp_path / "photo.tiff"), pixels[..., ::-1])
        assert np.array_equal(read_photo(tmp_path / "photo.tiff").pixels, pixels)


def test_tiffs_that_are_not_read(tmp_path):
    pages = [Image.new("L", (9, 9), value) for value in (0, 9)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    Image.new("F", (9, 9)).save(tmp_path / "floats.tif")
    Image.new("I", (9, 9)).save(tmp_path / "signed.tif")
    Image.new("I;16", (9, 9)).save(tmp_path / "turned.tif", tiffinfo={274: 3})
    for name, message in {
        "pages": "has several pages", "floats": "32 bits", "signed": "32 bits", "turned": "by a tag",
    }.items():  # fmt: skip
        with pytest.raises(WSSLError, match=rf"{name}\.tif: .*{message}"):
            read_photo(tmp_path / f"{name}.tif")


def test_a_whole_tiff_of_an_unread_kind_is_not_called_damaged(tmp_path):
    image, floats = Image.fromarray(plane(40, 50)), plane(40, 50, dtype=np.float32)
    image.convert("YCbCr").save(tmp_path / "ycbcr.tif")
    cv2.imwrite(str(tmp_path / "floats.tif"), floats)
    for name, tag, value in (("jpeg2000", 259, 34712), ("camera", 262, 32803)):
        image.save(tmp_path / f"{name}.tif")
        set_tag(tmp_path / f"{name}.tif", tag, value)
    for name, message in {
        "ycbcr": "compression 1, photometric interpretation 6, 8 bits",
        "floats": "32 bits a channel, floating-point numbers",
        "jpeg2000": "compression 34712",
        "camera": "interpretation 32803",
    }.items():
        with pytest.raises(WSSLError, match=rf"{name}\.tif: is a TIFF of a kind .*{message}.*: store it as PNG$"):
            read_photo(tmp_path / f"{name}.tif")
    image.save(tmp_path / "cut.tif")
    content = (tmp_path / "cut.tif").read_bytes()
    for length in (4, 30, len(content) // 2):
        (tmp_path / "cut.tif").write_bytes(content[:length])
        with pytest.raises(WSSLError, match="damaged"):
            read_photo(tmp_path / "cut.tif")


def set_tag(path, tag, value):
    """Change a tag of one number in an uncompressed little-endian TIFF."""
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    entries = range(start + 2, start + 2 + 12 * count, 12)
    (at,) = [at for at in entries if struct.unpack_from("<H", content, at)[0] == tag]
    struct.pack_into("<H", content, at + 8, value)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("channels", "tag", "value", "message"),
    [(1, 258, 12, "12 bits a channel"), (3, 284, 2, "in planes"), (4, 338, 1, "premultiplied")],
)
def test_tiffs_whose_colours_would_be_wrong(tmp_path, channels, tag, value, message):
    pixels = np.random.default_rng(0).integers(0, 4096, (6, 5, channels), np.uint16)
    path = tmp_path / "photo.tif"
    if channels == 4:
        Image.fromarray(pixels.astype(np.uint8), "RGBA").save(path)
        content = path.read_bytes()
        assert content.count(struct.pack("<4H", 8, 8, 8, 8)) == 1
        path.write_bytes(content.replace(struct.pack("<4H", 8, 8, 8, 8), struct.pack("<4H", 16, 16, 16, 16)))
    else:
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    set_tag(path, tag, value)
    with pytest.raises(WSSLError, match=rf"photo\.tif: is a TIFF of .*{message}"):
        read_photo(path)


def test_profile_and_resolution_of_a_16_bit_tiff_stay(tmp_path):
    cv2.imwrite(str(tmp_path / "photo.tif"), np.full((9, 9, 3), 300, np.uint16))
    profile = b"p" * 16 + b"RGB "
    photo = replace(read_photo(tmp_path / "photo.tif"), profile=profile, dpi=(600.0, 300.0))
    write_photo(photo, tmp_path / "out.png")
    again = read_photo(tmp_path / "out.png")
    assert again.profile == profile
    assert again.dpi == pytest.approx((600, 300), abs=0.1)
    assert np.array_equal(again.pixels, photo.pixels)
