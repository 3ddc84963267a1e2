import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from wssl_pl.metrics import psnr


def test_by_hand():
    target = torch.zeros(2, 3, 8, 8)
    prediction = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.5)])
    assert psnr(prediction, target).tolist() == pytest.approx([20.0, -20 * math.log10(0.5)], abs=1e-4)


def test_an_image_that_equals_its_target_is_infinite():
    image = torch.rand(1, 3, 8, 8)
    assert psnr(image, image).item() == math.inf


def test_agrees_with_torchmetrics_per_image():
    a, b = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    expected = [peak_signal_noise_ratio(x[None], y[None], data_range=1.0).item() for x, y in zip(a, b, strict=True)]
    assert psnr(a, b).tolist() == pytest.approx(expected, abs=1e-4)


def test_is_float32_whatever_comes_in():
    assert psnr(torch.rand(1, 3, 8, 8).bfloat16(), torch.rand(1, 3, 8, 8)).dtype == torch.float32
