import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from wssl_pl.metrics import ms_ssim, ssim
from wssl_pl.metrics.ms_ssim import similarities


@pytest.fixture
def pair():
    a = torch.rand(2, 3, 180, 192)
    a = torch.nn.functional.avg_pool2d(a, 5, 1, 2)
    return a, (a + 0.1 * torch.randn_like(a)).clamp(0, 1)


def test_agrees_with_torchmetrics(pair):
    expected = [multiscale_structural_similarity_index_measure(x[None], y[None], data_range=1.0).item()
                for x, y in zip(*pair, strict=True)]  # fmt: skip
    assert ms_ssim(*pair).tolist() == pytest.approx(expected, abs=1e-4)


def test_ssim_is_that_of_the_loss(pair):
    (found, _), (itself, both) = similarities([pair[0], pair[1]], pair[1])
    assert found.tolist() == pytest.approx(ssim(*pair).tolist(), abs=1e-5)
    assert itself.tolist() == both.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


def test_too_small_for_five_scales():
    small = torch.rand(1, 3, 64, 64)
    with pytest.raises(ValueError, match="at least 176 px"):
        ms_ssim(small, small)
    assert similarities([small], small)[0][1].isnan().all()
    # Below the window's radius there is no SSIM either.
    assert all(value.isnan().all() for value in similarities([small[..., :5]], small[..., :5])[0])
    assert similarities([small[..., :6]], small[..., :6])[0][0].item() == pytest.approx(1.0)
