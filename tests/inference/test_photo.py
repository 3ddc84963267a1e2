import io
import struct
import sys
import tracemalloc
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.data.fakes import save_with_xmp
from tests.inference.fakes import plane
from wssl_pl.data import exif
from wssl_pl.errors import WSSLError
from wssl_pl.inference import metadata
from wssl_pl.inference.photo import Photo, open_image, output_format, read_photo, write_photo

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_block(turn=None, thumbnail=None):
    """An EXIF block as a camera writes it, thumbnail included, little-endian."""
    entries = [(0x010F, 2, 4, b"cam\0")] + ([(0x0112, 3, 1, struct.pack("<HH", turn, 0))] if turn else [])
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    second = 8 + len(body) + 4
    head = b"II*\0" + struct.pack("<I", 8) + body
    if thumbnail is None:
        return exif.PREFIX + head + struct.pack("<I", 0)
    at = second + 2 + 2 * 12 + 4
    link = struct.pack("<HHHIIHHII", 2, 0x0201, 4, 1, at, 0x0202, 4, 1, len(thumbnail))
    return exif.PREFIX + head + struct.pack("<I", second) + link + struct.pack("<I", 0) + thumbnail


def modes():
    rng = np.random.default_rng(0)
    for bits in (np.uint8, np.uint16):
        for channels in (1, 3, 4):
            yield rng.integers(0, np.iinfo(bits).max, (30, 41, channels), bits)


@pytest.mark.parametrize("pixels", list(modes()), ids=lambda p: f"{p.dtype}-{p.shape[-1]}")
def test_png_of_8_and_16_bit_comes_back_bit_by_bit(pixels, tmp_path):
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[-1]]
    cv2.imwrite(str(tmp_path / "photo.png"), pixels[..., order])
    photo = read_photo(tmp_path / "photo.png")
    colours = min(3, pixels.shape[-1])
    assert np.array_equal(photo.pixels, pixels[..., :colours])
    assert (photo.alpha is not None) == (pixels.shape[-1] == 4)
    write_photo(photo, tmp_path / "again.png")
    again = cv2.imread(str(tmp_path / "again.png"), cv2.IMREAD_UNCHANGED)
    assert again.dtype == pixels.dtype
    assert np.array_equal(again.reshape(pixels.shape), pixels[..., order])


def test_grey_with_transparency(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 2), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    photo = read_photo(tmp_path / "photo.png")
    write_photo(photo, tmp_path / "again.png")
    with Image.open(tmp_path / "again.png") as again:
        assert again.mode == "LA"
        assert np.array_equal(np.asarray(again), pixels)
    wide = pixels.astype(np.uint16) * 257
    sixteen = replace(photo, pixels=wide[..., :1], alpha=wide[..., 1])
    write_photo(sixteen, tmp_path / "wide.png")
    again = cv2.imread(str(tmp_path / "wide.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(again[..., 0], wide[..., 0])
    assert np.array_equal(again[..., 3], wide[..., 1])


@pytest.mark.parametrize("turn", [1, 5, 6])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_is_written_in_strips_as_it_is_stored(tmp_path, turn, channels):
    pixels = np.random.default_rng(0).integers(0, 65536, (700, 9, channels), np.uint16)
    colours = 1 if channels < 3 else 3
    alpha = pixels[..., -1] if channels > colours else None
    profile = (b"gAMA", struct.pack(">I", 100000))
    write_photo(Photo(tmp_path, pixels[..., :colours], alpha, turn, None, None, [profile]), tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert metadata.read_chunks(content)[1] == profile
    assert content[25] == {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    again = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    order = {1: [0], 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    assert np.array_equal(again.reshape(*again.shape[:2], -1)[..., order], exif.as_stored(pixels, turn))
    with Image.open(tmp_path / "a.png") as image:
        image.load()


@pytest.mark.parametrize(("bits", "reading", "writing"), [(np.uint8, 1.7, 2.5), (np.uint16, 1.3, 2.0)])
def test_memory_of_reading_and_writing_in_multiples_of_the_pixels(tmp_path, bits, reading, writing):
    pixels = np.zeros((2000, 400, 4), bits)
    cv2.imwrite(str(tmp_path / "photo.png"), pixels)
    read_photo(tmp_path / "photo.png")
    tracemalloc.start()
    try:
        photo = read_photo(tmp_path / "photo.png")
        assert tracemalloc.get_traced_memory()[1] < reading * pixels.nbytes
        tracemalloc.reset_peak()
        write_photo(photo, tmp_path / "again.png")
        assert tracemalloc.get_traced_memory()[1] < writing * pixels.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("transparency", [None, 3])
def test_palette_pictures_keep_their_colours(tmp_path, transparency):
    picture = Image.fromarray(plane(30, 40)).quantize(8)
    picture.save(tmp_path / "photo.png", **({} if transparency is None else {"transparency": transparency}))
    photo = read_photo(tmp_path / "photo.png")
    write_photo(photo, tmp_path / "again.png")
    with Image.open(tmp_path / "photo.png") as before, Image.open(tmp_path / "again.png") as after:
        assert after.mode == ("RGB" if transparency is None else "RGBA")
        assert np.array_equal(np.asarray(before.convert("RGBA")), np.asarray(after.convert("RGBA")))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_the_orientation_is_kept_and_the_picture_looks_the_same(tmp_path, turn, suffix):
    source, target = tmp_path / f"photo.{suffix}", tmp_path / f"again.{suffix}"
    pixels = plane(24, 36)
    keep = {"quality": 95} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(source, exif=exif_block(turn), **keep)
    photo = read_photo(source)
    with Image.open(source) as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(photo.pixels, shown)
    with open_image(source, "photo", 1) as (_, _, size):
        assert size == shown.shape[:2]
    write_photo(photo, target)
    with Image.open(target) as image:
        assert image.getexif()[exif.ORIENTATION] == turn
        assert image.size == (36, 24), "stored as before"
        difference = np.abs(np.asarray(ImageOps.exif_transpose(image)).astype(int) - shown)
    assert difference.max() <= (8 if suffix == "jpg" else 0)
    for other in {"png", "jpg", "webp"} - {suffix}:
        write_photo(photo, tmp_path / f"again.{other}")
        with Image.open(tmp_path / f"again.{other}") as image:
            assert (image.getexif()[exif.ORIENTATION], image.getexif()[0x010F]) == (1, "cam")
            assert np.abs(np.asarray(image).astype(int) - shown).max() <= (8 if other == "jpg" else 0), "upright"


def test_turning_and_turning_back():
    pixels = np.arange(24).reshape(2, 4, 3)
    for turn in range(1, 9):
        assert np.array_equal(exif.as_stored(exif.upright(pixels, turn), turn), pixels)


@pytest.mark.parametrize("source", ["photo.png", "photo.jpg", "photo.webp"])
@pytest.mark.parametrize("target", ["again.png", "again.jpg", "again.webp"])
def test_the_colour_profile_is_kept(tmp_path, source, target):
    Image.fromarray(plane(24, 36)).save(tmp_path / source, icc_profile=PROFILE)
    write_photo(read_photo(tmp_path / source), tmp_path / target)
    with Image.open(tmp_path / target) as image:
        assert image.info["icc_profile"] == PROFILE


def test_what_a_png_says_of_its_colours_is_kept_and_its_texts_are_not(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(plane(24, 36)).save(buffer, "PNG")
    said = [(b"gAMA", struct.pack(">I", 100000)), (b"cHRM", bytes(32)), (b"pHYs", struct.pack(">IIB", 5, 5, 1))]
    content = metadata.with_chunks(buffer.getvalue(), [*said, (b"tEXt", b"Comment\0secret")])
    (tmp_path / "photo.png").write_bytes(content)
    write_photo(read_photo(tmp_path / "photo.png"), tmp_path / "again.png")
    chunks = list(metadata.read_chunks((tmp_path / "again.png").read_bytes()))
    assert [chunk for chunk in chunks if chunk[0] in (b"gAMA", b"cHRM", b"pHYs", b"tEXt")] == said


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_thumbnail_that_still_shows_what_was_removed_goes(tmp_path, suffix):
    thumbnail = b"\xff\xd8 the old picture \xff\xd9"
    Image.fromarray(plane(24, 36)).save(tmp_path / f"photo.{suffix}", exif=exif_block(6, thumbnail))
    assert thumbnail in (tmp_path / f"photo.{suffix}").read_bytes()
    write_photo(read_photo(tmp_path / f"photo.{suffix}"), tmp_path / f"again.{suffix}")
    content = (tmp_path / f"again.{suffix}").read_bytes()
    assert b"the old picture" not in content
    with Image.open(io.BytesIO(content)) as image:
        assert image.getexif()[0x010F] == "cam"
        assert image.getexif()[exif.ORIENTATION] == 6


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "letter"), [(3, "H"), (4, "I")])
def test_a_thumbnail_in_strips_goes_too(order, kind, letter):
    """One without compression, as the EXIF standard allows it: its strips have their places and lengths in lists."""
    strips = [b"first strip of it", b"second"]
    first = struct.pack(order + "HHHIHH", 1, 0x0112, 3, 1, 6, 0)
    second = 8 + len(first) + 4
    lists = second + 2 + 2 * 12 + 4
    size = struct.calcsize(letter)
    starts = [lists + 2 * len(strips) * size, lists + 2 * len(strips) * size + len(strips[0])]
    entries = struct.pack(order + "H", 2)
    if size == 2:  # two numbers of two bytes are in the entry itself
        entries += struct.pack(order + "HHIHH", 0x0111, kind, 2, *starts)
        entries += struct.pack(order + "HHIHH", 0x0117, kind, 2, *map(len, strips))
    else:
        entries += struct.pack(order + "HHII", 0x0111, kind, 2, lists)
        entries += struct.pack(order + "HHII", 0x0117, kind, 2, lists + 2 * size)
    numbers = struct.pack(f"{order}4{letter}", *starts, *map(len, strips))
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    rest = struct.pack(order + "I", second) + entries + struct.pack(order + "I", 0) + numbers + b"".join(strips)
    block = exif.without_thumbnail(exif.PREFIX + head + first + rest + b"after it")
    assert not any(strip in block for strip in strips)
    assert block.endswith(b"\0after it")
    assert exif.orientation(block) == 6


@pytest.mark.parametrize(
    "block", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"x" * 40]
)
def test_a_damaged_exif_block_says_nothing_and_harms_nothing(block):
    assert exif.orientation(block) == 1
    assert exif.without_thumbnail(block).startswith(exif.PREFIX)
    assert exif.as_upright(block).startswith(exif.PREFIX)


def test_cmyk_becomes_rgb_and_loses_its_profile(tmp_path):
    Image.fromarray(plane(24, 36)).convert("CMYK").save(
        tmp_path / "photo.jpg", icc_profile=b"\0" * 16 + b"CMYK" + bytes(200)
    )
    photo = read_photo(tmp_path / "photo.jpg")
    assert photo.pixels.shape == (24, 36, 3)
    assert photo.profile is None
    assert photo.notes == ("is CMYK without a colour profile, and the result RGB: its colours may differ",)


def cmyk_profile():
    """An ICC profile in which all inks are grey: they only take away lightness, the sum of them 90 %."""
    levels = np.mgrid[:2, :2, :2, :2].mean(axis=0)
    grid = np.stack([255 - 230 * levels, np.full_like(levels, 128), np.full_like(levels, 128)], axis=-1)
    ramp = np.tile(np.arange(256, dtype=np.uint8), 7).tobytes()
    table = b"mft1" + struct.pack(">I4B", 0, 4, 3, 2, 0) + struct.pack(">9i", *(np.eye(3).ravel() * 65536).astype(int))
    table += ramp[: 4 * 256] + np.rint(grid).astype(np.uint8).tobytes() + ramp[4 * 256 :]
    white = b"XYZ " + struct.pack(">I3i", 0, 63190, 65536, 54061)
    text = b"text" + bytes(4) + b"none\0\0\0\0"
    description = b"desc" + struct.pack(">II", 0, 5) + b"grey\0" + bytes(8 + 3 + 67)
    tags = {b"desc": description, b"cprt": text, b"wtpt": white, b"A2B0": table}
    directory, content, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        directory += name + struct.pack(">II", at + len(content), len(data))
        content += padded
    head = struct.pack(">I4sI4s4s4s", at + len(content), b"none", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + directory + content


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_rgb_by_its_profile(tmp_path, suffix):
    inks = Image.new("CMYK", (24, 36), (0, 255, 255, 0))
    inks.save(tmp_path / f"photo.{suffix}", icc_profile=cmyk_profile())
    photo = read_photo(tmp_path / f"photo.{suffix}")
    assert photo.notes == ("is CMYK, and the result RGB, by its colour profile",)
    assert photo.profile is None
    assert np.ptp(photo.pixels, axis=-1).max() <= 3, "the red of no profile"
    assert 120 < photo.pixels.mean() < 145  # half of the inks: a lightness of 55 %


def test_webp_keeps_every_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    write_photo(read_photo(tmp_path / "photo.png"), tmp_path / "again.webp")
    with Image.open(tmp_path / "again.webp") as again:
        assert np.array_equal(np.asarray(again), pixels)


def test_what_a_format_cannot_hold(tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((9, 9, 3), np.uint16))
    for suffix in ("jpg", "webp"):
        with pytest.raises(WSSLError, match="the photo has 16"):
            write_photo(read_photo(tmp_path / "wide.png"), tmp_path / f"again.{suffix}")
    Image.new("RGBA", (9, 9), (1, 2, 3, 100)).save(tmp_path / "glass.png")
    with pytest.raises(WSSLError, match="no transparency"):
        write_photo(read_photo(tmp_path / "glass.png"), tmp_path / "again.jpg")
    Image.new("RGBA", (9, 9), (1, 2, 3, 255)).save(tmp_path / "solid.png")
    write_photo(read_photo(tmp_path / "solid.png"), tmp_path / "again.jpg")
    with pytest.raises(WSSLError, match="must end in"):
        write_photo(read_photo(tmp_path / "solid.png"), tmp_path / "again.tiff")
    assert sorted(path.name for path in tmp_path.glob("again*")) == ["again.jpg"]


def bomb(path, side=60000):
    """A PNG of a few kB that unpacks to gigabytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [metadata.PNG_SIGNATURE]
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10_000_000))), (b"IEND", b"")):
        parts += [struct.pack(">I4s", len(data), name), data, struct.pack(">I", zlib.crc32(name + data))]
    path.write_bytes(b"".join(parts))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11000, 60000])
def test_a_bomb_is_refused_by_its_header(tmp_path, side):
    bomb(tmp_path / "bomb.png", side)
    with pytest.raises(WSSLError, match=r"far more than 100|limit of 100"):
        read_photo(tmp_path / "bomb.png")


def test_the_largest_size_is_a_setting(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "photo.png")
    read_photo(tmp_path / "photo.png", megapixels=0.02)
    with pytest.raises(WSSLError, match=r"200 x 100 pixels.* above the limit of 0\.019"):
        read_photo(tmp_path / "photo.png", megapixels=0.019)


@pytest.mark.parametrize("bits", [np.uint8, np.uint16])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_files(tmp_path, bits, damage):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(bits).max, (40, 40, 3), bits)
    content = bytearray(cv2.imencode(".png", pixels)[1].tobytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 255
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(WSSLError, match=r"photo\.png"):
        read_photo(tmp_path / "photo.png")


def test_a_jpeg_that_is_cut_short(tmp_path):
    Image.fromarray(plane(100, 100)).save(tmp_path / "photo.jpg")
    content = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(WSSLError, match=r"photo\.jpg: is damaged, or was cut short: it cannot be decoded$"):
        read_photo(tmp_path / "photo.jpg")


def test_what_is_no_photo(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(tmp_path / "picture.gif")
    for name, message in {
        "text.png": "not a JPEG, PNG, WebP, TIFF or HEIC image, or its beginning is damaged$",
        "empty.jpg": "not a JPEG, PNG, WebP, TIFF or HEIC image, or its beginning is damaged$",
        "picture.gif": "not a JPEG, PNG, WebP, TIFF or HEIC image, or its beginning is damaged$",
        "moving.png": "an animation",
        "moving.webp": "an animation",
        "nowhere.png": "does not exist",
        ".": "is a folder",
    }.items():
        with pytest.raises(WSSLError, match=message):
            read_photo(tmp_path / name)


@pytest.mark.parametrize("source", ["jpg", "tif", "png"])
@pytest.mark.parametrize("target", ["jpg", "png"])
def test_the_resolution_stays(tmp_path, source, target):
    Image.new("RGB", (9, 9)).save(tmp_path / f"photo.{source}", dpi=(600, 600))
    write_photo(read_photo(tmp_path / f"photo.{source}"), tmp_path / f"out.{target}")
    with Image.open(tmp_path / f"out.{target}") as again:
        assert again.info["dpi"] == pytest.approx((600, 600), abs=0.1)


def test_grey_becomes_rgb_in_webp_without_the_profile_of_grey(tmp_path):
    Image.new("L", (9, 9), 7).save(tmp_path / "photo.jpg", icc_profile=b"p" * 16 + b"GRAY")
    photo = read_photo(tmp_path / "photo.jpg")
    assert photo.profile
    write_photo(photo, tmp_path / "out.webp")
    with Image.open(tmp_path / "out.webp") as again:
        assert "icc_profile" not in again.info


def test_one_transparent_grey_of_a_16_bit_png(tmp_path):
    pixels = np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000
    content = cv2.imencode(".png", pixels)[1].tobytes()
    (tmp_path / "photo.png").write_bytes(metadata.with_chunks(content, [(b"tRNS", struct.pack(">H", 3000))]))
    photo = read_photo(tmp_path / "photo.png")
    assert np.array_equal(photo.pixels[..., 0], pixels)
    assert np.array_equal(photo.alpha, np.where(pixels == 3000, 0, 65535))


def test_exif_after_the_pixels_of_a_png_turns_it(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(plane(24, 36)).save(buffer, "PNG")
    content = buffer.getvalue()
    late = metadata.chunk_bytes(b"eXIf", exif_block(6).removeprefix(exif.PREFIX))
    (tmp_path / "photo.png").write_bytes(content[:-12] + late + content[-12:])
    photo = read_photo(tmp_path / "photo.png")
    assert (photo.turn, photo.pixels.shape[:2]) == (6, (36, 24))
    with open_image(tmp_path / "photo.png", "mask", 1.0) as (image, _, size):
        assert size == (36, 24)
        assert ImageOps.exif_transpose(image).size == (24, 36)


def test_more_exif_than_jpeg_holds_is_refused_before_the_work(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png", exif=exif_block() + bytes(70_000))
    photo = read_photo(tmp_path / "photo.png")
    with pytest.raises(WSSLError, match=r"JPEG holds 65533 bytes of EXIF.*name a \.png"):
        output_format(tmp_path / "out.jpg", photo)
    write_photo(photo, tmp_path / "out.webp")


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(plane(64, 80))).save(tmp_path / "photo.heic", quality=90)
    photo = read_photo(tmp_path / "photo.heic")
    assert np.abs(photo.pixels.astype(int) - plane(64, 80)).mean() < 4


def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(WSSLError, match=r"needs pillow-heif: pip install 'wssl-pl\[heic\]'"):
        read_photo(tmp_path / "photo.heic")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("turn", [3, 6])
def test_the_orientation_of_xmp_does_not_turn_a_photo(tmp_path, suffix, turn):
    path = save_with_xmp(Image.fromarray(plane(80, 120)), tmp_path / f"photo.{suffix}", turn)
    photo = read_photo(path)
    assert photo.pixels.shape == (80, 120, 3)
    assert np.abs(photo.pixels.astype(int) - plane(80, 120)).max() <= 12


def test_a_photo_of_another_size_than_its_header_says_is_refused(tmp_path, monkeypatch):
    Image.fromarray(plane(24, 36)).save(tmp_path / "photo.png")
    monkeypatch.setattr("wssl_pl.inference.photo._decode", lambda image, grey: (plane(24, 30), None))
    with pytest.raises(WSSLError, match=r"photo\.png: is damaged"):
        read_photo(tmp_path / "photo.png")


def test_a_jpeg_with_a_second_image_is_a_jpeg(tmp_path):
    image = Image.fromarray(plane(24, 36))
    image.save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[image], exif=exif_block(6))
    with Image.open(tmp_path / "photo.jpg") as opened:
        assert opened.format == "MPO"
    write_photo(read_photo(tmp_path / "photo.jpg"), tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as again:
        assert (again.size, again.getexif()[exif.ORIENTATION]) == ((36, 24), 6)
