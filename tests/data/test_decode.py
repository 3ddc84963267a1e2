import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.fakes import face, hole_mask, save_with_xmp
from wssl_pl.data import decode
from wssl_pl.data.decode import RESIZE_FILTERS, dilate, read_image, read_mask, resize_area
from wssl_pl.data.files import damage
from wssl_pl.errors import DataError


def test_short_side_is_resized_and_the_centre_square_kept(tmp_path: Path) -> None:
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert read_image(tmp_path / "wide.png", 32).shape == (32, 32, 3)
    np.testing.assert_allclose(read_image(tmp_path / "wide.png", 32)[:, 2:-2], 200, atol=2)


@pytest.mark.parametrize("name", RESIZE_FILTERS)
def test_every_filter_keeps_the_mean_and_the_centre_square(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 81, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    image = read_image(tmp_path / "noise.png", 20, name)
    assert image.shape == (20, 20, 3)
    assert image.mean() == pytest.approx(pixels[:, 10:-10].mean(), abs=2)


def test_area_is_the_mean_over_each_pixel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    expected = pixels.reshape(16, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(read_image(tmp_path / "noise.png", 16, "area") - expected).max() <= 0.5


def test_scaled_jpeg_decoding_is_close_to_decoding_in_full(tmp_path: Path) -> None:
    face(5, 512).save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as image:
        full = np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS), np.float32)
    assert np.abs(read_image(tmp_path / "large.jpg", 64) - full).mean() < 1.5


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "I;16"])
@pytest.mark.parametrize("value", [0, 255])
def test_every_mode_becomes_rgb_of_the_same_brightness(tmp_path: Path, mode: str, value: int) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((40, 40), value * 257, np.uint16))
    else:
        image = Image.new("RGB", (40, 40), (value, value, value)).convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path)
    pixels = read_image(path, 32)
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(int) - value).max() <= 2


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 40), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png", 32) == 128).all()


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (40, 40), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png", 32) == 255).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_rotation_is_applied(tmp_path: Path, suffix: str) -> None:
    top = np.zeros((64, 64, 3), np.uint8)
    top[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the top goes to the right
    Image.fromarray(top).save(tmp_path / f"turned{suffix}", exif=exif)
    pixels = read_image(tmp_path / f"turned{suffix}", 32)
    assert pixels[:, 20:].mean() > 240
    assert pixels[:, :12].mean() < 15


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("turn", [3, 6])
def test_the_orientation_of_xmp_is_ignored(tmp_path: Path, suffix: str, turn: int) -> None:
    top = np.zeros((64, 64, 3), np.uint8)
    top[:32] = 255
    pixels = read_image(save_with_xmp(Image.fromarray(top), tmp_path / f"image{suffix}", turn), 32)
    assert pixels[:12].mean() > 240
    assert pixels[20:].mean() < 15


def test_one_pixel_image(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "one.png")
    assert (read_image(tmp_path / "one.png", 32) == (9, 8, 7)).all()


def test_damage_inside_the_data_names_the_file(tmp_path: Path) -> None:
    face(0, 64).save(tmp_path / "hurt.png")
    content = bytearray((tmp_path / "hurt.png").read_bytes())
    content[60:200] = bytes(140)
    (tmp_path / "hurt.png").write_bytes(content)
    with pytest.raises(DataError, match=r"^images=.*hurt\.png: cannot be read: ") as caught:
        read_image(tmp_path / "hurt.png", 32)
    assert "\n" not in str(caught.value)


def test_a_file_that_pillow_would_run_a_program_for_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    for read in (lambda path: read_image(path, 32), lambda path: read_mask(path, 32, bright=True)):
        with pytest.raises(DataError, match=r"a\.jpg: cannot be read: cannot identify image file"):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_coverage_is_the_bright_or_the_dark_part(tmp_path: Path, mode: str) -> None:
    bright = hole_mask(0.25, 64).astype(bool)
    Image.fromarray(bright).convert("L").convert(mode).save(tmp_path / "mask.png")
    expected = hole_mask(0.25, 32).astype(bool)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", 32, bright=True)[0], expected)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", 32, bright=False)[0], ~expected)


def test_half_covered_pixels_count_either_way(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[::2] = 255
    Image.fromarray(stripes).save(tmp_path / "half.png")
    assert read_mask(tmp_path / "half.png", 32, bright=True)[0].all()
    assert read_mask(tmp_path / "half.png", 32, bright=False)[0].all()


def test_grey_masks_are_binarised_at_half(tmp_path: Path) -> None:
    Image.fromarray(np.array([[127, 128]] * 2, np.uint8).repeat(32, 0).repeat(32, 1)).save(tmp_path / "grey.png")
    bright = read_mask(tmp_path / "grey.png", 32, bright=True)[0]
    assert not bright[:, :16].any()
    assert bright[:, 16:].all()


def test_one_limit_of_pixels(tmp_path: Path) -> None:
    Image.new("1", (10_001, 10_000)).save(tmp_path / "large.png")
    for read in (lambda path: read_image(path, 32), lambda path: read_mask(path, 32, bright=True)):
        with pytest.raises(DataError, match=r"has 10001 x 10000 pixels, 100 million: above the limit of 100$"):
            read(tmp_path / "large.png")
    assert damage(tmp_path / "large.png") == "has 10001 x 10000 pixels, 100 million: above the limit of 100"


@pytest.mark.parametrize("pixels", [0, 1, 2, 7, 40, 100_000])
def test_a_mask_is_widened_by_a_square(pixels: int) -> None:
    mask = np.random.default_rng(0).random((30, 41)) < 0.01
    expected = np.zeros_like(mask)
    for row, column in zip(*np.nonzero(mask), strict=True):
        expected[max(0, row - pixels) : row + pixels + 1, max(0, column - pixels) : column + pixels + 1] = True
    np.testing.assert_array_equal(dilate(mask, pixels), expected)


def test_a_large_mask_is_widened_far_in_a_moment() -> None:
    mask = np.zeros((1500, 2000), bool)
    mask[700, 900] = True
    assert dilate(mask, 500).sum() == 1001 * 1001


@pytest.mark.parametrize("mode", ["LA", "P", "RGBA", "I;16"])
def test_bands_change_no_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 41, 4), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode == "P":
        image = image.quantize(20)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "image.png")
    whole = [read_image(tmp_path / "image.png", 20, name) for name in RESIZE_FILTERS]
    monkeypatch.setattr(decode, "BAND", 41 * 7)
    for name, expected in zip(RESIZE_FILTERS, whole, strict=True):
        np.testing.assert_array_equal(read_image(tmp_path / "image.png", 20, name), expected)


def test_a_long_image_is_cut_before_it_is_enlarged() -> None:
    # Repeated in whole it would take 800 MB.
    tracemalloc.start()
    resize_area(np.zeros((1, 1_000_000), np.uint8), 400)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def exact_area(pixels: np.ndarray, size: int) -> np.ndarray:
    """The sum over each pixel's area, in whole numbers, where the whole is ``(2 * side) ** 2``."""
    side = min(pixels.shape)
    fine = pixels.astype(np.int64).repeat(2 * size, axis=0).repeat(2 * size, axis=1)
    top, left = ((length - side) * size for length in pixels.shape)
    square = fine[top : top + 2 * size * side, left : left + 2 * size * side]
    return square.reshape(size, 2 * side, size, 2 * side).sum((1, 3))


@pytest.mark.parametrize("shape", [(16, 16), (37, 50), (41, 13), (9, 9), (24, 17)])
@pytest.mark.parametrize("size", [7, 9, 16, 40])
@pytest.mark.parametrize("bright", [False, True])
def test_a_mask_is_resized_by_exact_area(tmp_path: Path, shape: tuple[int, int], size: int, bright: bool) -> None:
    pixels = np.random.default_rng(size).integers(0, 2, shape, np.uint8)
    Image.fromarray(pixels * 255).save(tmp_path / "mask.png")
    selected = pixels if bright else 1 - pixels
    covered, whole = exact_area(selected, size), (2 * min(shape)) ** 2
    np.testing.assert_allclose(resize_area(selected, size), covered / whole, atol=1e-5)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", size, bright=bright)[0], 2 * covered >= whole)


@pytest.mark.real
def test_real_masks_are_resized_by_exact_area(real_data: Path) -> None:
    for path in sorted((real_data / "qd_imd" / "train").glob("*.png"))[:5]:
        with Image.open(path) as image:
            dark = ~np.asarray(image.convert("1"))
        rows = np.linspace(0, dark.shape[0], 225)
        sums = np.zeros((513, 513))
        sums[1:, 1:] = dark.cumsum(0).cumsum(1)
        # The integral of the mask up to a place between pixels is linear in both directions.
        across = np.stack([np.interp(rows, np.arange(513), row) for row in sums])
        both = np.stack([np.interp(rows, np.arange(513), column) for column in across.T], axis=1)
        covered = np.diff(np.diff(both, axis=0), axis=1) / (512 / 224) ** 2
        np.testing.assert_array_equal(read_mask(path, 224, bright=False)[0], covered >= 0.5 - 1e-9)
