import contextlib
import hashlib
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from tests.data.fakes import image_tree
from tests.data.test_datamodule import epoch, same
from wssl_pl.cli import run
from wssl_pl.data.cache import Cache, Entry, digest, duplicates, read_index, write_index
from wssl_pl.data.images import ArrayImages
from wssl_pl.data.prepare import prepare
from wssl_pl.errors import DataError, WSSLError


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
    with pytest.raises(WSSLError, match=r"resize=48: the cache .* has 40 px: set resize=40, or") as caught:
        make(images=str(cache), resize=48).setup("fit")
    assert "\n" not in str(caught.value)
    with pytest.raises(WSSLError, match=r"split_rule=hash: the cache .* is split by folders: omit it, or"):
        make(images=str(cache), split_rule="hash").setup("fit")


@pytest.mark.parametrize("name", ["area", "bilinear"])
def test_a_cache_is_of_one_resizing_filter(make, folders: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    run(["prepare", f"images={folders[0]}", f"out={tmp_path / 'c'}", "size=40", "workers=0", f"resize_filter={name}"])
    cached = epoch(make(images=str(tmp_path / "c"), resize_filter=name))
    assert same(cached, epoch(make(resize_filter=name)))
    assert not same(cached, epoch(make()), ("image",))
    with pytest.raises(WSSLError, match=rf"^resize_filter=lanczos: the cache .* was made with {name}: set"):
        make(images=str(tmp_path / "c")).setup("fit")
    with pytest.raises(WSSLError, match=rf"made with {name}: set resize_filter={name}, or a new folder"):
        prepare(folders[0], tmp_path / "c", size=40, workers=0)


def test_a_cache_of_an_earlier_version_is_refused_with_its_remedy(make, folders, cache: Path) -> None:
    (cache / "manifest.json").write_text('{"format": "wssl image cache", "version": 1, "size": 40}')
    for use in (lambda: make(images=str(cache)).setup("fit"), lambda: prepare(folders[0], cache, size=40, workers=0)):
        with pytest.raises(DataError, match=r"has version 1 of the format, this program reads 2: .* a new folder"):
            use()


def forge(cache: Path, **changes) -> None:
    """Change the manifest as somebody would who knows its hash."""
    manifest = json.loads((cache / "manifest.json").read_bytes()) | changes
    manifest = {name: value for name, value in manifest.items() if value is not None}
    (cache / "manifest.json").write_text(json.dumps(manifest | {"sha256": digest(manifest)}))


def test_a_manifest_names_files_of_its_own_folder_alone(make, cache: Path, tmp_path: Path) -> None:
    array = Cache(cache).array_path
    shutil.copy(array, tmp_path / "x.npy")
    for name in ("../x.npy", str(tmp_path / "x.npy"), "..", ".", "", 3, None):
        forge(cache, images={"file": name})
        with pytest.raises(DataError, match=r"^images=.*: is damaged \(") as caught:
            make(images=str(cache)).setup("fit")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["layout", "split_rule", "resize_filter", "size", "images", "index", "version"])
def test_a_manifest_without_an_entry_is_damaged(make, cache: Path, name: str) -> None:
    forge(cache, **{name: None})
    with pytest.raises(DataError, match=r"^images=.*: is damaged \('?" + name):
        make(images=str(cache)).setup("fit")


def test_counts_come_from_the_index(make, cache: Path) -> None:
    forge(cache, splits=None, count=None)
    assert Cache(cache).sizes() == {"train": 22, "val": 7, "test": 5}


@pytest.mark.parametrize("name", ["manifest.json", "index", "images"])
def test_a_pipe_in_place_of_a_file_is_damage(make, cache: Path, name: str) -> None:
    path = next(cache.glob(f"{name}*"))
    path.unlink()
    os.mkfifo(path)
    (cache / ".prepare").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=f"is damaged .*{name}.* is no file in it"):
        make(images=str(cache)).setup("fit")


def test_a_file_that_is_missing_or_may_not_be_read(make, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = PermissionError(13, "Permission denied")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(error))
        with pytest.raises(DataError, match=r": cannot be read: Permission denied: make it readable$"):
            Cache(cache)
    next(cache.glob("index-*")).unlink()
    with pytest.raises(DataError, match=r"is damaged \(index-\w+\.parquet is missing\)"):
        Cache(cache)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"\xff", b"null"])
def test_a_manifest_of_anything_is_damage(make, cache: Path, content: bytes) -> None:
    (cache / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        Cache(cache)


def test_an_index_with_flipped_bits_is_no_index_or_the_same(cache: Path) -> None:
    content = next(cache.glob("index-*")).read_bytes()
    entries, random = read_index(content), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[random.integers(len(content) - 600, len(content))] ^= 1 << random.integers(8)
        with contextlib.suppress(ValueError):
            assert all(isinstance(entry, Entry) for entry in read_index(bytes(damaged)))
    for wrong in ([replace(entries[0], split="all")], [replace(entries[0], row=7)]):
        index = write_index(wrong)
        next(cache.glob("index-*")).write_bytes(index)
        manifest = json.loads((cache / "manifest.json").read_bytes())
        forge(cache, index=manifest["index"] | {"sha256": hashlib.sha256(index).hexdigest()})
        with pytest.raises(DataError, match=r"is damaged \(index-.* does not count its rows"):
            Cache(cache)


def test_an_unfinished_cache_is_not_taken_for_an_empty_folder(make, cache: Path) -> None:
    (cache / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"images=.*: is not finished: run the same `wssl prepare` again"):
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
    assert duplicates(report.cache.entries) == {"train and test": 3, "train and val": 1}
    make(images=str(tmp_path / "c")).setup("fit")
    (line,) = [record.message for record in caplog.records if "two splits" in record.message]
    assert "train and test: 3" in line
    assert "train and val: 1" in line


def test_a_part_of_train_for_val_is_the_folders_rule(make, tmp_path: Path) -> None:
    prepare(image_tree(tmp_path / "i", {"train": 8, "test": 2}), tmp_path / "c", size=40, workers=0)
    module = make(images=str(tmp_path / "c"), split_rule="folders")
    module.setup("fit")
    assert module.describe()["images"]["val"] == 1


def test_a_copy_for_another_process_holds_no_pixels(cache: Path) -> None:
    opened = Cache(cache)
    images = ArrayImages(opened.array_path, opened.split_rows("train"))
    first, _ = images.read(np.arange(22))
    content = pickle.dumps(images)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content).read(np.arange(22))[0], first)


def test_the_files_are_ordinary_npy_and_parquet(cache: Path) -> None:
    opened = Cache(cache)
    array = np.load(opened.array_path)
    table = parquet.read_table(next(cache.glob("index-*.parquet"))).to_pydict()
    assert (array.shape, array.dtype) == ((34, 40, 40, 3), np.uint8)
    assert table["source"][0] == b"train/0.png"
    assert table["reason"] == [None] * 34
    assert table["pixels_sha256"] == [hashlib.sha256(row).hexdigest() for row in array]


def test_names_of_any_kind_survive_the_index() -> None:
    names = ["лицо 顔.png", 'a,"b".png', "line\nbreak\r.png", "latin\udce9.png", " space .png"]
    entries = [Entry(i, name, "train", 1, -1, 2, 3, "a", "b") for i, name in enumerate(names)]
    entries.append(Entry(5, "bad.png", "val", 0, 1, reason="is empty"))
    assert read_index(write_index(entries)) == entries


def test_a_cache_inside_the_folder_of_images_is_no_table_of_images(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "i", {"": 6})
    prepare(root, root / "cache", size=40, workers=0)
    (root / "masks").mkdir()
    (root / "masks" / ".wssl-masks.parquet").touch()
    assert str(prepare(root, root / "cache", size=40, workers=0).differences) == "nothing new"


def test_training_from_a_cache_is_training_from_the_folder(make, cache: Path) -> None:
    first = make().on_after_batch_transfer(epoch(make())[2], 0)
    second = make().on_after_batch_transfer(epoch(make(images=str(cache)))[2], 0)
    assert torch.equal(first["image"], second["image"])
