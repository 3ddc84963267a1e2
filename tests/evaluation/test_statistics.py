"""The statistics of verdicts against values worked out by hand or printed in tables."""

import math

import numpy as np
import pytest

from wssl_pl.evaluation.statistics import (
    MAX_EXACT_SEEDS,
    compare,
    holm,
    intervals,
    random_seeds_and_images,
    sign_flip_p,
    smallest_exact_p,
    student_p,
    student_quantile,
)


# Printed in every table of Student's t.
@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (30, 2.042), (1000, 1.962)]
)
def test_quantiles_of_student(freedom, quantile):
    assert student_quantile(0.95, freedom) == pytest.approx(quantile, abs=5e-4)
    assert student_p(quantile, freedom) == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize("t", [0.0, 0.3, -1.7, 4.0, 25.0])
def test_p_of_student_in_closed_form(t):
    # Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
    assert student_p(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(abs(t)), abs=1e-12)
    assert student_p(t, 2) == pytest.approx(1 - abs(t) / math.sqrt(2 + t**2), abs=1e-12)
    assert student_p(math.inf, 3) == 0.0


def test_holm_against_a_worked_example():
    # 0.005 x 4 = 0.02; 0.01 x 3 = 0.03; 0.03 x 2 = 0.06; 0.04 x 1 is less than the one before, which stands.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_holm_counts_what_was_not_tested():
    assert holm([0.01], family=4) == pytest.approx([0.04])
    # What comes later raises nothing, whatever its p.
    for later in (0.0001, 0.01, 0.02, 0.9):
        assert holm([0.01, later], family=4)[0] <= 0.04 + 1e-12


def test_sign_flips():
    assert sign_flip_p([1.0, 2.0, 3.0]) == 0.25
    assert sign_flip_p([-1.0, -2.0, -3.0]) == 0.25
    # Of the eight sums of +-1 +-2 +-3 six are as large as |1 - 2 + 3| = 2 or larger.
    assert sign_flip_p([1.0, -2.0, 3.0]) == 0.75
    assert sign_flip_p([0.1] * 6) == 2 / 64
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([1.0] * 17) is None
    assert sign_flip_p([0.1, 0.2, 0.3] * 4) == smallest_exact_p(12)  # enumerated, not sampled
    assert MAX_EXACT_SEEDS == 16


def test_seeds_alone_give_the_t_interval():
    """Where images differ in nothing it is Student's t over three seeds, here 1, 2 and 3."""
    values = np.repeat([[1.0], [2.0], [3.0]], 10, axis=1)
    (found,) = compare(values[None])
    half = 4.30265 * 1.0 / math.sqrt(3)
    assert (found.mean, found.freedom) == (2.0, 2)
    assert [found.low, found.high] == pytest.approx([2 - half, 2 + half], abs=1e-4)
    # t = 2 sqrt 3; with two degrees of freedom p = 1 - t / sqrt(2 + t^2).
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-9)
    assert found.by_seed == [1.0, 2.0, 3.0]
    # The bootstrap reaches no further than its smallest and largest seed.
    assert (found.bootstrap_low, found.bootstrap_high) == (1.0, 3.0)


def test_variance_with_images_by_hand():
    """Two seeds on two images: 1 3 / 2 8, mean 3.5."""
    # Seeds 2 and 5: MS = 2 (1.5^2 + 1.5^2) = 9. Images 1.5 and 5.5: MS = 2 (2^2 + 2^2) = 16. Rest: 4 x 1^2 / 1 = 4.
    mean, error, freedom = random_seeds_and_images(np.array([[1.0, 3.0], [2.0, 8.0]]))
    assert mean == 3.5
    assert error == pytest.approx(math.sqrt((9 + 16 - 4) / 4))
    assert freedom == int((21 / 9) ** 2)


def test_what_is_not_finite_is_kept_out():
    values = np.array([[[1.0, 2.0, np.inf, 3.0], [2.0, np.nan, 5.0, 4.0]]])
    (found,) = compare(values, resamples=200)
    assert (found.images, found.mean) == (2, 2.5)
    assert compare(np.full((1, 2, 3), np.nan), resamples=10) == [None]


def test_no_spread_at_all():
    same, zero = compare(np.stack([np.full((3, 5), 0.2), np.zeros((3, 5))]), resamples=50)
    assert (same.low, same.high, same.p) == pytest.approx((0.2, 0.2, 0.0))
    assert zero.p == 1.0


def test_one_seed_is_refused():
    with pytest.raises(ValueError, match=r"seeds=1: .* at least 2"):
        compare(np.zeros((1, 1, 5)))


def test_comparisons_do_not_touch_each_other_and_the_seed_decides():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(3, 3, 40))
    alone = compare(values[1:2], resamples=300)[0]
    together = compare(values, resamples=300)[1]
    assert alone == together
    assert compare(values, seed=1, resamples=300)[1].bootstrap_low != together.bootstrap_low


def test_numbers_are_those_of_version_0_1():
    """Computed by its own implementations of the t distribution, the sign flips and both bootstraps."""
    (found,) = compare(np.random.default_rng(5).normal(0.1, 0.3, (1, 3, 20)), seed=1)
    expected = [0.0355478270429784, -0.132865336529505, 0.203960990615461]
    assert [found.mean, found.low, found.high] == pytest.approx(expected, abs=1e-12)
    assert [found.bootstrap_low, found.bootstrap_high] == pytest.approx([-0.0643948445132895, 0.149499242405557])
    assert (found.p, found.freedom, found.p_exact) == (pytest.approx(0.459644269777602, abs=1e-12), 2, 0.5)
    bounds = intervals(np.random.default_rng(5).normal(20, 2, (30, 2)))
    assert np.stack(bounds) == pytest.approx(
        np.array([
            [19.732275655432048, 19.408362038474326],
            [19.047115668350923, 18.762089763515206],
            [20.40600283600152, 20.043865250142755],
        ]),
        abs=1e-12,
    )  # fmt: skip


def test_a_single_image_has_a_mean_and_no_interval():
    mean, low, high = intervals(np.array([[20.0, 21.0, np.inf], [22.0, np.nan, np.inf]]))
    np.testing.assert_array_equal(mean, [21.0, 21.0, np.nan])
    assert (low[0], high[0]) == (20.0, 22.0)
    np.testing.assert_array_equal([low[1:], high[1:]], np.full((2, 2), np.nan))
