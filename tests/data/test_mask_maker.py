import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wssl_pl.data.mask_maker import DrawnStrokes, make_masks, random_strokes
from wssl_pl.data.masks import scan_masks, split_masks
from wssl_pl.errors import DataError, WSSLError


def drawings(path: Path, count: int = 40, raw: bool = False) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(count):
        points = rng.integers(0, 256, (2, 12)).tolist() if not raw else (rng.normal(0, 700, (2, 12))).tolist()
        stroke = [*points, list(range(12))] if raw else points
        lines.append(json.dumps({"word": "cat", "drawing": [stroke, [[10, 20], [30, 40]]]}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("source", ["random", "simplified", "raw"])
def test_names_size_polarity_and_folders_of_qd_imd(tmp_path: Path, source: str) -> None:
    strokes = (
        random_strokes if source == "random" else DrawnStrokes(drawings(tmp_path / "d.ndjson", raw=source == "raw"))
    )
    assert make_masks(tmp_path / "out", 12, strokes) == {"train": 10, "test": 2}
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert files[0] == "test/00000_test.png"
    assert files[-1] == "train/00009_train.png"
    paths = sorted((tmp_path / "out").rglob("*.png"))
    for path in paths:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((512, 512), "1")
    scan = scan_masks(paths, 64, "black", (0, 1))
    assert 0.02 < scan.ratios.mean() < 0.5
    assert split_masks(tmp_path / "out", paths)[1] == "folders"


def test_a_mask_depends_on_its_number_and_the_seed_alone(tmp_path: Path) -> None:
    for name, count, seed in (("a", 6, 0), ("b", 12, 0), ("c", 6, 1)):
        make_masks(tmp_path / name, count, random_strokes, seed)
    first = (tmp_path / "a" / "train" / "00002_train.png").read_bytes()
    assert first == (tmp_path / "b" / "train" / "00002_train.png").read_bytes()
    assert first != (tmp_path / "c" / "train" / "00002_train.png").read_bytes()
    assert first != (tmp_path / "a" / "train" / "00001_train.png").read_bytes()


def test_random_strokes_leave_as_much_as_qd_imds(tmp_path: Path) -> None:
    make_masks(tmp_path / "out", 120, random_strokes)
    scan = scan_masks(sorted((tmp_path / "out").rglob("*.png")), 64, "black", (0.3, 0.5))
    assert 0.3 < scan.kept / 120 < 0.6


def test_training_and_testing_masks_come_of_different_drawings(tmp_path: Path) -> None:
    lines = [{"drawing": [[[10 * i, 10 * i + 5], [0, 255]]]} for i in range(20)]
    (tmp_path / "d").write_text("\n".join(map(json.dumps, lines)))
    strokes = DrawnStrokes(tmp_path / "d")
    rng = np.random.default_rng(0)
    train, test = ({strokes(rng, part)[0, 0] for _ in range(300)} for part in (False, True))
    assert len(train) == len(test) == 10
    assert not train & test


@pytest.mark.parametrize(
    "line", ["nonsense", "{}", '{"drawing": []}', '{"drawing": [[["a"], ["b"]]]}', '{"drawing": 3}']
)
def test_what_is_no_drawing_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.ndjson").write_text(f"{line}\n{line}\n")
    with pytest.raises(DataError, match=r"bad\.ndjson: line \d is no drawing"):
        make_masks(tmp_path / "out", 2, DrawnStrokes(tmp_path / "bad.ndjson"))


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for out, count, seed, message in (("full", 2, 0, "is not empty"), ("a", 1, 0, "count=1"), ("a", 2, -1, "seed=-1")):
        with pytest.raises(WSSLError, match=message):
            make_masks(tmp_path / out, count, random_strokes, seed)
    with pytest.raises(WSSLError, match="does not exist"):
        DrawnStrokes(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is not a file"):
        DrawnStrokes(tmp_path / "pipe")
    (tmp_path / "one").write_text("{}")
    with pytest.raises(DataError, match="holds 1 drawings"):
        DrawnStrokes(tmp_path / "one")
