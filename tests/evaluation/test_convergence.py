import numpy as np
import pytest

from wssl_pl.evaluation.statistics import judge_convergence, last_slope, near_chance

STEPS = np.arange(150, 1501, 150)


def line(gain, level=23.0):
    """Flat until 80 %, and `gain` dB up from there."""
    return [[int(step) - 1, level + gain * max(0.0, step / 1500 - 0.8) / 0.2] for step in STEPS]


def test_the_rise_of_a_line_is_its_gain():
    assert last_slope(line(0.3)) == pytest.approx(0.3, rel=1e-3)
    assert last_slope(line(-0.2)) == pytest.approx(-0.2, rel=1e-3)


def test_what_comes_before_the_last_fifth_does_not_matter():
    steep = [[step, value - (3.0 if step < 1100 else 0.0)] for step, value in line(0.05)]
    assert last_slope(steep) == pytest.approx(0.05, rel=1e-3)


def test_many_validations_take_noise_out():
    noise = np.random.default_rng(0).normal(0, 0.1, (300, 200))
    steps = range(10, 2001, 10)
    slopes = [last_slope(list(zip(steps, 23 + row, strict=True))) for row in noise]
    ends = noise[:, -1] - noise[:, -41]
    assert np.std(slopes) < 0.5 * np.std(ends)
    assert abs(np.mean(slopes)) < 0.01


def test_few_validations():
    assert last_slope([[499, 20.0], [999, 21.0]]) == pytest.approx(1 / 500 * 0.2 * 999)
    assert last_slope([[999, 21.0]]) is None
    assert last_slope([]) is None
    assert last_slope([[499, 20.0], [999, float("nan")]]) is None


def test_an_arm_is_judged_by_the_mean_over_its_seeds():
    judged = judge_convergence([line(0.05), line(0.2)])
    assert (judged.state, judged.slope) == ("not converged", pytest.approx(0.125, rel=1e-3))
    assert judged.error == pytest.approx(0.075, rel=1e-2)
    assert judge_convergence([line(0.05), line(0.13)]).state == "converged"
    assert judge_convergence([line(0.05)]).error is None


def test_exactly_a_tenth_still_rises():
    curve = [[step, 23 + 0.1 * max(0.0, step / 1000 - 0.8) / 0.2] for step in range(100, 1001, 100)]
    assert judge_convergence([curve]).state == "not converged"


def test_a_seed_without_a_curve_leaves_it_open():
    assert judge_convergence([line(0.0), []]).state == "unknown"
    assert judge_convergence([]).state == "unknown"


def test_near_chance_is_a_fifth_above_guessing():
    assert near_chance(0.27)
    assert not near_chance(0.3)
    assert near_chance(0.55, chance=0.5)


def test_a_validation_at_the_beginning_of_the_last_fifth_counts():
    # Steps are counted from 0, so that the one at four fifths is a step earlier.
    curve = [[249, 20.0], [499, 20.0], [749, 20.0], [999, 25.0], [1124, 23.0], [1249, 23.0]]
    fitted = np.polyfit([999, 1124, 1249], [25.0, 23.0, 23.0], 1)[0] * 1249 * 0.2
    assert last_slope(curve) == pytest.approx(fitted, rel=1e-6)
