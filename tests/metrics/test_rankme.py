import math

import pytest
import torch

from wssl_pl.metrics import RankMe, rankme


def by_metric(embeddings, parts=3):
    metric = RankMe(embeddings.shape[1])
    for part in embeddings.tensor_split(parts):
        metric.update(part)
    return metric.compute()


@pytest.fixture(params=[rankme, by_metric], ids=["function", "metric"])
def compute(request):
    return request.param


def test_embeddings_along_one_vector_have_rank_1(compute):
    embeddings = torch.rand(40, 1) @ torch.rand(1, 16)
    assert compute(embeddings).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("count", "size"), [(16, 16), (40, 16), (8, 16)])
def test_orthonormal_directions_have_full_rank(compute, count, size):
    # 40 x 16: orthonormal columns; 8 x 16: orthonormal rows, so that 8 directions are all there can be.
    embeddings = torch.linalg.qr(torch.randn(max(count, size), min(count, size)))[0]
    embeddings = embeddings if count >= size else embeddings.T
    assert compute(embeddings).item() == pytest.approx(min(count, size), abs=1e-3)


def test_two_singular_values_by_hand(compute):
    # 3 and 1: p = 3/4 and 1/4.
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    rotation = torch.linalg.qr(torch.randn(2, 2))[0]
    embeddings = torch.diag(torch.tensor([3.0, 1.0])) @ rotation
    assert compute(embeddings).item() == pytest.approx(expected, abs=1e-4)


def test_the_scale_does_not_matter_and_nothing_is_centred(compute):
    embeddings = torch.randn(50, 8)
    assert compute(1000.0 * embeddings).item() == pytest.approx(compute(embeddings).item(), abs=1e-3)
    assert compute(embeddings + 100.0) < 1.5


def test_the_metric_over_uneven_batches_is_the_function_over_all():
    embeddings = torch.rand(45, 32)
    assert by_metric(embeddings, parts=4).item() == pytest.approx(rankme(embeddings).item(), abs=1e-3)


def test_embeddings_that_are_zero_or_not_finite(compute):
    assert compute(torch.zeros(5, 4)) == 1.0
    metric = RankMe(4)
    metric.update(torch.full((5, 4), float("nan")))
    assert metric.compute().isnan()
