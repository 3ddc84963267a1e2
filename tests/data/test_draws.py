import numpy as np
import pytest

from wssl_pl.data.draws import permutation, uniform


def test_a_sample_has_the_same_numbers_in_any_batch() -> None:
    together = uniform(3, "train", 2, np.arange(10), 5)
    alone = np.concatenate([uniform(3, "train", 2, [index], 5) for index in range(10)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("other", [(4, "train", 2), (3, "val", 2), (3, "train", 3)])
def test_seed_stream_and_epoch_each_change_the_numbers(other: tuple[int, str, int]) -> None:
    index = np.arange(50)
    assert not np.isin(uniform(3, "train", 2, index, 4), uniform(*other, index, 4)).mean() > 0.01


def test_numbers_are_uniform_and_independent() -> None:
    numbers = uniform(0, "train", 1, np.arange(20_000), 6)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    np.testing.assert_allclose(np.histogram(numbers, bins=20, range=(0, 1))[0] / numbers.size, 0.05, atol=0.002)
    neighbours = np.concatenate([numbers[:-1], numbers[1:]], axis=1)
    correlation = np.corrcoef(neighbours.T) - np.eye(12)
    assert np.abs(correlation).max() < 0.03
    epochs = np.stack([uniform(0, "train", epoch, np.arange(5000), 1)[:, 0] for epoch in range(4)])
    assert np.abs(np.corrcoef(epochs) - np.eye(4)).max() < 0.06


def test_numbers_stay_below_one_in_float32() -> None:
    numbers = uniform(0, "train", 0, np.arange(200_000), 4)
    np.testing.assert_array_equal(numbers, numbers.astype(np.float32).astype(np.float64))


def test_the_numbers_are_the_same_on_every_machine() -> None:
    np.testing.assert_array_equal(permutation(0, 0, 8), [0, 6, 4, 5, 7, 2, 3, 1])


def test_permutation_is_one() -> None:
    order = permutation(0, 3, 1000)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert not np.array_equal(order, permutation(0, 4, 1000))
