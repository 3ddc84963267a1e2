"""Memory grows with the number of pairs by their names and values alone, and several processes share the pairs."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from test_perceptual import inception_state

from tests.processes import run_both_ranks
from wssl_pl.cli import main
from wssl_pl.evaluation import evaluate as evaluator
from wssl_pl.evaluation import statistics
from wssl_pl.evaluation.evaluate import evaluate
from wssl_pl.evaluation.pairs import COLUMNS, Manifest, PairList, Pairs
from wssl_pl.evaluation.perceptual import Features, frechet_distance, kernel_distance
from wssl_pl.evaluation.results import read_result
from wssl_pl.evaluation.statistics import intervals

TRAIN = Path(__file__).parents[2] / "train.py"


def many(count, size=16):
    columns = {name: [f"{name}-{number}" for number in range(count)] for name in COLUMNS}
    columns |= {"name": [str(number) for number in range(count)], "ratio": [0.3] * count, "bin": ["20-30"] * count}
    table = pa.table([pa.array(columns[name], COLUMNS[name]) for name in COLUMNS], names=list(COLUMNS))
    return Pairs(Path("nowhere"), PairList(table), Manifest(hash="a", pairs_csv_sha256="b", count=count, size=size))


def peak(function, *args):
    tracemalloc.start()
    try:
        kept = function(*args)
        return tracemalloc.get_traced_memory()[1], kept
    finally:
        tracemalloc.stop()


def test_memory_per_pair(noisy, monkeypatch, tmp_path):
    image, mask = torch.rand(64, 3, 16, 16), torch.zeros(64, 1, 16, 16)
    mask[:, :, 4:10, 4:10] = 1.0
    monkeypatch.setattr(
        evaluator, "read_pairs", lambda pairs, batch, device: [each[: len(batch)] for each in (image, mask, image)]
    )
    monkeypatch.setattr(statistics, "CHUNK_VALUES", 2000)  # as for very many images

    def run(pairs):
        result = evaluate(pairs, noisy, evaluator.Settings(batch_size=64, lpips_weights="none"))
        result.save(tmp_path / str(len(pairs)))
        return result

    sizes = (128, 1152)
    small, large = (many(size) for size in sizes)
    run(small)  # what is imported or cached once
    used = [peak(run, pairs)[0] for pairs in (small, large)]
    grown = (used[1] - used[0]) / (sizes[1] - sizes[0])
    assert grown < 750  # bytes; it is 610, and a list of numbers for each metric would add 290


def test_pairs_are_a_sequence():
    pairs = many(10).pairs
    assert [pair.name for pair in pairs] == [str(number) for number in range(10)]
    assert (pairs[3].name, pairs[-1].image, pairs[2:9:3][1].name) == ("3", "image-9", "5")
    assert [pair.name for pair in pairs[8:100]] == ["8", "9"]
    assert len(pairs[5:2]) == 0
    with pytest.raises(IndexError):
        pairs[10]


def test_memory_of_the_bootstrap_does_not_grow():
    values = np.random.default_rng(0).normal(size=(50_000, 1))
    used, _ = peak(lambda: intervals(values, resamples=25))
    assert used < 20e6


def test_features_on_the_disk_give_the_distances_of_those_in_memory():
    first, second = torch.rand(13, 5), torch.rand(13, 5)
    stored = [Features(), Features()]
    for features, values in zip(stored, (first, second), strict=True):
        for rows in values.split(4):
            features.add(rows)
    assert torch.equal(torch.cat(list(stored[0].split(3))), first)
    for distance in (frechet_distance, kernel_distance):
        expected = distance(first, second)
        assert distance(*stored) == pytest.approx(expected, abs=1e-12)
        assert distance(*stored, chunk=6) == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_two_processes_measure_every_pair_once_and_all_that_one_measures(tmp_path, monkeypatch):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.chdir(tmp_path)
    torch.save(inception_state(module), "inception.pth")
    small = ["image_size=48", "resize=56", "limit=7"]
    main(["pairs", "images=synthetic", "masks=synthetic", *small, "out=pairs"])
    words = ["evaluate", "pairs=pairs", "method=telea", "accelerator=cpu", "batch_size=2", "lpips_weights=none"]
    words.append("inception_weights=inception.pth")
    main([*words, "out=one"])
    code, said = run_both_ranks(TRAIN, *words, "out=two", folder=tmp_path, torchrun=True)
    assert code == 0, said
    assert said.count("Report ") == 1
    one, two = read_result("one"), read_result("two")
    rows = parquet.read_table("two/per_image.parquet").num_rows
    assert rows == 7 * len(one.table.metrics)
    assert list(two.table.images) == list(one.table.images)
    assert two.table.metrics == one.table.metrics
    np.testing.assert_allclose(two.table.values, one.table.values, rtol=0, atol=1e-6)
    assert two.fid == pytest.approx(one.fid, rel=1e-6, abs=1e-6)
    assert sorted(path.name for path in Path("two").iterdir()) == sorted(path.name for path in Path("one").iterdir())
    for sample in Path("one").glob("sample_*.png"):
        assert (Path("two") / sample.name).read_bytes() == sample.read_bytes()
    code, said = run_both_ranks(TRAIN, *words, "out=two", folder=tmp_path, torchrun=True)
    assert code == 2
    assert "error: out=two: per_image.parquet exists already" in said
    assert "Traceback" not in said
