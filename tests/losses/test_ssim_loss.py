import kornia
import pytest
import torch

from wssl_pl.losses import ssim_loss
from wssl_pl.metrics import ssim


def test_by_hand_for_two_flat_images():
    # No variance: SSIM = (2 a b + c1) / (a^2 + b^2 + c1), c1 = 0.01^2.
    a, b = 0.4, 0.6
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    images = torch.full((2, 3, 32, 32), a).double(), torch.full((2, 3, 32, 32), b).double()
    assert ssim_loss(*images).item() == pytest.approx(1 - expected, abs=1e-7)


def test_is_twice_kornias_loss():
    a, b = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert ssim_loss(a, b).item() == pytest.approx(2 * kornia.losses.ssim_loss(a, b, 11).item(), abs=1e-6)


def test_is_one_minus_ssim():
    a, b = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert ssim_loss(a, b).item() == pytest.approx(1 - ssim(a, b).mean().item(), abs=1e-6)


def test_limits():
    image = torch.rand(1, 3, 32, 32)
    assert ssim_loss(image, image).item() == pytest.approx(0.0, abs=1e-6)
    assert ssim_loss(image, 1 - image).item() > 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_computed_in_float32(dtype):
    a, b = torch.rand(2, 3, 32, 32).to(dtype), torch.rand(2, 3, 32, 32).to(dtype)
    loss = ssim_loss(a, b)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(ssim_loss(a.float(), b.float()).item(), abs=1e-6)


def test_is_finite_for_large_inputs():
    prediction = (1e4 * torch.randn(1, 3, 16, 16)).requires_grad_()
    loss = ssim_loss(prediction, torch.rand(1, 3, 16, 16))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(prediction.grad).all()


def test_gradient():
    prediction = torch.rand(1, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 1, 12, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(ssim_loss, (prediction, target))
