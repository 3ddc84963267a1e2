"""The function behind the button."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.inference.test_photo import bomb
from wssl_pl.app import work
from wssl_pl.app.models import LARGEST
from wssl_pl.app.work import describe, edited, fill_photo, open_photo, read_mask, save_preview
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter
from wssl_pl.inference.photo import read_photo


def random_pixels(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def box(photo):
    """A hole somewhere off the middle."""
    hole = np.zeros(photo.pixels.shape[:2], bool)
    hole[10:25, 30:50] = True
    return hole


def made(tmp_path):
    (tmp_path / "served").mkdir()
    return tmp_path / "served"


def turned_jpeg(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_pixels(90, 70, 3)).save(path, exif=exif)
    return path


def two_pages(path):
    image = Image.new("L", (9, 9))
    image.save(path, "TIFF", save_all=True, append_images=[image])


def transparent_png(path):
    Image.fromarray(random_pixels(70, 90, 4)).save(path)
    return path


def deep_png(path):
    cv2.imwrite(str(path), random_pixels(70, 90, 3, dtype=np.uint16))
    return path


def grey_webp(path):
    Image.fromarray(random_pixels(70, 90)).convert("RGB").save(path, lossless=True)
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [(turned_jpeg, "a.jpg"), (transparent_png, "a.png"), (deep_png, "b.png"), (grey_webp, "a.webp")],
)
def test_pixels_outside_the_hole_are_those_of_the_file(tmp_path, inpainter, write, name):
    source = write(tmp_path / name)
    filled = fill_photo(source, box, inpainter, made(tmp_path), 1.0)
    before, after = read_photo(source), read_photo(filled.path)
    hole = box(before)
    assert after.pixels.dtype == before.pixels.dtype
    assert (after.pixels[~hole] == before.pixels[~hole]).all()
    assert (after.pixels[hole] != before.pixels[hole]).any(axis=-1).mean() > 0.9
    assert (before.alpha is None) == (after.alpha is None)
    assert before.alpha is None or (after.alpha == np.where(hole, 255, before.alpha)).all()
    assert filled.path.name == f"{source.stem}-filled.png"
    assert f"{before.pixels.shape[1]} × {before.pixels.shape[0]} pixels" in filled.summary


def test_a_turned_photo_is_shown_and_painted_upright(tmp_path, inpainter):
    source = turned_jpeg(tmp_path / "a.jpg")
    filled = fill_photo(source, box, inpainter, made(tmp_path), 1.0)
    with Image.open(source) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    seen = work.original(source, tmp_path, 1.0)
    assert (np.asarray(Image.open(seen.preview)) == upright).all()
    with Image.open(filled.path) as image:
        result = np.asarray(ImageOps.exif_transpose(image))
    assert result.shape == upright.shape == (70, 90, 3)
    changed = (result != upright).any(axis=-1)
    assert not changed[~box(read_photo(source))].any()
    assert (np.asarray(Image.open(filled.preview)) == result).all()


def test_previews_are_small_8_bit_and_on_white(tmp_path):
    pixels = np.full((500, 3000, 2), 65535, np.uint16)
    pixels[..., 0], pixels[:, 1500:, 1] = 0x8000, 0
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., [0, 0, 0, 1]])
    save_preview(open_photo(tmp_path / "a.png", 2.0), tmp_path / "preview.png")
    with Image.open(tmp_path / "preview.png") as image:
        assert image.size == (1600, 267)
        assert image.mode == "RGB"
        assert image.getpixel((100, 80)) == (128, 128, 128)
        assert image.getpixel((1400, 80)) == (255, 255, 255)


def test_a_preview_keeps_the_colour_profile(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(random_pixels(40, 40, 3)).save(tmp_path / "a.png", icc_profile=profile)
    save_preview(open_photo(tmp_path / "a.png", 1.0), tmp_path / "preview.png")
    assert Image.open(tmp_path / "preview.png").info["icc_profile"] == profile


def test_the_soft_edge_counts_for_the_limit_of_a_method(tmp_path, monkeypatch):
    source = transparent_png(tmp_path / "a.png")
    method, folder = Inpainter.from_method("biharmonic"), made(tmp_path)
    monkeypatch.setitem(LARGEST, method.info.name, 400 / 1e6)  # the hole has 300 pixels
    fill_photo(source, box, method, folder, 1.0)
    with pytest.raises(WSSLError, match="the hole is too large"):
        fill_photo(source, box, method, folder, 1.0, feather=5)


def test_progress_is_told_to_the_end(tmp_path, inpainter):
    told = []
    source = transparent_png(tmp_path / "a.png")
    fill_photo(source, box, inpainter, made(tmp_path), 1.0, lambda *each: told.append(each))
    assert told[-1] == (300, 300)


def test_one_photo_is_decoded_at_a_time(tmp_path, monkeypatch):
    locked, source = [], transparent_png(tmp_path / "a.png")

    def read(*args):
        locked.append(work.DECODING.locked())
        return read_photo(*args)

    monkeypatch.setattr(work, "read_photo", read)
    work.original(source, tmp_path, 1.0)
    assert locked == [True]
    assert not work.DECODING.locked()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("no picture"), "The photo a.png is not a JPEG, PNG, WebP"),
        (lambda path: Image.new("RGB", (1100, 1000)).save(path), "1100 x 1000 pixels"),
        (bomb, "The photo a.png has far more than 1 million pixels: make it smaller"),
        (two_pages, "The photo a.png has several pages: give a single image"),
        (lambda path: Image.new("I;16", (9, 9)).save(path, "TIFF", tiffinfo={274: 3}), ": store it as 16-bit PNG"),
        (lambda path: None, "The photo a.png is gone"),
        (lambda path: Image.new("RGB", (8, 8)).save(path, "GIF"), "The photo a.png is not a JPEG, PNG, WebP"),
    ],
)
def test_a_photo_that_cannot_be_used_is_refused_in_one_line_without_our_folders(tmp_path, write, message):
    write(tmp_path / "a.png")
    with pytest.raises(WSSLError) as caught:
        open_photo(tmp_path / "a.png", 1.0)
    assert message in describe(caught.value)
    assert "\n" not in describe(caught.value)
    assert str(tmp_path) not in describe(caught.value)
    assert "max_megapixels" not in describe(caught.value)


def test_what_to_do_about_a_model_is_for_who_runs_the_page(tmp_path):
    error = WSSLError("ckpt", tmp_path / "a.ckpt", "is damaged", "`wssl export safetensors` writes one")
    assert describe(error) == "The model a.ckpt is damaged"


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((70, 90), np.uint8), "The mask m.png marks no hole, so that there is nothing to fill"),
        (np.full((70, 90), 255, np.uint8), "The mask m.png marks the whole photo as hole"),
        (
            np.zeros((90, 70), np.uint8),
            "The mask m.png is 70 x 90 pixels, the photo 90 x 70: give one of the same size",
        ),
        (np.full((70, 90), 76, np.uint8), ": its brightest value is 76 of 255: paint in white on black"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused_in_one_line(tmp_path, mask, message):
    photo = read_photo(transparent_png(tmp_path / "a.png"))
    Image.fromarray(mask).save(tmp_path / "m.png")
    with pytest.raises(WSSLError) as caught:
        read_mask(photo, tmp_path / "m.png", 1.0)
    assert message in describe(caught.value)
    assert "hole=" not in describe(caught.value)
    assert "resize_mask" not in describe(caught.value)
    assert str(tmp_path) not in describe(caught.value)


def test_versions_are_named_after_the_photo_and_the_last_change(tmp_path):
    names = "a.jpg", "a-filled.png", "a-filled-turned.png", f"{'b' * 99}.png"
    assert [edited(tmp_path / name, "filled", tmp_path).name for name in names] == [
        "a-filled.png", "a-filled.png", "a-filled.png", f"{'b' * 80}-filled.png",
    ]  # fmt: skip


def test_a_turned_photo_keeps_transparency_and_metadata(tmp_path):
    turned = work.turn_photo(transparent_png(tmp_path / "a.png"), 90, tmp_path, 1.0)
    before, after = read_photo(tmp_path / "a.png"), read_photo(turned.path)
    assert (after.pixels == np.rot90(before.pixels)).all()
    assert (after.alpha == np.rot90(before.alpha)).all()
    jpeg = work.turn_photo(turned_jpeg(tmp_path / "b.jpg"), 180, tmp_path, 1.0)
    assert (read_photo(jpeg.path).pixels == np.rot90(read_photo(tmp_path / "b.jpg").pixels, 2)).all()
    assert read_photo(jpeg.path).turn == 1  # upright, as a PNG of a JPEG
