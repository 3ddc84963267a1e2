import pytest
import torch

from wssl_pl.metrics import Mean

BAD = [float("nan"), float("inf"), -float("inf")]


def test_is_the_mean_over_images_of_uneven_batches():
    mean = Mean()
    mean.update(torch.tensor(1.0), count=3)
    mean.update(torch.tensor(5.0), count=1)
    assert mean.compute().item() == 2.0
    mean.reset()
    mean.update(torch.tensor(7.0), count=2)
    assert mean.compute().item() == 7.0


@pytest.mark.parametrize("bad", BAD)
def test_a_value_that_is_not_finite_makes_the_mean_nan(bad):
    mean = Mean()
    for value in (1.0, bad, 1.0):
        mean.update(torch.tensor(value), count=4)
    assert mean.compute().isnan()


def test_sums_of_many_values_are_as_exact_as_in_float64():
    values = 0.1 + 1e-3 * torch.rand(20_000)
    mean, naive = Mean(), torch.zeros(())
    for value in values:
        mean.update(value, count=64)
        naive = naive + value * 64
    exact = values.double().mean().item()
    assert mean.compute().item() == pytest.approx(exact, rel=1e-7)
    assert naive.item() / (64 * len(values)) != pytest.approx(exact, rel=1e-6)  # what the compensation is for


def test_a_module_in_bfloat16_does_not_round_the_sums():
    module = torch.nn.ModuleDict({"mean": Mean()}).to(torch.bfloat16)
    for _ in range(2):
        module["mean"].update(torch.tensor(1.001), count=1000)
    assert module["mean"].compute().item() == pytest.approx(1.001, rel=1e-6)
