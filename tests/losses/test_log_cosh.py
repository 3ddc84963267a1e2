import math

import numpy as np
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


def reference(x):
    """`log(cosh(x))` in extended precision, without cancellation near 0."""
    x = np.abs(np.asarray(x, dtype=np.longdouble))
    small = x < 1e-3
    near = x**2 / 2 - x**4 / 12 + x**6 / 45
    far = np.log1p(np.expm1(-2 * np.where(small, 1, x)) / 2) + np.where(small, 1, x)
    return np.where(small, near, far).astype(np.float64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_keeps_its_digits_from_the_smallest_to_large_errors(dtype, tolerance):
    errors = torch.logspace(-8, 3, 2001, dtype=torch.float64).to(dtype)
    errors = torch.cat([errors, -errors])
    found = np.array([log_cosh(error, torch.zeros((), dtype=dtype)).item() for error in errors])
    assert found == pytest.approx(reference(errors.double().numpy()), rel=tolerance)


def test_is_never_negative():
    errors = torch.cat([torch.zeros(1), torch.logspace(-30, 3, 5001), torch.linspace(0.9, 1.1, 1001)])
    assert all(log_cosh(error, torch.zeros(())).item() >= 0.0 for error in errors)


@pytest.mark.parametrize("a", [0.5, 1.0, 4.0])
def test_the_gradient_of_both_arguments_at_small_and_large_errors(a):
    errors = torch.tensor([0.0, 1e-6, -1e-3, 0.3, -0.99, 1.01, -2.5, 40.0], dtype=torch.float64)
    prediction = errors.clone().requires_grad_()
    target = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, t: log_cosh(p, t, a), (prediction, target))
    log_cosh(prediction, target, a).backward()
    assert prediction.grad.numpy() == pytest.approx(np.tanh(a * errors.numpy()) / 8, abs=1e-15)
    assert torch.equal(target.grad, -prediction.grad)
