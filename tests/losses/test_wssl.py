import math

import pytest
import torch

from wssl_pl.losses import LOSSES, WSSLLoss, log_cosh, ssim_loss


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)


def test_by_hand_for_two_flat_images():
    # log cosh 0.2 = 0.0198687; 1 - SSIM = 0.04 / 0.5201 = 0.0769083.
    images = torch.full((1, 3, 32, 32), 0.4).double(), torch.full((1, 3, 32, 32), 0.6).double()
    assert WSSLLoss()(*images).item() == pytest.approx(0.84 * math.log(math.cosh(0.2)) + 0.16 * 0.04 / 0.5201, abs=1e-7)


def test_is_the_weighted_sum_of_its_parts(images):
    expected = 0.84 * log_cosh(*images) + 0.16 * ssim_loss(*images)
    assert WSSLLoss()(*images).item() == pytest.approx(expected.item(), abs=1e-6)


def test_names_of_table_4(images):
    assert LOSSES["wssl"] == 0.84
    assert torch.equal(WSSLLoss(LOSSES["log_cosh"])(*images), log_cosh(*images))
    assert torch.equal(WSSLLoss(LOSSES["ssim"])(*images), ssim_loss(*images))


def test_a_part_without_a_share_is_not_computed(images):
    assert set(WSSLLoss(1.0).parts(*images)) == {"log_cosh", "loss"}
    assert set(WSSLLoss(0.0).parts(*images)) == {"ssim_loss", "loss"}


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match="between 0 and 1"):
        WSSLLoss(alpha)
