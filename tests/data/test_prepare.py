import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data.fakes import face, image_tree
from wssl_pl.data import prepare as preparation
from wssl_pl.data.cache import Cache, check_cache, read_index
from wssl_pl.data.decode import read_image
from wssl_pl.data.prepare import prepare
from wssl_pl.errors import DataError, Interrupted, WSSLError


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a cache but the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return image_tree(tmp_path / "images", {"train": 40, "val": 5, "test": 4}, suffix=".jpg")


def make(images: Path, out: Path, **options):
    return prepare(images, out, **({"size": 32, "workers": 0} | options))


def test_a_cache_holds_what_the_files_decode_to_in_their_order(images: Path, tmp_path: Path) -> None:
    cache = make(images, tmp_path / "out").cache
    assert cache.sizes() == {"train": 40, "val": 5, "test": 4}
    array = np.load(cache.array_path, mmap_mode="r")
    assert array.shape == (49, 32, 32, 3)
    for entry in cache.entries:
        np.testing.assert_array_equal(array[entry.row], read_image(images / entry.source, 32))
        assert (entry.width, entry.height) == (48, 48)
    assert [entry.source for entry in cache.entries[:3]] == ["train/0.jpg", "train/1.jpg", "train/2.jpg"]
    assert cache.skipped == []


def test_processes_do_not_change_a_byte(images: Path, tmp_path: Path) -> None:
    make(images, tmp_path / "alone")
    make(images, tmp_path / "many", workers=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "many")


def test_a_second_run_decodes_nothing(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(images, tmp_path / "out")
    before = contents(tmp_path / "out")
    monkeypatch.setattr(preparation, "decode_image", lambda *_: pytest.fail("decoded again"))
    report = make(images, tmp_path / "out")
    assert report.differences == "nothing new"
    assert contents(tmp_path / "out") == before


def test_a_cache_of_other_images_is_not_replaced(images: Path, tmp_path: Path) -> None:
    make(images, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "others").mkdir()
    face(1).save(tmp_path / "others" / "other.png")
    with pytest.raises(DataError, match="was made of other images; none of them is here: name a new folder"):
        make(tmp_path / "others", tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_images_that_were_sorted_into_folders_are_known(images: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (images / "train").iterdir():
        path.rename(flat / path.name)
    make(flat, tmp_path / "out", split_rule="hash")
    (flat / "train").mkdir()
    for path in list(flat.glob("*.jpg")):
        path.rename(flat / "train" / path.name)
    assert "deleted" in make(flat, tmp_path / "out").differences


def test_new_changed_touched_and_deleted_files_are_noticed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(images, tmp_path / "out")
    face(99).save(images / "train" / "99.jpg")
    face(77).save(images / "train" / "3.jpg")
    os.utime(images / "train" / "4.jpg", ns=(1, 1))
    (images / "train" / "5.jpg").unlink()
    (images / "train" / "6.jpg").rename(images / "val" / "6.jpg")
    decoded = []
    real = preparation.decode_image
    monkeypatch.setattr(preparation, "decode_image", lambda *args: decoded.append(1) or real(*args))
    report = make(images, tmp_path / "out")
    assert report.differences == "2 new, 2 changed, 2 deleted"
    assert len(decoded) == 3  # 99, 3 and the moved 6; the touched one is known by its hash
    make(images, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert len(list((tmp_path / "out").glob("images-*.npy"))) == 1


def test_a_damaged_row_is_not_carried_over(images: Path, tmp_path: Path) -> None:
    cache = make(images, tmp_path / "out").cache
    flip(cache.array_path, 128 + 5)
    face(99).save(images / "train" / "99.jpg")
    make(images, tmp_path / "out")
    check_cache(tmp_path / "out")


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("part", ["images", "index", "manifest", "header"])
def test_one_flipped_byte_is_found(images: Path, tmp_path: Path, part: str) -> None:
    cache = make(images, tmp_path / "out").cache
    check_cache(tmp_path / "out")
    names = {"images": "images-*.npy", "header": "images-*.npy", "index": "index-*", "manifest": "manifest.json"}
    (path,) = (tmp_path / "out").glob(names[part])
    # In the manifest, a digit of the count.
    position = path.read_text().index('"count": 4') + 9 if part == "manifest" else 7
    flip(path, 128 + 7 * cache.row_bytes + 11 if part == "images" else position)
    with pytest.raises(DataError, match=r"is damaged|has version") as caught:
        check_cache(tmp_path / "out")
    assert "\n" not in str(caught.value)
    if part == "images":
        assert "1 of 49 rows" in str(caught.value)
        assert "train/7.jpg" in str(caught.value)


def test_cut_short_other_version_and_unfinished_are_found_at_once(images: Path, tmp_path: Path) -> None:
    cache = make(images, tmp_path / "out").cache
    whole = (tmp_path / "out" / "manifest.json").read_text()
    manifest = json.loads(whole) | {"version": 99}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="has version 99 of the format, this program reads 2"):
        Cache(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(whole)
    os.truncate(cache.array_path, cache.array_path.stat().st_size - 1)
    with pytest.raises(DataError, match=r"is damaged \(.*file"):
        Cache(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"is not finished.*run the same `wssl prepare` again"):
        Cache(tmp_path / "out")


def test_an_interruption_says_how_to_go_on_and_the_rest_is_the_same(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(images, tmp_path / "peace")
    monkeypatch.setattr(preparation, "FLUSH_SECONDS", 0)
    real, seen = preparation.decode, []

    def interrupted(*args):
        seen.append(args[1].source)
        if len(seen) == 40:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(preparation, "decode", interrupted)
    with pytest.raises(Interrupted, match="stopped at 32 of 49 images: the same command resumes from there"):
        make(images, tmp_path / "out")
    with pytest.raises(DataError, match="is not finished"):
        Cache(tmp_path / "out")
    seen.clear()
    monkeypatch.setattr(preparation, "decode", lambda *args: seen.append(args[1].source) or real(*args))
    make(images, tmp_path / "out")
    assert len(seen) == 17
    assert contents(tmp_path / "out") == contents(tmp_path / "peace")


def test_a_full_disk_leaves_a_state_to_go_on_from(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(images, tmp_path / "peace")
    real, room = os.pwrite, [20]

    def full(file: int, data: memoryview, offset: int) -> int:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data, offset)

    monkeypatch.setattr(preparation, "FLUSH_SECONDS", 0)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"No space left on device: .*run the same command again: it resumes") as caught:
        make(images, tmp_path / "out")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(os, "pwrite", real)
    (part,) = (tmp_path / "out").rglob("part-*.parquet")
    assert len(read_index(part.read_bytes())) == 16
    make(images, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "peace")


def test_too_little_room_is_said_before_the_work(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DataError, match=r"the disk has .* GB free of the .* GB that are needed"):
        make(images, tmp_path / "out")


@pytest.mark.parametrize("moment", ["index", "array", "manifest"])
def test_killed_while_names_change(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    make(images, tmp_path / "peace")
    face(99).save(images / "train" / "99.jpg")
    for start in ("fresh", "update"):
        out = tmp_path / start
        if start == "update":
            shutil.copytree(tmp_path / "peace", out)
        real = Path.replace

        def killed(self: Path, target: Path, real=real):
            stop = {"index": "index-", "array": "images-", "manifest": "manifest"}[moment]
            if Path(target).name.startswith(stop):
                raise SystemExit
            return real(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(SystemExit):
                make(images, out)
        if start == "update":
            assert len(Cache(out).entries) == 49  # the old one stays whole
            check_cache(out)
        make(images, out)
        check_cache(out)
        assert not list(out.rglob("*.tmp"))
    assert contents(tmp_path / "fresh") == contents(tmp_path / "update")


def test_rows_of_a_part_that_was_cut_off_are_done_again(images: Path, tmp_path: Path, monkeypatch) -> None:
    make(images, tmp_path / "peace")
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_finish", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            make(images, tmp_path / "out")
    (part,) = (tmp_path / "out").rglob("part-*.parquet")
    os.truncate(part, part.stat().st_size - 30)
    make(images, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "peace")


def test_files_that_changed_during_an_interruption_start_it_over(images: Path, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_finish", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            make(images, tmp_path / "out")
    (images / "train" / "0.jpg").unlink()
    make(images, tmp_path / "out")
    make(images, tmp_path / "peace")
    assert contents(tmp_path / "out") == contents(tmp_path / "peace")


def test_one_process_at_a_time(images: Path, tmp_path: Path) -> None:
    import fcntl

    make(images, tmp_path / "out")
    with (tmp_path / "out" / ".prepare" / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WSSLError, match=r"out=.* is being written by another process \(\d+ on .*\): wait"):
            make(images, tmp_path / "out")
    make(images, tmp_path / "out")


def test_refusals(images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    make(images, tmp_path / "out")
    for arguments, message in [
        ({"images": tmp_path / "nowhere", "out": tmp_path / "o"}, "images=.*: does not exist"),
        ({"images": images, "out": images}, "name a new folder"),
        ({"images": images, "out": tmp_path / "mine"}, "is not empty and holds nothing of the kind"),
        ({"images": images, "out": tmp_path / "out", "size": 16}, "size=16: the cache .* has 32 px: set size=32"),
        ({"images": images, "out": tmp_path / "o", "size": 0}, "size=0"),
        ({"images": images, "out": tmp_path / "o", "workers": -1}, "workers=-1"),
        ({"images": tmp_path / "mine", "out": tmp_path / "o"}, "holds no JPEG, PNG or WebP file"),
        ({"images": images, "out": tmp_path / "o", "split_rule": "celeba"}, "split_rule=celeba"),
    ]:
        with pytest.raises(WSSLError, match=message):
            make(**arguments)
