import pytest
import torch
from kornia.metrics import ssim as kornia_ssim
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from wssl_pl.metrics import ssim


@pytest.fixture
def pair():
    a = torch.rand(3, 3, 40, 48)
    return a, (a + 0.1 * torch.randn_like(a)).clamp(0, 1)


def test_agrees_with_torchmetrics(pair):
    expected = structural_similarity_index_measure(*pair, data_range=1.0, reduction="none")
    assert ssim(*pair).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_agrees_with_kornia(pair):
    expected = kornia_ssim(*pair, 11).mean(dim=(1, 2, 3))
    assert ssim(*pair).tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_interior_agrees_with_scikit_image(pair):
    a, b = pair
    _, full = structural_similarity(
        a[0].numpy(), b[0].numpy(), channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=1.0, full=True,
    )  # fmt: skip
    ours = kornia_ssim(a[:1], b[:1], 11)[0]
    assert torch.allclose(ours[:, 5:-5, 5:-5], torch.from_numpy(full)[:, 5:-5, 5:-5], atol=1e-4)


def test_stays_in_float32_under_autocast(pair):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ssim(*pair)
    assert torch.equal(found, ssim(*pair))
