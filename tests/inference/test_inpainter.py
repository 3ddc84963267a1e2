from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.inference.fakes import plane, square
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter
from wssl_pl.inference.arrays import _read_mask
from wssl_pl.inference.photo import Photo


@pytest.fixture(scope="module")
def inpainter(model_files):
    return Inpainter.from_checkpoint(model_files["safetensors"], device="cpu")


HOLE = square(100, 130, 40, 50, 20)
PICTURE = plane(100, 130)


def test_a_picture_of_the_training_size_gets_the_composite_of_the_module(inpainter, tiny_module):
    torch.manual_seed(1)
    images, masks = torch.rand(3, 3, 60, 50), torch.zeros(3, 1, 60, 50)
    masks[:, :, 20:30, 10:40] = 1
    raw = Inpainter(inpainter.predictor, replace(inpainter.tiling, seam=0))(images, masks)
    with torch.no_grad():
        expected = torch.where(masks > 0, tiny_module(images, masks), images)
    assert torch.allclose(raw, expected, atol=1e-6)
    assert torch.equal(raw[masks.expand_as(raw) == 0], images[masks.expand_as(images) == 0])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("mask_mode", ["1", "L", "RGB"])
def test_pil_images(inpainter, mode, mask_mode):
    image = Image.fromarray(PICTURE).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(np.arange(130, dtype=np.uint8)[None].repeat(100, 0)))
    image.info["icc_profile"] = b"a profile"
    filled = inpainter(image, Image.fromarray(HOLE).convert(mask_mode))
    assert (filled.mode, filled.size, filled.info["icc_profile"]) == (mode, (130, 100), b"a profile")
    before, after = np.asarray(image), np.asarray(filled)
    assert np.array_equal(after[~HOLE], before[~HOLE])
    assert (after[HOLE] != before[HOLE]).any()
    if mode.endswith("A"):
        assert np.array_equal(after[..., -1], before[..., -1])


def test_16_bit_grey_and_palette_images_of_pil(inpainter):
    grey = Image.fromarray(plane(100, 130, 1, np.uint16)[..., 0])
    filled = inpainter(grey, HOLE)
    assert filled.mode == "I;16"
    assert np.array_equal(np.asarray(filled)[~HOLE], np.asarray(grey)[~HOLE])
    palette = Image.fromarray(PICTURE).quantize(16)
    filled = inpainter(palette, HOLE)
    assert filled.mode == "RGB"
    assert np.array_equal(np.asarray(filled)[~HOLE], np.asarray(palette.convert("RGB"))[~HOLE])


@pytest.mark.parametrize(("mode", "kind"), [("I", np.int32), ("I;16B", ">u2"), ("F", np.float32)])
def test_other_greys_of_pil_keep_mode_and_known_pixels(inpainter, mode, kind):
    values = plane(100, 130, 1, np.uint16)[..., 0]
    grey = Image.fromarray((values / 65535 if mode == "F" else values).astype(kind))
    assert grey.mode == mode
    filled = inpainter(grey, HOLE)
    assert filled.mode == mode
    before, after = np.asarray(grey), np.asarray(filled)
    assert np.array_equal(after[~HOLE], before[~HOLE])
    assert (after[HOLE] != before[HOLE]).any()


def test_cmyk_loses_its_profile_with_its_colours(inpainter):
    image = Image.fromarray(PICTURE).convert("CMYK")
    image.info["icc_profile"] = b"p" * 16 + b"CMYK"
    filled = inpainter(image, HOLE)
    assert filled.mode == "RGB"
    assert "icc_profile" not in filled.info


def test_a_layer_of_strokes_is_a_mask(inpainter):
    layer = np.full((*HOLE.shape, 4), 255, np.uint8)
    layer[..., 3] = HOLE * np.uint8(255)
    strokes = inpainter(PICTURE, Image.fromarray(layer))
    assert np.array_equal(strokes, inpainter(PICTURE, HOLE))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(100, 130), (100, 130, 1), (100, 130, 3), (100, 130, 4), (2, 100, 130, 3)])
def test_arrays(inpainter, dtype, shape):
    top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    image = (np.random.default_rng(0).random(shape) * top).astype(dtype)
    given = image.copy()
    filled = inpainter(image, HOLE)
    assert (filled.shape, filled.dtype) == (shape, dtype)
    assert np.array_equal(image, given), "what was given is not written to"
    hole = HOLE if len(shape) == 2 else HOLE[..., None]
    known = np.broadcast_to(~hole, shape)
    assert np.array_equal(filled[known], image[known])
    assert (filled[~known] != image[~known]).any()
    if shape[-1] == 4:
        assert np.array_equal(filled[..., 3], image[..., 3])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 100, 130), (1, 100, 130), (2, 3, 100, 130)])
def test_tensors(inpainter, dtype, shape):
    torch.manual_seed(0)
    image = torch.rand(shape) if dtype.is_floating_point else torch.rand(shape) * 255
    image = image.to(dtype)
    mask = torch.from_numpy(HOLE)
    filled = inpainter(image, mask[None].float())
    assert (filled.shape, filled.dtype, filled.device) == (image.shape, dtype, image.device)
    known = (~mask).expand(shape)
    assert torch.equal(filled[known], image[known])
    assert (filled[~known] != image[~known]).any()


@pytest.mark.parametrize(
    "mask",
    [
        HOLE, HOLE.astype(np.uint8), HOLE.astype(np.uint8) * 255, HOLE.astype(np.uint16) * 65535, HOLE.astype(np.int64),
        HOLE.astype(np.float64), HOLE[..., None], HOLE[None], Image.fromarray(HOLE), torch.from_numpy(HOLE),
        torch.from_numpy(HOLE)[None].to(torch.uint8) * 255, torch.from_numpy(HOLE).to(torch.bfloat16),
    ],
)  # fmt: skip
def test_every_kind_of_mask_means_the_same(inpainter, mask):
    assert np.array_equal(inpainter(PICTURE, mask), inpainter(PICTURE, HOLE))


def test_a_batch_gives_what_its_pictures_give_alone(inpainter):
    rng = np.random.default_rng(0)
    for height, width in ((40, 60), (100, 130)):
        images = rng.integers(0, 256, (3, height, width, 3), np.uint8)
        masks = np.stack([square(height, width, 5 * n, 8 * n, 12) for n in range(3)])
        together = inpainter(images, masks)
        assert np.array_equal(inpainter(images, masks[..., None]), together)
        for image, mask, filled in zip(images, masks, together, strict=True):
            assert np.abs(inpainter(image, mask).astype(int) - filled).max() <= 1
        tensors = inpainter(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)[:, None])
        assert np.array_equal(tensors.permute(0, 2, 3, 1).numpy(), together)


def test_a_list_of_pictures_of_several_sizes_and_kinds(inpainter):
    pictures = [Image.fromarray(PICTURE), plane(40, 50), torch.rand(3, 70, 60)]
    masks = [HOLE, square(40, 50, 3, 3, 9), square(70, 60, 3, 3, 9)]
    filled = inpainter(pictures, masks)
    assert [type(one) for one in filled] == [type(one) for one in pictures]
    for one, picture, mask in zip(filled, pictures, masks, strict=True):
        alone = inpainter(picture, mask)
        assert np.allclose(np.asarray(one, np.float64), np.asarray(alone, np.float64), atol=1e-6)


def test_threads_get_what_one_gets(inpainter):
    rng = np.random.default_rng(0)
    work = []
    for number in range(8):
        image = rng.integers(0, 256, (90 + number, 120, 3), np.uint8)
        work.append((image, square(90 + number, 120, 4 * number, 10, 30)))
    alone = [inpainter(*each) for each in work]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            for one, other in zip(alone, pool.map(lambda each: inpainter(*each), work), strict=True):
                assert np.array_equal(one, other)


def test_float_values_of_the_hole_are_not_looked_at(inpainter):
    image = PICTURE.astype(np.float32) / 255
    image[HOLE] = np.nan
    assert np.isfinite(inpainter(image, HOLE)).all()


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (PICTURE, HOLE[:99], "mask=130 x 99 pixels: the image has 130 x 100"),
        (PICTURE, np.zeros_like(HOLE), "has no hole"),
        (PICTURE, np.ones_like(HOLE), "is all hole"),
        (PICTURE[:1, :1], HOLE[:1, :1] | True, "is all hole"),
        (np.stack([PICTURE] * 2), np.stack([HOLE, HOLE & False]), "mask[1]: has no hole"),
        (np.stack([PICTURE] * 2), np.stack([HOLE] * 3), "one for each of 2 images"),
        (PICTURE.astype(np.float32), HOLE, "floats must be in [0, 1]"),
        (PICTURE.astype(np.int32), HOLE, "image=int32"),
        (PICTURE[..., :2], HOLE, "image=(100, 130, 2)"),
        (PICTURE[:0], HOLE, "image=(0, 130, 3)"),
        (np.full(PICTURE.shape, np.nan, np.float32), HOLE, "image=nan"),
        (PICTURE, HOLE * 2.0, "outside [0, 1]"),
        (PICTURE, HOLE.astype(complex), "mask=complex128"),
        (PICTURE, "mask.png", "mask=str"),
        ("photo.png", HOLE, "image=str"),
        (torch.rand(100, 130, 3), HOLE, "tensors must be (3, H, W)"),
        (torch.ones(3, 100, 130, dtype=torch.int32), HOLE, "image=torch.int32"),
        (Image.new("I", (130, 100), 65536), HOLE, "image=65536: whole numbers must be in [0, 65535]"),
        ([PICTURE], HOLE, "a list of as many masks"),
        ([PICTURE], [HOLE, HOLE], "a list of as many masks"),
    ],
)
def test_what_cannot_be_used_is_refused(inpainter, image, mask, message):
    with pytest.raises(WSSLError) as refused:
        inpainter(image, mask)
    assert message in str(refused.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_damaged_pil_images_are_refused(inpainter, tmp_path, suffix):
    """Pillow decodes them only when their pixels are read."""
    noise = np.random.default_rng(0).integers(0, 255, PICTURE.shape, np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(WSSLError, match=rf"^image={path}: cannot be read: "):
        inpainter(Image.open(path), HOLE)
    with pytest.raises(WSSLError, match=rf"^mask={path}: cannot be read: "):
        inpainter(PICTURE, Image.open(path))


def test_progress_is_told(inpainter):
    told = []
    inpainter(PICTURE, HOLE, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (400, 400)


@pytest.mark.parametrize(
    ("values", "kind", "hole"),
    [
        ([0.0, 0.49, 0.5, 1.0], np.float32, [False, False, True, True]),
        ([0, 1, 1, 0], np.uint8, [False, True, True, False]),
        ([0, 100, 127, 128], np.uint8, [False, False, False, True]),
        ([0, 1, 30_000, 65_535], np.uint16, [False, False, False, True]),
    ],
)
def test_where_a_mask_begins(values, kind, hole):
    (mask,) = _read_mask(np.array([values], kind), (1, 1, 4))
    assert mask.tolist() == [hole]


@pytest.mark.parametrize("channels", [2, 4])
def test_colours_of_wholly_transparent_pixels_make_no_difference(inpainter, channels):
    alpha = np.where(np.mgrid[:100, :130][1] > 60, 0, 255).astype(np.uint8)
    image = np.dstack([PICTURE[..., : channels - 1], alpha])
    other = image.copy()
    other[alpha == 0, : channels - 1] = 0
    if channels == 2:
        image, other = Image.fromarray(image), Image.fromarray(other)
    first, second = (np.asarray(inpainter(each, HOLE)) for each in (image, other))
    assert np.array_equal(first[HOLE], second[HOLE])
    assert np.array_equal(second[~HOLE], np.asarray(other)[~HOLE])
    assert np.array_equal(second[..., -1], alpha)


def test_what_is_filled_in_a_photo_is_opaque(inpainter):
    alpha = np.where(HOLE, 7, 200).astype(np.uint8)
    photo = Photo(Path("photo.png"), PICTURE, alpha, 1, None, None, [])
    filled = inpainter.fill(photo, HOLE)
    assert np.array_equal(filled.alpha, np.where(HOLE, 255, 200))
    assert photo.alpha is alpha
    assert alpha[HOLE].max() == 7
