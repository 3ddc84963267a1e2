import math

import numpy as np
import pytest
import torch

from wssl_pl.evaluation.classical import fill_mean
from wssl_pl.evaluation.metrics import METRICS, measure, to_8_bit
from wssl_pl.evaluation.statistics import intervals
from wssl_pl.metrics import composite, psnr, ssim


@pytest.fixture
def batch():
    mask = torch.zeros(3, 1, 32, 32)
    mask[:, :, :, :8] = 1
    return torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32), mask


def test_values_are_those_of_the_metrics(batch):
    prediction, image, mask = batch
    found = measure(*batch)
    filled = composite(prediction, image, mask)
    assert set(found) == set(METRICS) - {"lpips", "lpips_composite", "psnr_known", "l1_known"}
    assert torch.equal(found["psnr"], psnr(prediction, image))
    assert torch.equal(found["psnr_composite"], psnr(filled, image))
    assert torch.allclose(found["ssim"], ssim(prediction, image), atol=1e-5)
    assert torch.allclose(found["ssim_composite"], ssim(filled, image), atol=1e-5)
    assert torch.allclose(found["psnr_hole"], psnr(prediction[..., :8], image[..., :8]), atol=1e-4)
    assert torch.allclose(found["l1_hole"], (prediction - image)[..., :8].abs().mean(dim=(1, 2, 3)), atol=1e-6)
    # A quarter is hole: the composite's errors are those of the hole, spread over four times the pixels.
    assert torch.allclose(found["l1_composite"], found["l1_hole"] / 4, atol=1e-6)
    assert torch.allclose(found["psnr_composite"], found["psnr_hole"] + 10 * math.log10(4), atol=1e-4)


def test_of_a_restored_image_the_known_part_is_measured_and_there_is_no_composite(batch):
    prediction, image, _ = batch
    found, plain = measure(*batch, restored=True), measure(*batch)
    assert set(found) == {name for name in plain if "composite" not in name} | {"psnr_known", "l1_known"}
    assert all(torch.equal(value, plain[name]) or value.isnan().all() for name, value in found.items() if name in plain)
    assert torch.allclose(found["psnr_known"], psnr(prediction[..., 8:], image[..., 8:]), atol=1e-4)
    assert torch.allclose(found["l1_known"], (prediction - image)[..., 8:].abs().mean(dim=(1, 2, 3)), atol=1e-6)


def test_no_hole_all_hole_and_identical(batch):
    prediction, image, mask = batch
    mask = torch.stack([torch.zeros_like(mask[0]), torch.ones_like(mask[0]), mask[0]])
    prediction = torch.stack([prediction[0], prediction[1], image[2]])
    found = measure(prediction, image, mask)
    assert found["psnr_hole"].isnan().tolist() == [True, False, False]
    assert found["l1_hole"].isnan().tolist() == [True, False, False]
    assert found["psnr_composite"].isinf().tolist() == [True, False, True]
    assert found["psnr_hole"][1].item() == pytest.approx(found["psnr"][1].item(), abs=1e-4)
    assert found["ssim"][2].item() == pytest.approx(1.0, abs=1e-6)


def test_images_have_256_levels():
    levels = to_8_bit(torch.tensor([-0.2, 0.1, 0.5 + 1e-4, 1.7]))
    assert torch.allclose(levels * 255, torch.tensor([0.0, 26.0, 128.0, 255.0]), atol=1e-4)


def test_bootstrap_interval_of_a_normal_sample_is_that_of_theory():
    values = np.random.default_rng(0).normal(20.0, 2.0, (400, 1))
    mean, low, high = intervals(values)
    assert mean[0] == pytest.approx(values.mean())
    assert (high - low)[0] == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.06)
    again = intervals(values)
    assert (again[1], again[2]) == (low, high)


def test_bootstrap_keeps_out_what_is_not_finite():
    values = np.array([[1.0, np.nan], [np.inf, np.nan], [3.0, np.nan]])
    mean, low, high = intervals(values)
    assert mean[0] == 2.0
    assert 1.0 <= low[0] <= high[0] <= 3.0
    assert np.isnan([mean[1], low[1], high[1]]).all()
    assert np.isnan(intervals(values[:, 1:])).all()


def test_filling_with_the_mean_is_exact_for_millions_of_pixels():
    image = np.full((1500, 2000, 3), 230 / 255, np.float32)
    mask = np.zeros((1500, 2000), bool)
    mask[:10] = True
    assert np.abs(fill_mean(image, mask) - image).max() < 1e-6
