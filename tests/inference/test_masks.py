from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.data.fakes import save_with_xmp
from tests.inference.fakes import plane, square
from tests.inference.test_photo import exif_block
from wssl_pl.errors import WSSLError
from wssl_pl.inference.masks import MaskOptions, find_mask
from wssl_pl.inference.photo import read_photo

HOLE = square(50, 60, 10, 20, 12)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(plane(50, 60)).save(tmp_path / "photo.png")
    return read_photo(tmp_path / "photo.png")


def saved(folder, array, name="mask.png", **how):
    Image.fromarray(array).save(folder / name, **how)
    return folder / name


def find(photo, mask=None, **options):
    return find_mask(photo, mask, MaskOptions(**options))[0]


@pytest.mark.parametrize(
    "mask",
    [
        HOLE,
        HOLE * np.uint8(255),
        HOLE * np.uint8(1),
        HOLE * np.uint16(65535),
        HOLE * np.uint16(255),
        HOLE * np.uint16(1),
        np.stack([HOLE * np.uint8(255)] * 3, -1),
    ],
    ids=["1 bit", "grey", "0 and 1", "16 bit", "255 in 16 bits", "0 and 1 in 16 bits", "RGB"],
)
def test_white_is_the_hole_unless_black_is(photo, tmp_path, mask):
    path = saved(tmp_path, mask)
    assert np.array_equal(find(photo, path), HOLE)
    assert np.array_equal(find(photo, path, hole="black"), ~HOLE)


def test_a_mask_that_is_not_black_and_white_alone_is_told_of(photo, tmp_path):
    path = saved(tmp_path, np.where(HOLE, 200, 30).astype(np.uint8))
    hole, notes = find_mask(photo, path, MaskOptions())
    assert np.array_equal(hole, HOLE)
    assert "not black and white alone" in notes[0]


def test_holes_are_widened(photo, tmp_path):
    path = saved(tmp_path, HOLE)
    assert np.array_equal(find(photo, path, dilate=3), square(50, 60, 7, 17, 18))
    assert np.array_equal(find(photo, path, dilate=0), HOLE)


def test_another_size_is_refused_or_resized(photo, tmp_path):
    large = np.kron(HOLE, np.ones((3, 2), bool))
    path = saved(tmp_path, large)
    with pytest.raises(WSSLError, match=r"120 x 150 pixels, the photo 60 x 50.*resize_mask=true"):
        find(photo, path)
    assert np.array_equal(find(photo, path, resize_mask=True), HOLE)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_the_mask_is_meant_as_both_are_shown(tmp_path, turn):
    Image.fromarray(plane(50, 60)).save(tmp_path / "photo.jpg", exif=exif_block(turn))
    photo = read_photo(tmp_path / "photo.jpg")
    shown = np.zeros(photo.pixels.shape[:2], bool)
    shown[5:9, 7:20] = True
    assert np.array_equal(find(photo, saved(tmp_path, shown)), shown)
    if turn == 6:  # a mask that was drawn on the stored pixels and has the same tag
        stored = np.rot90(shown).copy()
        assert np.array_equal(find(photo, saved(tmp_path, stored, "turned.png", exif=exif_block(6))), shown)


def test_transparency_marks_the_hole(tmp_path):
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    alpha[40, 50] = 254
    Image.fromarray(np.dstack([plane(50, 60), alpha])).save(tmp_path / "photo.png")
    expected = HOLE.copy()
    expected[40, 50] = True
    assert np.array_equal(find(read_photo(tmp_path / "photo.png")), expected)


@pytest.mark.parametrize("bits", [np.uint8, np.uint16])
@pytest.mark.parametrize("colour", ["#ff00ff", "FF00FF"])
def test_a_colour_marks_the_hole(tmp_path, bits, colour):
    pixels = plane(50, 60, dtype=bits)
    pixels[HOLE] = np.array([1, 0, 1]) * np.iinfo(bits).max
    cv2.imwrite(str(tmp_path / "photo.png"), pixels[..., ::-1])
    assert np.array_equal(find(read_photo(tmp_path / "photo.png"), hole_color=colour), HOLE)


def test_a_grey_marks_the_hole_of_a_grey_photo(tmp_path):
    pixels = plane(50, 60, 1)[..., 0]
    pixels[HOLE] = 255
    path = saved(tmp_path, pixels, "photo.png")
    assert np.array_equal(find(read_photo(path), hole_color="#ffffff"), HOLE)
    with pytest.raises(WSSLError, match="marks no hole"):
        find(read_photo(path), hole_color="#ff00ff")


def test_empty_and_full_masks(photo, tmp_path):
    empty, full = saved(tmp_path, HOLE & False, "empty.png"), saved(tmp_path, HOLE | True, "full.png")
    with pytest.raises(WSSLError, match=r"empty\.png: marks no hole.*hole=black"):
        find(photo, empty)
    with pytest.raises(WSSLError, match=r"full\.png: marks the whole photo.*hole=black"):
        find(photo, full)
    with pytest.raises(WSSLError, match="hole=white"):
        find(photo, full, hole="black")
    with pytest.raises(WSSLError, match="marks the whole photo"):
        find(photo, saved(tmp_path, HOLE), dilate=60)


def test_nothing_that_marks_a_hole(photo, tmp_path):
    with pytest.raises(WSSLError, match="give a mask, or hole_color"):
        find(photo)
    with pytest.raises(WSSLError, match=r"hole_color=#123456: marks no hole.*save as PNG"):
        find(photo, hole_color="#123456")
    Image.new("RGBA", (9, 9)).save(tmp_path / "glass.png")
    with pytest.raises(WSSLError, match="marks the whole photo"):
        find(read_photo(tmp_path / "glass.png"))


def test_masks_that_cannot_be_read(photo, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    for name, message in {"text.png": "not a JPEG", "nowhere.png": "does not exist"}.items():
        with pytest.raises(WSSLError, match=f"mask=.*{message}"):
            find(photo, tmp_path / name)
    whole = saved(tmp_path, np.random.default_rng(0).random((50, 60)) < 0.5).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WSSLError, match=r"mask=.*cut\.png"):
        find(photo, tmp_path / "cut.png")
    with pytest.raises(WSSLError, match=r"above the limit of 0\.001"):
        find(photo, saved(tmp_path, HOLE), max_megapixels=0.001)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hole": "grey"}, "hole=grey"),
        ({"hole_color": "pink"}, "hole_color=pink"),
        ({"dilate": -1}, "dilate=-1"),
        ({"max_megapixels": 0.0}, "max_megapixels=0"),
        ({"max_megapixels": float("nan")}, "max_megapixels=nan"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(WSSLError, match=message):
        MaskOptions(**options)


def test_the_photo_is_named_as_it_was_typed(photo):
    with pytest.raises(WSSLError, match=str(Path(photo.path))):
        find(photo)


def test_a_mask_that_marks_most_of_the_photo_is_told_of(photo, tmp_path):
    path = saved(tmp_path, ~HOLE)
    _, notes = find_mask(photo, path, MaskOptions())
    assert notes == [f"mask={path} marks 95% of the photo as hole: if black is the hole, give hole=black"]
    assert find_mask(photo, path, MaskOptions(hole="black"))[1] == []
    _, notes = find_mask(photo, saved(tmp_path, HOLE), MaskOptions(hole="black"))
    assert notes[0].endswith("if white is the hole, give hole=white")
    assert find_mask(photo, path, MaskOptions(alone=False))[1] == []


def test_a_jpeg_mask_marks_the_same_pixels(photo, tmp_path):
    hole, notes = find_mask(photo, saved(tmp_path, HOLE * np.uint8(255), "mask.jpg", quality=60), MaskOptions())
    assert np.array_equal(hole, HOLE)
    assert "not black and white alone" in notes[0]


@pytest.mark.parametrize(("strokes", "around", "hole"), [(255, 255, "white"), (255, 0, "white"), (0, 255, "black")])
def test_what_is_transparent_is_no_hole(photo, tmp_path, strokes, around, hole):
    layer = np.full((*HOLE.shape, 4), around, np.uint8)
    layer[HOLE, :3] = strokes
    layer[..., 3] = HOLE * np.uint8(255)
    assert np.array_equal(find(photo, saved(tmp_path, layer), hole=hole), HOLE)


def test_a_photo_that_is_restored_may_have_an_empty_mask(photo, tmp_path):
    assert not find(photo, saved(tmp_path, HOLE & False), restores=True).any()


def test_a_photo_that_is_restored_needs_no_hole(photo):
    hole, notes = find_mask(photo, None, MaskOptions(restores=True))
    assert not hole.any()
    assert notes == []


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("turn", [3, 6])
def test_the_orientation_of_xmp_does_not_turn_a_mask(photo, tmp_path, suffix, turn):
    path = save_with_xmp(Image.fromarray(HOLE).convert("L"), tmp_path / f"mask.{suffix}", turn)
    assert np.array_equal(find(photo, path), HOLE)


@pytest.mark.parametrize("hole", ["white", "black"])
@pytest.mark.parametrize(
    ("stroke", "around", "remedy"),
    [
        ((255, 0, 0), (0, 0, 0), "its brightest value is 76 of 255: paint in white on black"),
        ((255, 255, 255), (140, 140, 140), "its darkest value is 140 of 255: paint in white on black"),
    ],
)
def test_greys_that_are_all_dark_or_all_bright_are_named(photo, tmp_path, hole, stroke, around, remedy):
    path = saved(tmp_path, np.where(HOLE[..., None], stroke, around).astype(np.uint8))
    with pytest.raises(WSSLError, match=f"marks .*{remedy}$"):
        find(photo, path, hole=hole)


def test_transparency_that_marks_most_of_a_photo_or_is_partial_is_reported(tmp_path):
    alpha = np.where(HOLE, 255, 0).astype(np.uint8)
    path = saved(tmp_path, np.dstack([plane(50, 60), alpha]), "cut_out.png")
    assert find_mask(read_photo(path), None, MaskOptions())[1] == [
        f"the transparency of {path} marks 95% of the photo as hole: if that is its background, give a mask"
    ]
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    alpha[40:42, 30:33] = 254
    path = saved(tmp_path, np.dstack([plane(50, 60), alpha]), "soft.png")
    hole, notes = find_mask(read_photo(path), None, MaskOptions())
    assert hole[40, 30]
    assert notes == [f"{path}: 6 pixels of the hole are partly opaque, and are filled too"]


def test_a_colour_that_marks_most_of_a_photo_is_reported(tmp_path):
    path = saved(tmp_path, np.where(HOLE[..., None], plane(50, 60), 255).astype(np.uint8), "photo.png")
    (note,) = find_mask(read_photo(path), None, MaskOptions(hole_color="#ffffff"))[1]
    assert note.startswith(f"hole_color=#ffffff in {path} marks 95% of the photo as hole: if that is its background")
