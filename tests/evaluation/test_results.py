import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from wssl_pl.errors import DataError, WSSLError
from wssl_pl.evaluation.compare import compare
from wssl_pl.evaluation.evaluate import evaluate
from wssl_pl.evaluation.processes import Part, joined
from wssl_pl.evaluation.report import comparison_page, facts
from wssl_pl.evaluation.results import Machine, MeasuredPairs, Result, Table, Weights, read_result

VALUES = np.array([[20.5, 0.5], [np.inf, 1.0], [np.nan, 0.75]])


@pytest.fixture
def table():
    bins = np.array(["10-20", "30-40", "10-20"])
    return Table(np.array(["b", "a", "c"]), np.array([0.2, 0.4, 0.11]), bins, ("psnr_hole", "ssim"), VALUES)


@pytest.fixture
def result(table):
    pairs = MeasuredPairs(folder="pairs", hash="f" * 64, count=3, evaluated=3)
    machine = Machine(2, "CPU", "3.12", "2.15", "2.0")
    return Result(table, {"name": "m"}, pairs, machine, ["a note"], 0.25, {"fid": 3.0, "fid_composite": None}, 7)


def compared(tmp_path, **results):
    for name, one in results.items():
        one.save(tmp_path / name)
    return compare([tmp_path / name for name in results])


def test_means_of_a_leaderboard_are_over_the_same_images(result, tmp_path):
    """Without its infinite values in its own mean alone, the better one would lose its best images."""
    images, ratios, bins = np.array(list("abcde")), np.full(5, 0.3), np.array(["30-40"] * 5)
    good, bad, equal = (
        replace(
            result, method={"name": name}, fid=None,
            table=Table(images, ratios, bins, ("psnr_composite",), np.array([values]).T),
        )
        for name, values in (
            ("good", [np.inf, np.inf, np.inf, 31.0, 30.0]),
            ("bad", [60.0, 58.0, 59.0, 30.0, 29.0]),
            ("equal", [np.inf, np.inf, np.inf, 31.0, 30.0]),
        )
    )  # fmt: skip
    found = compared(tmp_path, bad=bad, good=good)
    assert [(one.name, one.metrics["psnr_composite"].mean) for one in found.leaderboard] == [
        ("good", 30.5),
        ("bad", 29.5),
    ]
    assert found.notes == ["PSNR composite is the mean over 2 of 5 images: in others it is infinite"]
    assert compared(tmp_path, good=good, equal=equal).notes == []
    whole = replace(good, table=replace(good.table, values=np.full((5, 1), np.inf)))
    assert [one.name for one in compared(tmp_path, bad=bad, good=whole).leaderboard] == ["good", "bad"]


def test_different_files_of_weights_are_named(result, tmp_path):
    one, other = (replace(result, weights={"fid": Weights("fid.pth", digit * 64, "inception")}) for digit in "12")
    (note,) = compared(tmp_path, one=one, other=other).notes
    assert note == "FID and KID was measured with different files: fid.pth 11111111, fid.pth 22222222"
    assert compared(tmp_path, one=one, other=one).notes == []


def test_a_measurement_is_a_row(table):
    rows = table.to_arrow().to_pylist()
    assert rows[0] == {
        "image": "b", "ratio": 0.2, "ratio_bin": "10-20", "metric": "psnr_hole", "value": 20.5,
    }  # fmt: skip
    assert [(row["image"], row["metric"], row["value"]) for row in rows[1:5]] == [
        ("b", "ssim", 0.5), ("a", "psnr_hole", np.inf), ("a", "ssim", 1.0), ("c", "psnr_hole", None),
    ]  # fmt: skip
    assert len(rows) == 6


def check_same(one, other):
    assert one.metrics == other.metrics
    for name in ("images", "ratios", "bins"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    np.testing.assert_array_equal(one.values, other.values)


def test_a_table_survives_its_file_in_any_order_of_rows(table, tmp_path):
    parquet.write_table(table.to_arrow(), tmp_path / "table.parquet")
    check_same(Table.from_arrow(parquet.read_table(tmp_path / "table.parquet")), table)
    by_metric = table.to_arrow().take(pa.array([0, 2, 4, 1, 3, 5]))
    check_same(Table.from_arrow(by_metric), table)


def test_groups_and_a_metric_that_was_not_measured(table):
    assert {name: rows.tolist() for name, rows in table.groups().items()} == {
        "all": [True, True, True], "10-20": [True, False, True], "30-40": [False, True, False],
    }  # fmt: skip
    assert np.isnan(table.column("lpips")).all()


def test_estimates_count_what_they_exclude(result):
    entry = result.estimates["all"]["psnr_hole"]
    assert (entry.mean, entry.infinite, entry.undefined) == (20.5, 1, 1)
    assert result.estimates["all"]["ssim"].mean == 0.75
    assert result.estimates["30-40"]["psnr_hole"].mean is None
    assert result.means == {"psnr_hole": 20.5, "ssim": 0.75, "fid": 3.0}


def test_a_result_survives_its_folder(result, tmp_path):
    result.save(tmp_path)
    again = read_result(tmp_path)
    check_same(again.table, result.table)
    assert again.estimates == result.estimates
    for name in ("method", "pairs", "machine", "notes", "seconds_per_image", "fid", "seed"):
        assert getattr(again, name) == getattr(result, name)
    assert {path.name for path in tmp_path.iterdir()} == {"per_image.parquet", "summary.json"}


def test_what_is_no_result_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(DataError, match=r"is not a finished result of `wssl evaluate`: run") as caught:
        read_result(tmp_path)
    assert caught.value.value == tmp_path


@pytest.mark.parametrize(
    "damage",
    [
        {"method": {}}, {"method": "m"}, {"pairs": {"hash": "f"}}, {"pairs": []}, {"machine": None},
        {"notes": [{}]}, {"fid": {"fid": "low"}}, {"bootstrap": {"resamples": 9, "level": 0.95, "seed": -1}},
        {"pairs": {"hash": 5 * "f", "count": 3, "evaluated": "all"}},
    ],
)  # fmt: skip
def test_a_damaged_summary_is_one_line(result, tmp_path, damage):
    result.save(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps(summary | damage))
    with pytest.raises(
        WSSLError, match=r"^result=.*summary.json: cannot be read[: ][^\n]+: run `wssl evaluate` again$"
    ):
        read_result(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", b"{}"), ("summary.json", b"\xff"), ("summary.json", b"[" * 100_000),
        ("per_image.parquet", b"torn"), ("per_image.parquet", {"image": [1], "metric": [2]}),
        ("per_image.parquet", {"image": ["a"], "ratio": [0.5], "ratio_bin": ["0-10"], "metric": ["x"], "value": [1.0]}),
        ("per_image.parquet", {"image": [None], "ratio": [[1]], "ratio_bin": [""], "metric": ["ssim"], "value": [1.0]}),
        ("per_image.parquet", {"name": ["a"], "ssim": ["high"]}),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line(result, tmp_path, name, content):
    result.save(tmp_path)
    if isinstance(content, dict):
        parquet.write_table(pa.table(content), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WSSLError, match=rf"^result=.*{name}: cannot be read[: ][^\n]+: run `wssl evaluate` again$"):
        read_result(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pandas") is None, reason="pandas is not installed")
def test_results_are_written_and_read_without_pandas(result, tmp_path):
    """Arrow imports it for a conversion from or to NumPy: a third of a second."""
    result.save(tmp_path)
    code = (
        "import sys; from wssl_pl.evaluation.results import read_result; from pathlib import Path\n"
        "read_result(sys.argv[1]).save(Path(sys.argv[1])); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_measuring_writes_nothing(pairs, noisy):
    before = {path: path.stat().st_mtime_ns for path in pairs.folder.parent.rglob("*")}
    evaluate(pairs, noisy)
    assert {path: path.stat().st_mtime_ns for path in pairs.folder.parent.rglob("*")} == before


def test_images_won_are_those_of_the_images_that_have_a_value(result, tmp_path):
    images, ratios, bins = np.array(list("abcd")), np.full(4, 0.3), np.array(["30-40"] * 4)
    first, other = (
        replace(result, fid=None, table=Table(images, ratios, bins, ("psnr_composite",), np.array([values]).T))
        for values in ([20.0, 21.0, np.nan, 23.0], [21.0, 22.0, 30.0, 22.0])
    )
    found = compared(tmp_path, first=first, other=other).others[0].groups["all"]["psnr_composite"]
    assert found.won == pytest.approx(2 / 3)


def test_a_difference_of_fewer_images_says_of_how_many(result, tmp_path):
    images, ratios, bins = np.array(list("abc")), np.full(3, 0.3), np.array(["30-40"] * 3)
    first, other = (
        replace(result, fid=None, table=Table(images, ratios, bins, ("psnr", "ssim"), np.array(values).T))
        for values in (([20.0, 21.0, 22.0], [0.5, np.nan, np.nan]), ([21.0, 22.0, 23.5], [0.75, 0.75, np.nan]))
    )
    found = compared(tmp_path, first=first, other=other)
    text = comparison_page(found)
    assert "+0.2500, won 100% (n=1)" in text
    assert "+1.17 [+1.00, +1.50], won 100% |" in text
    assert found.others[0].groups["all"]["ssim"].low is None


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (None, []),
        ({"images": "/home/someone/faces", "masks": "/home/someone/masks"}, ["Data: images faces, masks masks"]),
        (
            {
                "images": {"source": "/x/faces", "layout": "tree of images"},
                "masks": {"source": "synthetic", "layout": "y"},
            },
            ["Data: images faces (tree of images), masks synthetic (y)"],
        ),
    ],
)
def test_the_data_are_named_without_their_folders(result, data, line):
    pairs = replace(result.pairs, data=data)
    assert pairs.data_line() == line
    assert set(line) <= set(facts(replace(result, pairs=pairs)))


def test_parts_of_processes_are_put_together_in_the_order_of_the_pairs(monkeypatch):
    whole = np.arange(10.0).reshape(5, 2)
    parts = [Part(whole[rank::2], {f"metric{rank}"}, 1.0 + rank, {str(rank): torch.zeros(1)}) for rank in range(2)]

    def gather(into, part):
        into[:] = parts

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    found = joined(parts[0], 2)
    assert np.array_equal(found.values, whole)
    assert (found.measured, found.seconds, set(found.outputs)) == ({"metric0", "metric1"}, 3.0, {"0", "1"})
