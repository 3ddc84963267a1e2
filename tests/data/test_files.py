import os
from pathlib import Path

import pytest
from PIL import Image

from tests.data.fakes import face
from wssl_pl.data.files import damage, find_damaged, find_images, find_tables, list_images, natural_key


def test_names_sort_as_people_count() -> None:
    names = ["10.png", "2.png", "a/1.png", "1.png", "a/02.png"]
    assert sorted(names, key=natural_key) == ["1.png", "2.png", "10.png", "a/1.png", "a/02.png"]


def test_lists_nested_images_of_any_alphabet_and_nothing_else(tmp_path: Path) -> None:
    for name in ("ab/10.JPG", "ab/9.jpg", "лицо 顔.png", "notes.txt", ".hidden.png", ".git/1.png", "z.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, "data.images")]
    assert found == ["ab/9.jpg", "ab/10.JPG", "z.webp", "лицо 顔.png"]


def test_a_loop_of_links_ends_and_linked_folders_count(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    face(0).save(tmp_path / "elsewhere" / "0.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "loop").symlink_to(root)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    assert list_images(root, "data.images") == [root / "linked" / "0.png"]


def test_what_may_never_end_is_no_image_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe.png")
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    face(0).save(tmp_path / "a" / "0.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a" / "0.png")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a/0.png", "gone.png", "link.png"]
    assert list(find_tables(tmp_path)) == []
    (line,) = [record.message for record in caplog.records]
    assert "2 pipes, sockets or devices are omitted: " in line
    assert [path.name for path in find_images(tmp_path, deep=False)] == ["gone.png", "link.png"]


def test_an_unreadable_file_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    face(0).save(tmp_path / "0.png")
    error = PermissionError(13, "Permission denied", str(tmp_path / "0.png"))
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(error))
    assert damage(tmp_path / "0.png") == "cannot be read: Permission denied"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_truncated_file_is_found_without_decoding(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"0{suffix}"
    face(0, 64).save(path)
    assert damage(path) is None
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert "truncated" in (damage(path) or "")
    path.write_bytes(content[: len(content) // 2])
    assert "truncated" in (damage(path) or "")


def test_bytes_after_the_end_marker_are_no_damage(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png", ".webp"):
        path = tmp_path / f"0{suffix}"
        face(0).save(path)
        path.write_bytes(path.read_bytes() + b"\0" * 100)
        assert damage(path) is None


def test_a_photo_to_which_a_phone_has_appended_a_film_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "0.jpg"
    face(0, 64).save(path)
    photo, film = path.read_bytes(), b"\0\0\0\x18ftypmp42" + bytes(300_000)
    for between in (b"", b"MotionPhoto_Data"):
        path.write_bytes(photo + between + film)
        assert damage(path) is None


@pytest.mark.parametrize("rest", [b"", bytes(300_000), b"\xa5" * 300_000, b"\0\0\0\x18ftypmp42" + bytes(300_000)])
def test_a_photo_that_was_cut_short_is_truncated_whatever_follows(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "0.jpg"
    face(0, 256).save(path)
    path.write_bytes(path.read_bytes()[:-2000] + rest)
    assert "truncated" in (damage(path) or "")


def test_empty_renamed_and_headless_files_are_named_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "bare.jpg").write_bytes(b"\xff\xd8\xff\xd9")
    face(0).save(tmp_path / "good.png")
    found = {Path(file).name: why for file, why in find_damaged(sorted(tmp_path.iterdir()))}
    assert set(found) == {"empty.png", "text.jpg", "bare.jpg"}
    assert "0 bytes" in found["empty.png"]
    assert "not a JPEG, PNG or WebP" in found["text.jpg"]
    assert all("\n" not in why for why in found.values())


def test_a_decompression_bomb_is_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    face(0, 64).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "decompression bomb" in (damage(tmp_path / "bomb.png") or "")
