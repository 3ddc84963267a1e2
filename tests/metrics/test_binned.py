import pytest
import torch

from wssl_pl.metrics import BinnedMetrics
from wssl_pl.metrics.bins import BINS, bin_of, bins_of

NAMES = ["psnr", "ssim"]


def masks(*ratios, size=20):
    flat = torch.zeros(len(ratios), size * size)
    for mask, ratio in zip(flat, ratios, strict=True):
        mask[: round(ratio * size * size)] = 1.0
    return flat.view(-1, 1, size, size)


@pytest.mark.parametrize("size", [10, 32, 224])
def test_bins_on_the_device_are_those_of_the_evaluator(size):
    batch = masks(0.0, 0.001, 0.1, 0.1001, 0.2, 0.25, 0.3, 0.31, 0.5, 0.6, 0.61, 0.9, 1.0, size=size)
    expected = [bin_of(mask.double().mean().item()) for mask in batch]
    assert [BINS[number] for number in bins_of(batch)] == expected


def test_means_by_bin_equal_a_loop_by_hand_over_uneven_batches():
    batch = masks(0.05, 0.31, 0.35, 0.4, 0.41, 0.7)
    values = torch.rand(2, 6) * 40
    metrics = BinnedMetrics(NAMES)
    for part in (slice(0, 4), slice(4, 6)):
        metrics.update(values[:, part], batch[part])
    groups = {"0_10": [0], "30_40": [1, 2, 3], "40_50": [4], "60_100": [5]}
    expected = {
        f"{name}/ratio_{label}": values[row, members].mean().item()
        for row, name in enumerate(NAMES)
        for label, members in groups.items()
    }
    # Bins without images are missing, not NaN.
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(expected, rel=1e-6)


def test_states_of_two_processes_add_up():
    batch, values = masks(0.31, 0.35, 0.41), torch.rand(2, 3)
    whole, *parts = (BinnedMetrics(NAMES) for _ in range(3))
    whole.update(values, batch)
    parts[0].update(values[:, :1], batch[:1])
    parts[1].update(values[:, 1:], batch[1:])
    assert {reduction.__name__ for reduction in whole._reductions.values()} == {"dim_zero_sum"}
    for state in ("total", "count"):
        torch.testing.assert_close(getattr(whole, state), sum(getattr(part, state) for part in parts))
        assert getattr(whole, state).dtype in (torch.float32, torch.int64)


def test_an_infinite_value_is_excluded_and_nan_stays_in_its_bin():
    batch = masks(0.31, 0.32, 0.41, 0.55)
    metrics = BinnedMetrics(["psnr"])
    metrics.update(torch.tensor([[float("inf"), 20.0, float("nan"), float("inf")]]), batch)
    found = metrics.compute()
    assert found.keys() == {"psnr/ratio_30_40", "psnr/ratio_40_50"}
    assert found["psnr/ratio_30_40"] == 20.0
    assert found["psnr/ratio_40_50"].isnan()
