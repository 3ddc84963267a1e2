import torch

from wssl_pl.callbacks import image_grid
from wssl_pl.modules import InpaintModule, PretextModule


def batch(count=2, size=32):
    return {
        "image": torch.rand(count, 3, size, size),
        "mask": (torch.rand(count, 1, size, size) < 0.4).float(),
        "random": torch.rand(count, 16),
    }


def cells(grid, size=32):
    """The images of a grid by row and column, without the gaps of 2 px."""
    rows = grid[:, 2:].split(size + 2, dim=1)
    return [[cell[:, :size, :size] for cell in row[:, :, 2:].split(size + 2, dim=2)] for row in rows]


def test_the_encoders_input_its_reconstruction_and_the_truth_side_by_side():
    module = PretextModule(["saturation", "masked"], width=4, pretext_holes=True, mask_channel=True)
    data = batch()
    drawn = module.validation_images(data)
    assert set(drawn) == {"val/images/masked"}
    inputs, targets = module.prepare_inputs(data)
    rows = cells(drawn["val/images/masked"])
    assert len(rows) == 2
    for row, image, target in zip(rows, inputs, targets["masked"], strict=True):
        assert torch.equal(row[0], image[:3])
        assert torch.equal(row[2], target)
        # A pixel of the reconstruction is 4 px of the image.
        assert torch.equal(row[1][:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2), row[1])


def test_nothing_is_drawn_of_a_classification():
    assert PretextModule(["rotation"], width=4).validation_images(batch()) == {}


def test_of_inpainting_the_truth_is_last():
    data = batch()
    drawn = InpaintModule(width=4).validation_images(data)
    rows = cells(drawn["val/images"].detach())
    assert all(torch.equal(row[3], image) for row, image in zip(rows, data["image"], strict=True))


def test_the_hole_of_the_given_image_is_grey():
    data = batch()
    (rows, _) = cells(image_grid(data["image"], data["mask"], torch.zeros(2, 3, 32, 32)))
    hole = data["mask"][0].bool().expand(3, -1, -1)
    assert torch.equal(rows[0][~hole], data["image"][0][~hole])
    assert rows[0][hole].unique().numel() == 1
    assert (rows[2][hole] == 0).all()
    assert torch.equal(rows[2][~hole], data["image"][0][~hole])


def test_a_composite_keeps_the_known_pixels_of_what_was_given():
    data, given = batch(), torch.rand(2, 3, 32, 32)
    (rows, _) = cells(image_grid(data["image"], data["mask"], torch.zeros(2, 3, 32, 32), given))
    known = data["mask"][0].expand(3, -1, -1) == 0
    assert torch.equal(rows[2][known], given[0][known])
    assert torch.equal(rows[3], data["image"][0])
