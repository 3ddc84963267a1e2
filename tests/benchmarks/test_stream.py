from pathlib import Path

import numpy as np
import pytest
import stream
from PIL import Image

from tests.data.fakes import image_tree
from wssl_pl.data.prepare import prepare
from wssl_pl.data.prepare_shards import prepare_shards


def test_images_are_drawn_with_detail_and_none_twice(tmp_path: Path) -> None:
    numbers = [0, 1, stream.TEXTURES, 5 * stream.TEXTURES]
    stream.draw(tmp_path, numbers)
    drawn = [np.asarray(Image.open(tmp_path / f"{number}.jpg")) for number in numbers]
    assert all(image.shape == (stream.SIDE, stream.SIDE, 3) and image.std() > 5 for image in drawn)
    assert len({image.tobytes() for image in drawn}) == len(numbers)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as `make` leaves it, of tiny images."""
    for name, value in {"SIZE": 32, "CROP": 32, "BATCH": 4}.items():
        monkeypatch.setattr(stream, name, value)
    images = image_tree(tmp_path / "images", {"train": 12, "val": 4}, suffix=".jpg", size=40)
    prepare(images, tmp_path / "cache", 32, workers=0)
    for encoding in stream.ENCODINGS:
        prepare_shards(images, tmp_path / encoding, 32, workers=0, encoding=encoding, chunk_size=4)
    opened = stream.opened
    monkeypatch.setattr(
        stream, "opened", lambda images, batch=4: opened(images, batch, resize=32, image_size=32, masks="synthetic")
    )
    return tmp_path


def test_crops_and_training_steps_are_counted_from_all_kinds(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "litdata_speed", lambda *_: lambda: 1.0)  # takes four seconds to import
    found = stream.crops(small, rounds=1, batches=2)
    assert set(found) == {*stream.KINDS, "litdata's reader of raw"}
    assert min(found.values()) > 0
    trained = stream.training(small, rounds=1, steps=1, batch=2)
    assert trained["raw images/s"] > 0
    assert trained["raw / cache"] > 0


def test_the_tables_say_what_was_measured() -> None:
    process = {"first batch s": 1.0, "peak RSS GB": 0.5, "without pages of files GB": 0.25}
    kinds = ("cache", "raw", "images")
    result = {
        "images": {"count": 30, "side": 288},
        "kB per image": dict.fromkeys(stream.KINDS, 12.0),
        "crops/s": dict.fromkeys(stream.KINDS, 1234.0),
        "training": {"cache images/s": 100.0, "raw images/s": 98.0, "raw / cache": 0.98},
        "process": dict.fromkeys(kinds, process),
        "process with 2 workers": {kind: {"PSS of all processes GB": 0.75} for kind in kinds},
        "server": {"cold images/s": 567.0, "process": process},
        "machine": {"cores": 2},
    }
    text = stream.markdown(result)
    assert "| shards, `raw` | 12 | 1,234 | 98.0 | 0.98 |" in text
    assert "| files | 1.00 | 0.50 | 0.25 | 0.75 |" in text
    assert "| cold images/s | 567 |" in text
