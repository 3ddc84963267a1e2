import pytest

from wssl_pl.errors import UsageError
from wssl_pl.tasks import normalise_weights


def test_equal_when_left_out():
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
    with pytest.raises(UsageError, match=message):
        normalise_weights(["rotation", "sharpness"], weights)
