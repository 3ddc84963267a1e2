import math

import pytest
import torch

from wssl_pl.losses import log_cosh


@pytest.mark.parametrize("error", [0.0, 1e-3, 0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("a", [0.5, 1.0, 4.0])
def test_equals_the_formula_of_the_paper(error, a):
    expected = math.log((math.exp(a * error) + math.exp(-a * error)) / 2) / a
    found = log_cosh(torch.tensor([error], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), a=a)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_by_hand_is_the_mean_over_all_elements():
    # log cosh 1 = 0.43378083, log cosh 0 = 0
    found = log_cosh(torch.tensor([[1.0, 0.0], [0.0, -1.0]]), torch.zeros(2, 2))
    assert found.item() == pytest.approx(0.43378083 / 2, abs=1e-6)


def test_is_squared_error_near_zero_and_absolute_error_far_away():
    small, large = torch.tensor([1e-2]).double(), torch.tensor([50.0]).double()
    assert log_cosh(small, torch.zeros(1)).item() == pytest.approx(0.5 * 1e-4, rel=1e-3)
    assert log_cosh(large, torch.zeros(1)).item() == pytest.approx(50.0 - math.log(2), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_is_finite_for_large_inputs_in_any_precision(dtype):
    prediction = torch.tensor([1e4, -1e4, 0.0, 1.0]).to(dtype).requires_grad_()
    loss = log_cosh(prediction, torch.zeros(4, dtype=dtype))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(prediction.grad).all()


def test_gradient():
    prediction = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(log_cosh, (prediction, target))
