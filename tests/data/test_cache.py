import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.fakes import face, image_tree
from tests.data.test_datamodule import epoch, same
from wssl_pl.cli import prepare as prepare_verb
from wssl_pl.data import splits
from wssl_pl.data.cache import Cache, CachedImages, Entry, digest, header, read_csv, write_csv
from wssl_pl.data.prepare import prepare
from wssl_pl.errors import DataError, UsageError


@pytest.fixture
def cache(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    prepare(folders[0], tmp_path / "cache", size=40, workers=0)
    return tmp_path / "cache"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_batches_are_those_of_the_folder(make, cache: Path, split: str) -> None:
    assert same(epoch(make(), split), epoch(make(images=str(cache)), split))
    assert same(epoch(make(), split), epoch(make(images=str(cache), num_workers=1), split))


def test_no_processes_are_started_for_a_cache(make, cache: Path) -> None:
    module = make(images=str(cache), num_workers=None)
    module.setup("fit")
    assert module.train_dataloader().num_workers == 0
    described = module.describe()["images"]
    assert described["layout"] == "cache of tree of images"
    assert (described["split"], described["train"], described["val"]) == ("folders", 22, 7)


def test_limit_takes_the_first_as_it_does_of_a_folder(make, cache: Path) -> None:
    assert same(epoch(make(limit=4)), epoch(make(images=str(cache), limit=4)))


def test_another_size_or_split_is_one_line_with_the_remedy(make, cache: Path) -> None:
    with pytest.raises(UsageError, match=r"is a cache of 40 px and data\.resize=48: set data\.resize=40") as caught:
        make(images=str(cache), resize=48).setup("fit")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="is split by folders; divide it anew"):
        make(images=str(cache), split="hash").setup("fit")


@pytest.mark.parametrize("name", ["area", "bilinear"])
def test_a_cache_is_of_one_resizing_filter(make, folders: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    prepare_verb.run([f"images={folders[0]}", f"out={tmp_path / 'c'}", "size=40", "workers=0", f"resize_filter={name}"])
    cached = epoch(make(images=str(tmp_path / "c"), resize_filter=name))
    assert same(cached, epoch(make(resize_filter=name)))
    assert not same(cached, epoch(make()), ("image",))
    with pytest.raises(UsageError, match=rf"data\.resize_filter=lanczos: the cache .* was made with {name}: give"):
        make(images=str(tmp_path / "c")).setup("fit")
    with pytest.raises(UsageError, match=rf"made with resize_filter={name}: give that, or a new folder"):
        prepare(folders[0], tmp_path / "c", size=40, workers=0)


def test_a_cache_from_before_the_filter_was_a_choice_is_of_lanczos(make, cache: Path) -> None:
    manifest = json.loads((cache / "manifest.json").read_text())
    del manifest["resize_filter"]
    manifest["sha256"] = digest(manifest)
    (cache / "manifest.json").write_text(json.dumps(manifest))
    assert same(epoch(make(images=str(cache))), epoch(make()))
    with pytest.raises(UsageError, match=r"was made with lanczos: give data\.resize_filter=lanczos"):
        make(images=str(cache), resize_filter="area").setup("fit")


def test_an_unfinished_cache_is_not_taken_for_an_empty_folder(make, cache: Path) -> None:
    (cache / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"data\.images=.* is not finished: run the same `wssl prepare` again"):
        make(images=str(cache)).setup("fit")


def test_a_split_that_is_not_there(make, tmp_path: Path) -> None:
    prepare(image_tree(tmp_path / "i", {"train": 4, "val": 1}), tmp_path / "c", size=40, workers=0)
    with pytest.raises(DataError, match=r"has no test images \(split by folders\): .*`wssl prepare` again"):
        make(images=str(tmp_path / "c")).setup("test")


def test_images_in_two_splits_are_counted(make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = image_tree(tmp_path / "i", {"train": 6, "val": 2, "test": 2})
    for number in range(3):
        shutil.copy(root / "train" / f"{number}.png", root / "test" / f"copy{number}.png")
    with Image.open(root / "train" / "4.png") as image:  # other bytes, the same pixels
        image.save(root / "val" / "again.png", compress_level=0)
    report = prepare(root, tmp_path / "c", size=40, workers=0)
    assert report.duplicates == {"train and test": 3, "train and val": 1}
    make(images=str(tmp_path / "c")).setup("fit")
    (line,) = [record.message for record in caplog.records if "two splits" in record.message]
    assert "train and test: 3" in line
    assert "train and val: 1" in line


def test_a_part_of_train_for_val_is_the_folders_rule(make, tmp_path: Path) -> None:
    prepare(image_tree(tmp_path / "i", {"train": 8, "test": 2}), tmp_path / "c", size=40, workers=0)
    module = make(images=str(tmp_path / "c"), split="folders")
    module.setup("fit")
    assert module.describe()["images"]["val"] == 1


def test_an_update_keeps_the_splits_of_the_hash_with_suffixes(tmp_path: Path, monkeypatch) -> None:
    root = image_tree(tmp_path / "i", {"": 60})

    def with_suffix(path: Path) -> float:
        return int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:6]) / 2.0**48

    with monkeypatch.context() as patched:
        patched.setattr(splits, "hashed_fraction", with_suffix)
        before = {entry.source: entry.split for entry in prepare(root, tmp_path / "c", 40, 0).cache.entries}
    assert str(prepare(root, tmp_path / "c", 40, 0).differences) == "nothing new"
    for number in range(100, 130):
        face(number).save(root / f"{number}.png")
    report = prepare(root, tmp_path / "c", 40, 0)
    after = {entry.source: entry.split for entry in report.cache.entries}
    assert str(report.differences) == "30 new"
    assert {name: after[name] for name in before} == before
    fresh = {entry.source: entry.split for entry in prepare(root, tmp_path / "new", 40, 0).cache.entries}
    assert {name: fresh[name] for name in fresh.keys() - before.keys()} == {
        name: after[name] for name in after.keys() - before.keys()
    }
    assert fresh != after
    rows = [(splits.SPLITS.index(entry.split), int(Path(entry.source).stem)) for entry in report.cache.entries]
    assert rows == sorted(rows)


def test_a_copy_for_another_process_holds_no_pixels(cache: Path) -> None:
    opened = Cache(cache)
    images = CachedImages(opened.array_path, opened.split_rows("train"))
    first, _ = images.read(np.arange(22))
    content = pickle.dumps(images)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content).read(np.arange(22))[0], first)


def test_the_array_is_an_ordinary_npy_file(tmp_path: Path) -> None:
    assert len(header(30000, 256)) == 128
    (tmp_path / "a.npy").write_bytes(header(2, 4) + bytes(range(96)))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3))


def test_names_of_any_kind_survive_the_table() -> None:
    names = ["лицо 顔.png", 'a,"b".png', "line\nbreak\r.png", "latin\udce9.png", " space .png"]
    entries = [Entry(i, "train", name, 1, -1, 2, 3, "a", "b") for i, name in enumerate(names)]
    assert read_csv(write_csv(entries, Entry), Entry) == entries


def test_training_from_a_cache_is_training_from_the_folder(make, cache: Path) -> None:
    first = make().on_after_batch_transfer(epoch(make())[2], 0)
    second = make().on_after_batch_transfer(epoch(make(images=str(cache)))[2], 0)
    assert torch.equal(first["image"], second["image"])
