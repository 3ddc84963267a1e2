import pytest
import torch

from wssl_pl.losses import perceptual_loss, style_loss
from wssl_pl.losses.perceptual import gram


def test_perceptual_loss_by_hand():
    ours = [torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.0]], [[4.0]]]])]
    true = [torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([[[[1.0]], [[1.0]]]])]
    assert perceptual_loss(ours, true).item() == pytest.approx((1 + 3) / 2 + (1 + 3) / 2)


def test_gram_and_style_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # two maps of two positions
    expected = torch.tensor([[[5.0, 11.0], [11.0, 25.0]]]) / (2 * 2)
    torch.testing.assert_close(gram(features), expected)
    assert style_loss([features], [torch.zeros_like(features)]).item() == pytest.approx((5 + 11 + 11 + 25) / 4 / 4)
    # The same textures elsewhere are the same style.
    assert style_loss([features], [features.flip(-1)]) == 0.0


def test_gram_keeps_float32_under_autocast():
    features = torch.rand(1, 4, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gram(features), gram(features.clone()))
        assert gram(features.bfloat16()).dtype == torch.float32
