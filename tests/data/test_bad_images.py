"""Every file that people's folders hold: decoded as it should be, or skipped with the reason, never replaced."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.fakes import face
from wssl_pl.data.decode import read_image
from wssl_pl.data.prepare import prepare
from wssl_pl.errors import DataError

SIZE = 32


def run(root: Path, out: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What came out: pixels by source, and reasons by skipped source."""
    report = prepare(root, out, size=SIZE, workers=0, split_rule="hash")
    array = np.load(report.cache.array_path, mmap_mode="r")
    return {e.source: array[e.row] for e in report.cache.entries}, {s.source: s.reason for s in report.cache.skipped}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    face(0).save(folder / "good.jpg")
    return folder


def test_bad_files_are_skipped_with_their_reason_and_their_rows_stay_empty(root: Path, tmp_path: Path) -> None:
    whole = (root / "good.jpg").read_bytes()
    (root / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "empty.png").touch()
    (root / "text.jpg").write_text("hello")
    hurt = bytearray(len(whole) * 2)
    face(1).save(root / "hurt.png")
    hurt = bytearray((root / "hurt.png").read_bytes())
    hurt[60:120] = bytes(60)
    (root / "hurt.png").write_bytes(hurt)
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "folder.jpg").mkdir()
    images, skipped = run(root, tmp_path / "out")
    assert set(images) == {"good.jpg"}
    assert set(skipped) == {"cut.jpg", "empty.png", "text.jpg", "hurt.png", "gone.jpg"}
    assert "truncated" in skipped["cut.jpg"]
    assert "0 bytes" in skipped["empty.png"]
    assert "not a JPEG, PNG or WebP" in skipped["text.jpg"]
    assert "cannot be read" in skipped["hurt.png"]
    assert "No such file" in skipped["gone.jpg"]
    array = np.load(next((tmp_path / "out").glob("images-*.npy")))
    assert (array.reshape(6, -1).any(1)).sum() == 1
    assert not any("0x" in reason for reason in skipped.values())


def test_a_mended_file_is_taken_up_again(root: Path, tmp_path: Path) -> None:
    (root / "bad.jpg").write_text("hello")
    assert set(run(root, tmp_path / "out")[1]) == {"bad.jpg"}
    face(3).save(root / "bad.jpg")
    images, skipped = run(root, tmp_path / "out")
    assert set(images) == {"bad.jpg", "good.jpg"}
    assert not skipped


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "I;16", "RGB;16"])
def test_every_kind_of_pixel_is_converted(root: Path, tmp_path: Path, mode: str) -> None:
    name = "other.jpg" if mode == "CMYK" else "other.png"
    if mode == "I;16":
        Image.fromarray(np.full((40, 40), 200 * 257, np.uint16)).save(root / name)
    elif mode == "RGB;16":
        cv2 = pytest.importorskip("cv2")
        cv2.imwrite(str(root / name), np.full((40, 40, 3), 200 * 257, np.uint16))
    else:
        Image.new("RGB", (40, 40), (200, 200, 200)).convert(mode).save(root / name)
    images, skipped = run(root, tmp_path / "out")
    assert not skipped
    mean = images[name].mean()
    assert mean == pytest.approx(200, abs=60 if mode == "1" else 3)
    np.testing.assert_array_equal(images[name], read_image(root / name, SIZE))


def test_exif_rotation(root: Path, tmp_path: Path) -> None:
    top = np.zeros((64, 64, 3), np.uint8)
    top[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(top).save(root / "turned.jpg", exif=exif)
    pixels = run(root, tmp_path / "out")[0]["turned.jpg"]
    assert pixels[:, 20:].mean() > 240
    assert pixels[:, :12].mean() < 15


def test_one_pixel_and_twenty_thousand(root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (9, 8, 7)).save(root / "one.png")
    Image.new("L", (20_000, 40), 50).save(root / "wide.png")
    images, skipped = run(root, tmp_path / "out")
    assert not skipped
    assert (images["one.png"] == (9, 8, 7)).all()
    assert (images["wide.png"] == 50).all()


def test_a_decompression_bomb_is_refused_by_its_header(root: Path, tmp_path: Path) -> None:
    # 20,000 px square: the compressed file is small, the picture would take 1.2 GB.
    Image.new("1", (20_000, 20_000)).save(root / "bomb.png")
    images, skipped = run(root, tmp_path / "out")
    assert set(images) == {"good.jpg"}
    assert "decompression bomb" in skipped["bomb.png"]


def test_names_in_any_alphabet_and_names_that_are_no_text(root: Path, tmp_path: Path) -> None:
    names = ["лицо 顔.png", "with,comma.png", 'with"quote.png', "new\nline.png", "ümlaut.png"]
    for name in names:
        face(2).save(root / name)
    face(2).save(tmp_path / "plain.png")
    raw = os.fsdecode(b"latin\xe9.png")
    try:
        (root / raw).write_bytes((tmp_path / "plain.png").read_bytes())
        names.append(raw)
    except OSError:
        pass  # a file system of Unicode names alone
    images, skipped = run(root, tmp_path / "out")
    assert set(images) == {*names, "good.jpg"}
    assert not skipped
    assert str(prepare(root, tmp_path / "out", size=SIZE, workers=0, split_rule="hash").differences) == "nothing new"


def test_a_loop_of_links_ends(root: Path, tmp_path: Path) -> None:
    (root / "loop").symlink_to(root)
    (root / "a").mkdir()
    (root / "a" / "up").symlink_to(root)
    assert set(run(root, tmp_path / "out")[0]) == {"good.jpg"}


def test_one_name_in_many_folders_stays_many_images(root: Path, tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        (root / folder).mkdir()
        face(number + 5).save(root / folder / "good.jpg")
    face(9).save(root / "good.png")
    images, _ = run(root, tmp_path / "out")
    assert set(images) == {"good.jpg", "good.png", "a/good.jpg", "b/good.jpg"}
    for name, pixels in images.items():
        np.testing.assert_array_equal(pixels, read_image(root / name, SIZE))


def test_an_unreadable_folder_is_refused_by_name(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "locked").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"cannot read .*locked: Permission denied"):
        run(root, tmp_path / "out")


def test_an_unreadable_file_is_skipped(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    face(1).save(root / "secret.jpg")
    real = Path.read_bytes

    def read(self: Path) -> bytes:
        if self.name == "secret.jpg":
            raise PermissionError(13, "Permission denied")
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read)
        assert "Permission denied" in run(root, tmp_path / "out")[1]["secret.jpg"]
    # Allowed again, though neither size nor time tells it.
    assert set(run(root, tmp_path / "out")[0]) == {"good.jpg", "secret.jpg"}


def test_nothing_but_bad_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"none of 1 images can be decoded; the first one, a\.jpg, is not a JPEG"):
        run(tmp_path / "images", tmp_path / "out")


@pytest.mark.real
def test_scaled_decoding_keeps_40_db_of_the_full_resize(real_data: Path) -> None:
    for path in sorted((real_data / "celeba_hq_originals").glob("*.jpg")):
        with Image.open(path) as image:
            side = image.size[0]
            full = np.asarray(image.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS), np.float64)
        error = np.mean((read_image(path, 256) - full) ** 2)
        assert 10 * np.log10(255**2 / error) > 40, (path.name, side)
