import pytest
import torch

from wssl_pl.losses import discriminator_hinge, generator_hinge


def test_by_hand():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 1.0]])
    assert discriminator_hinge(real, fake).item() == pytest.approx((0.0 + 0.5) / 2 + (0.0 + 2.0) / 2)
    assert generator_hinge(fake).item() == pytest.approx(1.0)
    assert discriminator_hinge(torch.zeros(3), torch.zeros(3)) == 2.0


def test_scores_beyond_the_margin_take_no_gradient():
    real, fake = (torch.tensor(values, requires_grad=True) for values in ([1.5, 0.0], [-1.5, 0.0]))
    discriminator_hinge(real, fake).backward()
    assert real.grad.tolist() == [0.0, -0.5]
    assert fake.grad.tolist() == [0.0, 0.5]
    assert discriminator_hinge(real.bfloat16(), fake.bfloat16()).dtype == torch.float32
