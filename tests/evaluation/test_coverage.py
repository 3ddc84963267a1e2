"""How often the intervals hold the truth, in simulated studies whose truth is 0."""

import numpy as np
import pytest

from wssl_pl.evaluation.statistics import compare, random_seeds_and_images, student_quantile

STUDIES = 1200


def simulate(seeds, of_seed, of_image, rest, images=60):
    """Shares of studies whose interval, and whose bootstrap interval, hold 0; and of those with p below 0.05."""
    draw = np.random.default_rng(5).standard_normal
    values = of_seed * draw((STUDIES, seeds, 1)) + of_image * draw((STUDIES, 1, images))
    found = compare(values + rest * draw((STUDIES, seeds, images)), resamples=400)
    interval = np.mean([one.low <= 0 <= one.high for one in found])
    bootstrap = np.mean([one.bootstrap_low <= 0 <= one.bootstrap_high for one in found])
    return interval, bootstrap, np.mean([one.p < 0.05 for one in found])


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "least"), [(2, 0.89), (3, 0.92), (5, 0.925)])
@pytest.mark.parametrize(
    "spread", [(0.1, 0.0, 0.1), (0.05, 0.3, 0.3), (0.0, 0.3, 0.3)], ids=["seeds", "both", "images"]
)
def test_the_interval_covers_what_it_says(seeds, least, spread):
    interval, _, significant = simulate(seeds, *spread)
    assert least <= interval <= 0.97
    assert significant == pytest.approx(1 - interval)


@pytest.mark.parametrize(("seeds", "least", "most"), [(2, 0.86, 0.9), (3, 0.91, 0.945), (6, 0.93, 0.965)])
def test_two_seeds_cover_least_where_images_differ_more_than_seeds(seeds, least, most):
    draw, hits = np.random.default_rng(1).standard_normal, []
    for _ in range(STUDIES * 2):
        values = 0.2 * draw((seeds, 1)) + draw((1, 400)) + draw((seeds, 400))
        mean, error, freedom = random_seeds_and_images(values)
        hits.append(abs(mean) <= student_quantile(0.95, freedom) * error)
    assert least <= np.mean(hits) <= most


@pytest.mark.slow
def test_the_bootstrap_alone_is_too_sure_with_three_seeds():
    interval, bootstrap, _ = simulate(3, 0.1, 0.0, 0.05)
    assert bootstrap < 0.8 < 0.92 < interval


@pytest.mark.slow
def test_images_are_drawn_once_for_all_seeds():
    """Images drawn anew for each seed would hold the truth far less often where images do the same to every seed."""
    _, bootstrap, _ = simulate(5, 0.0, 0.5, 0.05)
    assert 0.92 <= bootstrap <= 0.98
