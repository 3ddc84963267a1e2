import logging
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tests.data.fakes import hole_mask, mask_tree
from wssl_pl.data import masks as masks_module
from wssl_pl.data.decode import dilate, read_mask
from wssl_pl.data.masks import MaskIndex, scan_masks
from wssl_pl.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return mask_tree(tmp_path / "masks", {"train": [0.3125, 0.4, 0.5, 0.7], "test": [0.4]})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are measured."""
    seen: list[str] = []
    real = masks_module.read_mask

    def count(path: Path, *args, **kwargs):
        seen.append(path.name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(masks_module, "read_mask", count)
    return seen


def scan(root: Path, bounds=(0.3, 0.5), size: int = 32, hole: str = "black", dilate: int = 0):
    files = sorted((root / "train").iterdir())
    index = MaskIndex(root, size, hole, dilate)
    found = scan_masks(files, size, hole, bounds, dilate, index)
    index.save(root.rglob("*.png"))
    return found


def test_masks_are_measured_once_whatever_the_bounds(root: Path, reads: list[str]) -> None:
    first = scan(root)
    assert len(reads) == 4
    again, wider = scan(root), scan(root, bounds=(0, 1))
    assert len(reads) == 4
    assert again.ratios.tolist() == first.ratios.tolist()
    np.testing.assert_array_equal(again.masks.bits, first.masks.bits)
    assert (first.kept, wider.kept) == (3, 4)
    assert [path.name for path in root.iterdir() if path.is_file()] == [".wssl-masks-32-black-0.v3.parquet"]


def test_an_index_of_another_version_is_measured_again(
    root: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(masks_module, "VERSION", 2)
        scan(root)
    assert len(reads) == 4
    scan(root)
    assert len(reads) == 8


@pytest.mark.parametrize("setting", [{"size": 48}, {"hole": "white"}, {"dilate": 1}])
def test_another_setting_measures_again(root: Path, reads: list[str], setting: dict) -> None:
    scan(root)
    scan(root, **setting)
    assert len(reads) == 8
    scan(root)
    assert len(reads) == 8


def test_a_changed_touched_new_or_deleted_file_is_noticed(root: Path, reads: list[str]) -> None:
    scan(root)
    files = sorted((root / "train").iterdir())
    Image.fromarray(~hole_mask(0.375, 64).astype(bool)).save(files[0])
    os.utime(files[1], ns=(5, 5))
    files[2].unlink()
    Image.fromarray(~hole_mask(0.4375, 64).astype(bool)).save(root / "train" / "new.png")
    reads.clear()
    assert scan(root).ratios.tolist() == pytest.approx([0.375, 13 / 32, 0.6875, 0.4375], abs=0.04)
    assert sorted(reads) == [files[0].name, files[1].name, "new.png"]
    assert len(MaskIndex(root, 32, "black", 0).entries) == 4


def test_a_damaged_index_is_made_anew(root: Path, reads: list[str], caplog: pytest.LogCaptureFixture) -> None:
    scan(root)
    path = root / ".wssl-masks-32-black-0.v3.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    other = pa.BufferOutputStream()
    parquet.write_table(pa.table({"name": ["text where bytes should be"]}), other)
    for damaged in (bytes(content), path.read_bytes()[:100], b"", b"text", other.getvalue()):
        path.write_bytes(damaged)
        reads.clear()
        caplog.clear()
        assert scan(root).kept == 3
        assert len(reads) in (0, 4)  # a bit that nobody reads may flip unseen
        assert bool(caplog.records) == bool(reads)


def test_any_flipped_bit_costs_a_measurement_and_no_traceback(root: Path) -> None:
    first = scan(root)
    path = root / ".wssl-masks-32-black-0.v3.parquet"
    content, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        again = scan(root)
        assert again.ratios.tolist() == first.ratios.tolist()
        np.testing.assert_array_equal(again.masks.bits, first.masks.bits)


@pytest.mark.parametrize("packed", [b"", b"no zlib", zlib.compress(bytes(3)), zlib.compress(bytes(10**6))])
def test_forged_bits_and_a_pipe_are_measured_again(root: Path, reads: list[str], packed: bytes) -> None:
    first = scan(root)
    index = MaskIndex(root, 32, "black", 0)
    (path,) = [path for path in index.entries if "00001" in path]
    index.add(root / path, replace(index.entries[path], packed=packed))
    index.save(root.rglob("*.png"))
    reads.clear()
    np.testing.assert_array_equal(scan(root).masks.bits, first.masks.bits)
    assert reads == [Path(path).name]
    (root / ".wssl-masks-32-black-0.v3.parquet").unlink()
    os.mkfifo(root / ".wssl-masks-32-black-0.v3.parquet")
    np.testing.assert_array_equal(scan(root).masks.bits, first.masks.bits)


def test_a_folder_that_cannot_be_written_has_its_index_elsewhere(
    root: Path, reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root.chmod(0o555)
    try:
        scan(root)
        scan(root)
        assert len(reads) == 4
        assert not [path for path in root.iterdir() if path.is_file()]
        assert len(list((tmp_path / "cache").rglob("*.parquet"))) == 1
        (tmp_path / "cache" / "wssl_pl" / "x").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache" / "wssl_pl" / "x"))
        with caplog.at_level(logging.WARNING):
            assert scan(root).kept == 3
        assert "measured at every start" in caplog.text
    finally:
        root.chmod(0o755)


def test_the_data_module_uses_it_and_says_what_is_not_binary(
    make, root: Path, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    grey = np.where(hole_mask(0.4, 64), 30, 220).astype(np.uint8)
    Image.fromarray(grey).save(root / "train" / "grey.png")
    for _ in range(2):
        caplog.clear()
        module = make(masks=str(root))
        module.setup("fit")
        (line,) = (record.message for record in caplog.records if record.levelno >= logging.WARNING)
        assert "1 of 5 train masks are not black and white alone: they are binarised at half" in line
    assert len(reads) == 6
    assert module.describe()["masks"]["dilate"] == 0


def test_dilation_widens_holes_on_every_side(make, root: Path) -> None:
    point = np.zeros((9, 9), bool)
    point[4, 4] = True
    widened = dilate(point, 2)
    assert widened[2:7, 2:7].all()
    assert widened.sum() == 25
    assert dilate(point, 0).sum() == 1
    plain, wide = scan(root, (0, 1)), scan(root, (0, 1), dilate=2)
    assert (wide.ratios > plain.ratios).all()
    module = make(masks=str(root), dilate=1, hole_ratio=(0.0, 1.0))
    module.setup("fit")
    assert module.describe()["masks"]["dilate"] == 1


@pytest.mark.parametrize(
    ("values", "binary", "bright"),
    [((0, 255), True, [False, True]), ((0, 1), True, [False, True]), ((3, 250), False, [False, True]),
     ((0, 100), False, [False, False]), ((0, 0), True, [False, False])],
)  # fmt: skip
def test_what_counts_as_binary(tmp_path: Path, values: tuple, binary: bool, bright: list[bool]) -> None:
    Image.fromarray(np.array([values], np.uint8).repeat(2, 0)).save(tmp_path / "m.png")
    coverage, is_binary = read_mask(tmp_path / "m.png", 2, bright=True)
    assert (coverage[0].tolist(), is_binary) == (bright, binary)


def test_widened_synthetic_masks_keep_to_the_bounds(make):
    module = make(masks="synthetic", dilate=1, hole_ratio=(0.1, 0.5))
    module.setup("fit")
    counts = module.describe()["masks"]["train"]
    assert counts["kept"] < counts["total"]
    with pytest.raises(DataError, match="no synthetic mask has a hole of 30% to 50%"):
        make(masks="synthetic", dilate=16, hole_ratio=(0.3, 0.5)).setup("fit")
