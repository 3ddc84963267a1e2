import math

import pytest
import torch

from wssl_pl.losses import HINGE, LOG, SQUARES


def test_by_hand():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 1.0]])
    assert HINGE.discriminator(real, fake).item() == pytest.approx((0.0 + 0.5) / 2 + (0.0 + 2.0) / 2)
    assert HINGE.generator(fake).item() == pytest.approx(1.0)
    assert HINGE.discriminator(torch.zeros(3), torch.zeros(3)) == 2.0


def test_scores_beyond_the_margin_take_no_gradient():
    real, fake = (torch.tensor(values, requires_grad=True) for values in ([1.5, 0.0], [-1.5, 0.0]))
    HINGE.discriminator(real, fake).backward()
    assert real.grad.tolist() == [0.0, -0.5]
    assert fake.grad.tolist() == [0.0, 0.5]
    assert HINGE.discriminator(real.bfloat16(), fake.bfloat16()).dtype == torch.float32


def test_the_other_two_by_hand():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 1.0]])

    def minus_log(score):  # of the sigmoid
        return math.log(1.0 + math.exp(-score))

    log = (minus_log(2.0) + minus_log(0.5)) / 2 + (minus_log(3.0) + minus_log(-1.0)) / 2
    assert LOG.discriminator(real, fake).item() == pytest.approx(log)
    assert LOG.generator(fake).item() == pytest.approx((minus_log(-3.0) + minus_log(1.0)) / 2)
    assert SQUARES.discriminator(real, fake).item() == pytest.approx(((1.0 + 0.25) / 2 + (9.0 + 1.0) / 2) / 2)
    assert SQUARES.generator(fake).item() == pytest.approx((16.0 + 0.0) / 2 / 2)
