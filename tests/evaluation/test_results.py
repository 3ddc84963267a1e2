import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from wssl_pl.errors import DataError
from wssl_pl.evaluation.evaluate import evaluate
from wssl_pl.evaluation.results import Result, Table, read_result

VALUES = np.array([[20.5, 0.5], [np.inf, 1.0], [np.nan, 0.75]])


@pytest.fixture
def table():
    bins = np.array(["10-20", "30-40", "10-20"])
    return Table(np.array(["b", "a", "c"]), np.array([0.2, 0.4, 0.11]), bins, ("psnr_hole", "ssim"), VALUES)


@pytest.fixture
def result(table):
    pairs = {"folder": "pairs", "hash": "f" * 64, "count": 3, "evaluated": 3}
    return Result(table, {"name": "m"}, pairs, {"cores": 2}, ["a note"], 0.25, {"fid": 3.0, "fid_composite": None}, 7)


def test_a_measurement_is_a_row(table):
    rows = table.to_arrow(run="r1", seed=3).to_pylist()
    assert rows[0] == {
        "run": "r1", "seed": 3, "image": "b", "ratio": 0.2, "ratio_bin": "10-20", "metric": "psnr_hole", "value": 20.5,
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


def test_a_result_of_version_0_1_is_read(result, tmp_path):
    result.save(tmp_path)
    wide = {
        "name": ["b", "a", "c"], "mask": ["masks/x.png"] * 3, "ratio": [0.2, 0.4, 0.11],
        "psnr": pa.nulls(3, pa.float64()), "ssim": [0.5, 1.0, 0.75], "psnr_hole": [20.5, np.inf, None],
        "bin": ["10-20", "30-40", "10-20"],
    }  # fmt: skip
    parquet.write_table(pa.table(wide), tmp_path / "per_image.parquet")
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["figures"] = summary.pop("metrics")
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    again = read_result(tmp_path)
    assert again.table.metrics == ("ssim", "psnr_hole")
    assert again.estimates["all"]["psnr_hole"] == result.estimates["all"]["psnr_hole"]


def test_what_is_no_result_is_refused_with_a_remedy(result, tmp_path):
    with pytest.raises(DataError, match=r"is not a finished result of `wssl evaluate`: run") as caught:
        read_result(tmp_path)
    assert caught.value.value == tmp_path
    for name, content in (("summary.json", b"{}"), ("per_image.parquet", b"torn")):
        result.save(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_result(tmp_path)


def test_measuring_writes_nothing(pairs, noisy):
    before = {path: path.stat().st_mtime_ns for path in pairs.folder.parent.rglob("*")}
    evaluate(pairs, noisy)
    assert {path: path.stat().st_mtime_ns for path in pairs.folder.parent.rglob("*")} == before
