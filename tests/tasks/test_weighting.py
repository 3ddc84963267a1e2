import math

import pytest
import torch

from wssl_pl.errors import WSSLError
from wssl_pl.tasks import FixedWeights, UncertaintyWeights, normalise_weights


def test_equal_when_omitted():
    assert normalise_weights(["rotation", "sharpness"], None) == {"rotation": 0.5, "sharpness": 0.5}


def test_scaled_to_sum_one_in_the_order_given():
    assert normalise_weights(["sharpness", "rotation"], [6, 2]) == {"sharpness": 0.75, "rotation": 0.25}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "1 given for 2"),
        ([1.0, 0.0], "not a positive"),
        ([1.0, -1], "not a positive"),
        ([1, float("nan")], "nan"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(WSSLError, match=message):
        normalise_weights(["rotation", "sharpness"], weights)


LOSSES = {"sharpness": torch.tensor(0.2), "rotation": torch.tensor(2.0)}


def test_fixed_weights_are_those_of_their_tasks():
    assert FixedWeights({"rotation": 0.25, "sharpness": 0.75})(LOSSES).item() == pytest.approx(0.65)


def test_uncertainty_begins_as_the_sum_of_the_losses():
    weighting = UncertaintyWeights(["rotation", "sharpness"])
    assert weighting(LOSSES).item() == pytest.approx(2.2)
    assert {name: weight.item() for name, weight in weighting.learned().items()} == {"rotation": 1, "sharpness": 1}


def test_uncertainty_by_hand():
    weighting = UncertaintyWeights(["rotation", "sharpness"])
    weighting.log_variances.data = torch.tensor([math.log(4.0), math.log(0.5)])
    # sigma^2 is 4 and 0.5: 2 / 4 + log 2, and 0.2 / 0.5 + log(0.5) / 2.
    by_hand = 0.5 + math.log(2.0) + 0.4 - 0.5 * math.log(2.0)
    objective = weighting(LOSSES)
    assert objective.item() == pytest.approx(by_hand)
    objective.backward()
    # d/ds of exp(-s) L + s / 2.
    assert weighting.log_variances.grad.tolist() == pytest.approx([0.5 - 0.5, 0.5 - 0.4], abs=1e-6)
    assert weighting.learned()["sharpness"].item() == pytest.approx(2.0)


def test_uncertainty_settles_where_the_derivative_is_zero():
    weighting = UncertaintyWeights(["rotation", "sharpness"])
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        weighting(LOSSES).backward()
        optimizer.step()
    weights = weighting.learned()
    assert weights["rotation"].item() == pytest.approx(1 / 4.0, rel=1e-2)
    assert weights["sharpness"].item() == pytest.approx(1 / 0.4, rel=1e-2)
