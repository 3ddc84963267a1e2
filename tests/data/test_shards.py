import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tests.data.fakes import face, image_tree
from tests.data.test_datamodule import epoch, same
from tests.data.test_prepare import contents
from tests.data.test_resume import SaveAt, train
from tests.processes import wait_until
from wssl_pl import files
from wssl_pl.cli import main
from wssl_pl.data import WSSLDataModule, prepare_shards
from wssl_pl.data import parquet as tables
from wssl_pl.data.cache import digest
from wssl_pl.data.decode import read_image
from wssl_pl.data.prepare import Report, prepare
from wssl_pl.data.shards import Folder, ShardImages, Shards, check_shards
from wssl_pl.data.sources import ShardSet
from wssl_pl.errors import DataError, Interrupted, WSSLError

SIZE = 16
TRAINING = {"resize": SIZE, "image_size": SIZE, "hole_ratio": (0.0, 1.0)}


def write(images: Path, out: Path, **options) -> Report:
    settings = {"size": SIZE, "workers": 0, "chunk_size": 4}
    return prepare_shards.prepare_shards(images, out, **(settings | options))


def opened(folder: Path, split: str = "train", size: int = SIZE) -> ShardImages:
    return ShardImages(Shards(Folder(folder)), split, size, "lanczos")


def pixels(images: ShardImages) -> np.ndarray:
    return images.read(np.arange(len(images)))[0]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = image_tree(tmp_path_factory.mktemp("tree"), {"train": 30, "val": 5, "test": 4}, suffix=".jpg", size=24)
    (root / "train" / "3.jpg").write_text("no image")
    return root


@pytest.fixture(scope="module")
def made(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished shards, not to be changed."""
    out = tmp_path_factory.mktemp("made") / "shards"
    write(images, out)
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_shards_hold_the_pixels_of_the_cache(images: Path, tmp_path: Path, made: Path) -> None:
    cache = prepare(images, tmp_path / "cache", SIZE, workers=0).cache
    rows = {entry.source: entry.row for entry in cache.entries}
    array = np.load(cache.array_path)
    write(images, tmp_path / "png", encoding="png")
    for folder in (made, tmp_path / "png"):
        shards = Shards(Folder(folder))
        assert shards.sizes() == cache.sizes() == {"train": 29, "val": 5, "test": 4}
        for split in shards.sizes():
            sources = [entry.source for entry in shards.entries if entry.split == split]
            np.testing.assert_array_equal(pixels(opened(folder, split)), array[[rows[name] for name in sources]])
    assert [entry.source for entry in shards.skipped] == ["train/3.jpg"]
    order = [entry.source for entry in shards.index if entry.split == "val"]
    assert order == [entry.source for entry in cache.index if entry.split == "val"]
    assert [entry.source for entry in shards.index] != [entry.source for entry in cache.index]


def test_files_are_stored_as_they_are_and_resized_when_they_are_read(images: Path, tmp_path: Path) -> None:
    shards = write(images, tmp_path / "out", encoding="file").cache
    name = next(entry.source for entry in shards.entries if entry.split == "test")
    for size in (8, 20):
        np.testing.assert_array_equal(
            pixels(opened(tmp_path / "out", "test", size))[0], read_image(images / name, size)
        )
    stored = b"".join(path.read_bytes() for path in (tmp_path / "out" / "test").glob("*.bin"))
    assert (images / name).read_bytes() in stored


def test_jpeg_shards_are_close_and_small(images: Path, tmp_path: Path, made: Path) -> None:
    write(images, tmp_path / "out", encoding="jpeg")
    difference = pixels(opened(tmp_path / "out")).astype(int) - pixels(opened(made))
    assert 0 < np.abs(difference).max() < 16


def test_litdata_reads_them(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    litdata = pytest.importorskip("litdata")
    monkeypatch.setenv("HOME", str(tmp_path))
    items = litdata.StreamingDataset(str(made / "val"))
    assert [items[index] for index in range(5)] == [image.tobytes() for image in pixels(opened(made, "val"))]


def test_processes_do_not_change_a_byte(images: Path, tmp_path: Path, made: Path, monkeypatch) -> None:
    class Backwards:
        def __call__(self, jobs, workers):
            yield from [job() for job in reversed(jobs)]

    monkeypatch.setattr("wssl_pl.data.prepare.results", Backwards())
    write(images, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == contents(made)


@pytest.mark.parametrize("jobs_done", [0, 1, 4])
def test_an_interrupted_one_resumes_and_has_the_same_bytes(
    images: Path, tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, jobs_done: int
) -> None:
    real, calls = prepare_shards.write_chunk, []

    def interrupted(*args):
        calls.append(args[2])
        if len(calls) > jobs_done:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(prepare_shards, "write_chunk", interrupted)
    with pytest.raises(Interrupted):
        write(images, tmp_path / "out")
    with pytest.raises(DataError, match=r"has no manifest.json: run the same `wssl prepare` again"):
        WSSLDataModule(images=str(tmp_path / "out"), masks="synthetic", resize=SIZE, image_size=SIZE).setup("fit")
    written = calls[:jobs_done]
    calls.clear()
    monkeypatch.setattr(prepare_shards, "write_chunk", lambda *args: calls.append(args[2]) or real(*args))
    write(images, tmp_path / "out")
    assert not set(calls) & set(written)
    assert contents(tmp_path / "out") == contents(made)


@pytest.mark.parametrize("stopped_at", ["train/index.json", "manifest.json"])
def test_stopped_between_the_last_names_it_only_writes_those(
    images: Path, tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: str
) -> None:
    real = files.replacing

    def stopped(path: Path) -> AbstractContextManager[BinaryIO]:
        if path == tmp_path / "out" / stopped_at:
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "replacing", stopped)
        with pytest.raises(Interrupted):
            write(images, tmp_path / "out")
    assert not (tmp_path / "out" / stopped_at).exists()
    monkeypatch.setattr(prepare_shards, "write_chunk", lambda *_: pytest.fail("written again"))
    write(images, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(made)


def test_a_second_run_writes_nothing_and_other_settings_are_refused(
    images: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(copy)
    monkeypatch.setattr(prepare_shards, "write_chunk", lambda *_: pytest.fail("written again"))
    assert write(images, copy).differences == "nothing new"
    for name, value in {"size": 8, "encoding": "png", "chunk_size": 5, "resize_filter": "area"}.items():
        with pytest.raises(WSSLError, match=f"^{name}={value}: .* was made with .*, or a new folder"):
            write(images, copy, **{name: value})
    assert contents(copy) == before


def test_changed_images_make_them_again(images: Path, tmp_path: Path, copy: Path) -> None:
    changed = Path(shutil.copytree(images, tmp_path / "images"))
    shutil.rmtree(changed / "test")
    (changed / "train" / "3.jpg").unlink()
    face(99, 24).save(changed / "train" / "99.jpg")
    assert write(changed, copy).differences == "1 new, 5 deleted"
    write(changed, tmp_path / "fresh")
    assert contents(copy) == contents(tmp_path / "fresh")


def test_a_lost_chunk_is_written_again(images: Path, copy: Path, made: Path) -> None:
    next((copy / "train").glob("*.bin")).unlink()
    write(images, copy)
    assert contents(copy) == contents(made)


def test_nothing_of_others_is_replaced(images: Path, tmp_path: Path, made: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    prepare(images, tmp_path / "cache", SIZE, workers=0)
    for folder in ("mine", "cache"):
        with pytest.raises(WSSLError, match=r"is not empty and holds nothing of the kind: name a new folder"):
            write(images, tmp_path / folder)
    with pytest.raises(WSSLError, match="holds nothing of the kind"):
        prepare(images, made, SIZE, workers=0)


def test_shards_inside_their_images_are_none_of_them(images: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(images, tmp_path / "images"))
    write(images, images / "shards")
    assert write(images, images / "shards").differences == "nothing new"
    assert prepare(images, images / "cache", SIZE, workers=0).cache.layout == "tree of images"


def test_each_group_of_a_parquet_file_is_decoded_once_a_chunk(tmp_path: Path, monkeypatch) -> None:
    rows = []
    for number in range(24):
        buffer = io.BytesIO()
        face(number).save(buffer, "png")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    (tmp_path / "hub").mkdir()
    parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "hub" / "a.parquet", row_group_size=6)
    tables._group.cache_clear()
    shards = write(tmp_path / "hub", tmp_path / "out", chunk_size=12).cache
    chunks = len(list((tmp_path / "out").rglob("*.bin")))
    assert tables._group.cache_info().misses <= 4 * chunks < 24
    cache = prepare(tmp_path / "hub", tmp_path / "cache", SIZE, workers=0).cache
    assert {entry.source: entry.sha256 for entry in shards.entries} == {
        entry.source: entry.sha256 for entry in cache.entries
    }


def test_without_the_extra_the_remedy_is_named(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litdata.streaming.writer", None)
    with pytest.raises(WSSLError, match=r"^format=shards: needs litdata: pip install 'wssl-pl\[stream\]'"):
        write(images, tmp_path / "out")


def test_the_command_prepares_and_checks(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["prepare", f"images={images}", f"out={out}", "format=shards", "size=16", "workers=0", "chunk_size=8"]
    main(command)
    printed = capsys.readouterr().out
    assert "'train/3.jpg': is not a JPEG, PNG or WebP file" in printed
    assert "38 images of 16 px (train 29, val 5, test 4)" in printed
    main(["prepare", "--check", f"out={out}"])
    assert "all 38 images are as they were written" in capsys.readouterr().out
    chunk = next((out / "val").glob("*.bin"))
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(DataError, match=rf"is damaged \(1 of 6 chunks have changed: val/{chunk.name}\)"):
        check_shards(out)


def forge(folder: Path, change: Callable[[dict], None], split: str = "val") -> None:
    """Change an `index.json` and the manifest's digest of it, as a stranger could."""
    index, manifest = (json.loads((folder / name).read_text()) for name in (f"{split}/index.json", "manifest.json"))
    change(index)
    text = json.dumps(index)
    (folder / split / "index.json").write_text(text)
    manifest["splits"][split]["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    manifest["sha256"] = digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda index: index["config"].update(data_format=["pickle"]), "its items are ['pickle'], not bytes"),
        (lambda index: index["config"].update(data_format=["bytes", "pickle"]), "not bytes"),
        (lambda index: index["config"].update(compression="zstd"), "it is compressed or encrypted"),
        (lambda index: index["chunks"][0].update(filename="../../chunk-000000-0123456789abcdef.bin"), "is no name"),
        (lambda index: index["chunks"][0].update(filename=3), "expected string"),
        (lambda index: index["chunks"][0].update(chunk_size=-4), "has no size"),
        (lambda index: index["chunks"][0].update(chunk_size=True), "has no size"),
        (lambda index: index["chunks"][0].update(chunk_bytes=2**40), "bytes"),
        (lambda index: index["chunks"].pop(), "it does not have 5 images"),
        (lambda index: index.update(chunks=None), "is damaged"),
    ],
)
def test_an_index_of_a_stranger_is_refused(copy: Path, change: Callable[[dict], None], reason: str) -> None:
    for chunk in (copy / "val").glob("*.bin"):
        chunk.write_bytes(pickle.dumps(Bomb()))
    forge(copy, change)
    with pytest.raises(DataError) as caught:
        opened(copy, "val")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format": "wssl shards", "version": 2}', "has version 2 of the format, this program reads 1"),
        ('{"format": "wssl shards", "version": 1, "sha256": 3}', "manifest.json has changed"),
        ("[" * 5000, "is damaged"),
        ("[]", "is damaged"),
        ('{"format": "another"}', "its format is 'another'"),
        (" " * 2**20 + "{}", "is damaged (more than 1048576 bytes)"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(copy: Path, text: str, reason: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(DataError) as caught:
        Shards(Folder(copy))
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "train/index.json", "chunk"])
def test_a_pipe_in_place_of_a_file_is_damage(copy: Path, name: str) -> None:
    path = next((copy / "train").glob("*.bin")) if name == "chunk" else copy / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"^images=.*(is no file in it|has 0 bytes instead of)"):
        ShardSet(Folder(copy), SIZE, None, "auto", "lanczos", "error").open("train")


def damage_one(folder: Path, how: str) -> Path:
    chunk = sorted((folder / "train").glob("*.bin"))[2]
    content = chunk.read_bytes()
    if how == "missing":
        chunk.unlink()
    elif how == "cut":
        chunk.write_bytes(content[:-10])
    else:  # an offset that is not behind the one before
        chunk.write_bytes(content[:8] + b"\xff\xff\xff\xff" + content[12:])
    return chunk


@pytest.mark.parametrize("how", ["missing", "cut", "offsets"])
def test_a_bad_chunk_ends_the_run_or_is_omitted(
    copy: Path, made: Path, make: Callable[..., WSSLDataModule], how: str
) -> None:
    chunk = damage_one(copy, how)
    settings = {"images": str(copy), **TRAINING}
    reason = {"missing": "is missing", "cut": "bytes instead of", "offsets": "is damaged"}[how]

    with pytest.raises(DataError, match=f"{chunk.name}: .*{reason}.*on_error=skip"):
        epoch(make(**settings))
    data = make(**settings, on_error="skip", batch_size=7)
    seen = {index for batch in epoch(data) for index in batch["index"].tolist()}
    lost = set(np.flatnonzero(opened(made).chunks == 2).tolist())
    assert len(seen | lost) >= 28  # an incomplete last batch is dropped
    assert not lost & seen
    assert {Path(name).name for name, _ in data.skipped} == {chunk.name}


def test_any_number_of_workers_gives_the_same_batches(made: Path, make: Callable[..., WSSLDataModule]) -> None:
    alone = epoch(make(images=str(made), **TRAINING))
    assert sorted(index for batch in alone for index in batch["index"].tolist()) != list(range(29))
    for workers in (1, 2):
        assert same(alone, epoch(make(images=str(made), num_workers=workers, **TRAINING)))


def test_a_run_resumed_in_mid_epoch_sees_what_an_uninterrupted_one_sees(
    made: Path, tmp_path: Path, make: Callable[..., WSSLDataModule]
) -> None:
    def data() -> WSSLDataModule:
        return make(images=str(made), **TRAINING)

    path = tmp_path / "stopped.ckpt"
    whole = train(data(), callbacks=[SaveAt("on_train_batch_end", 10, path)], max_epochs=3)
    resumed = train(data(), path, max_epochs=3)
    assert [entry[1:] for entry in resumed.seen] == [entry[1:] for entry in whole.seen[10:]]


def test_another_size_or_filter_is_refused(made: Path, make: Callable[..., WSSLDataModule]) -> None:
    with pytest.raises(WSSLError, match=r"^resize=32: the set of shards .* has 16 px: set resize=16"):
        make(images=str(made), resize=32, image_size=16).setup("fit")
    with pytest.raises(WSSLError, match=r"^resize_filter=area: .* was made with lanczos"):
        make(images=str(made), resize=16, image_size=16, resize_filter="area").setup("fit")


def test_a_worker_process_gets_a_copy_without_open_files(made: Path) -> None:
    images = opened(made)
    before = pixels(images)
    copied = pickle.loads(pickle.dumps(images))
    assert not copied._files
    np.testing.assert_array_equal(pixels(copied), before)


@pytest.mark.slow
def test_killed_with_its_worker_processes_it_resumes_and_has_the_same_bytes(tmp_path: Path) -> None:
    images = image_tree(tmp_path / "images", {"train": 400, "val": 5}, suffix=".jpg", size=200)
    out = tmp_path / "out"
    code = "import sys; from wssl_pl.cli import main; main(sys.argv[1:])"
    settings = ["format=shards", f"size={SIZE}", "chunk_size=4", "workers=2"]
    command = [sys.executable, "-c", code, "prepare", f"images={images}", f"out={out}", *settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: list(out.rglob("part-*.parquet")), "the first part", process)
    process.kill()
    process.wait()
    assert not (out / "manifest.json").exists()
    write(images, out)
    write(images, tmp_path / "peace")
    assert contents(out) == contents(tmp_path / "peace")


def test_photos_are_read_one_at_a_time(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    read, decode = prepare_shards.read_source, prepare_shards.decode
    monkeypatch.setattr(prepare_shards, "read_source", lambda *args: calls.append("read") or read(*args))
    monkeypatch.setattr(prepare_shards, "decode", lambda *args: calls.append("decode") or decode(*args))
    write(images, tmp_path / "out")
    assert calls == ["read", "decode"] * (len(calls) // 2)
    assert calls
