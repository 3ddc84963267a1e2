"""Several photos at once: pairs, one ZIP, and errors of each photo."""

import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from wssl_pl.app import batch_tab
from wssl_pl.app.actions import Settings
from wssl_pl.app.batch_tab import BatchActions, paired
from wssl_pl.app.models import Models
from wssl_pl.app.storage import MIN_BYTES, Storage
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter


@pytest.fixture
def actions(ckpt, tmp_path):
    models = Models(ckpt, device="cpu")
    return BatchActions(Settings(models, [], Storage(tmp_path / "files", 1e9), megapixels=1.0))


@pytest.fixture
def upload(tmp_path):
    """Writes an image as Gradio keeps uploads, each in a folder of its own."""

    def upload(name, image):
        folder = tmp_path / f"upload-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        if isinstance(image, str):
            (folder / name).write_text(image)
        else:
            Image.fromarray(image).save(folder / name)
        return {"path": str(folder / name)}

    return upload


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)


def hole(top=10, bottom=20, size=(60, 80)):
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, 30:40] = 255
    return mask


def test_each_photo_is_filled_by_the_mask_of_its_name_and_a_bad_one_does_not_stop_the_others(actions, upload, tmp_path):
    photos = [upload("a.png", noise(0)), upload("b.jpg", noise(1)), upload("<c>.png", noise(2)),
              upload("d.png", "no image"), upload("e.png", noise(3)), upload("a.webp", noise(4))]  # fmt: skip
    masks = [upload("a.png", hole()), upload("b.png", hole(30, 50)), upload("d.png", hole()),
             upload("e.png", hole(size=(30, 40)))]  # fmt: skip
    *during, (report, download) = actions.fill_all(photos, masks, "", 0)
    assert "0 of 6 photos done; a.png" in during[0][0]
    assert len(during) == 6
    assert "3 of 6 photos filled" in report
    for line in (
        "&lt;c&gt;.png: There is no mask",
        ">The photo d.png is not a JPEG",
        "e.png: The mask e.png is 40 x 30",
    ):
        assert line in report
    assert str(tmp_path) not in report
    with zipfile.ZipFile(download["value"]) as archive:
        assert archive.namelist() == ["a.png", "b.png", "a-2.png"]
        archive.extractall(tmp_path / "out")
    before, after = noise(0), np.asarray(Image.open(tmp_path / "out" / "a.png"))
    inside = hole() > 0
    assert (before[~inside] == after[~inside]).all()
    assert (before[inside] != after[inside]).any(axis=-1).mean() > 0.9
    assert [path.name for path in (tmp_path / "files").rglob("*.*")] == ["filled.zip"]


def test_one_mask_is_for_all_and_one_that_marks_most_is_questioned(actions, upload):
    photos = [upload("a.png", noise(0)), upload("b.png", noise(1))]
    *_, (report, download) = actions.fill_all(photos, [upload("m.png", 255 - hole())], "Telea", 0)
    assert "2 of 2 photos filled" in report
    assert report.count("its mask marks 98% of it; is white the hole?") == 2
    assert len(zipfile.ZipFile(download["value"]).namelist()) == 2


def test_what_is_done_when_the_page_is_full_is_kept(actions, upload, monkeypatch):
    storage = actions.settings.storage
    monkeypatch.setattr(storage, "quota", 3.5 * MIN_BYTES)
    photos = [upload(f"{name}.png", noise(0)) for name in "abcdefg"]
    seen, take = [], actions.filled

    def filled(*args):
        if len(seen) == 2:
            monkeypatch.setattr(storage, "quota", 0)
        seen.append(1)
        return take(*args)

    monkeypatch.setattr(actions, "filled", filled)
    *_, (report, download) = actions.fill_all(photos, [upload("m.png", hole())], "", 0)
    assert "3 of 7 photos filled" in report
    assert report.count("holds as many photos as it may") == 4
    assert len(zipfile.ZipFile(download["value"]).namelist()) == 3


def test_what_waits_is_not_deleted_as_unused(actions, upload, monkeypatch):
    photos, masks = [upload(f"{name}.png", noise(0)) for name in "ab"], [upload("m.png", hole())]
    for each in (*photos, *masks):
        os.utime(each["path"], (1, 1))
    seen = []
    monkeypatch.setattr(actions, "_fill_one", lambda *args: seen.append(Path(photos[1]["path"]).stat().st_mtime) or "")
    list(actions.fill_all(photos, masks, "", 0))
    assert min(seen) > 1


def test_stop_keeps_what_is_done(actions, upload, monkeypatch):
    page, fill, done = SimpleNamespace(session_hash="one"), Inpainter.fill, []

    def stopped(self, *args, **options):
        done.append(1)
        if len(done) == 3:
            actions.stop(page)
        return fill(self, *args, **options)

    monkeypatch.setattr(Inpainter, "fill", stopped)
    photos = [upload(f"{name}.png", noise(0)) for name in "abcd"]
    *_, (report, download) = actions.fill_all(photos, [upload("m.png", hole())], "Telea", 0, page)
    assert "Stopped: 2 of 4 photos filled" in report
    assert zipfile.ZipFile(download["value"]).namelist() == ["a.png", "b.png"]


def test_nothing_comes_of_photos_that_all_fail(actions, upload, tmp_path):
    *_, (report, download) = actions.fill_all([upload("a.png", "x")], [upload("a.png", hole())], "", 0)
    assert "0 of 1 photos filled" in report
    assert not download["interactive"]
    assert not list((tmp_path / "files").rglob("*.zip"))


@pytest.mark.parametrize(
    ("photos", "masks", "model", "message"),
    [
        (None, None, "", "Load photos first"),
        (["a.png"], [], "", "Load masks"),
        (["a.png"] * 201, ["a.png"], "", "at most 200 photos"),
        (["a.png"], ["x/b.png", "y/b.jpg"], "", "two masks of the name b"),
        (["a.png"], ["a.png"], "../../etc/passwd", "There is no model"),
    ],
)
def test_wrong_use_is_one_line(actions, tmp_path, photos, masks, model, message):
    files = [[{"path": name} for name in names] if names else names for names in (photos, masks)]
    ((report, download),) = actions.fill_all(*files, model, 0)
    assert message in report
    assert 'role="alert"' in report
    assert not download["interactive"]


def test_names_are_paired():
    photos, masks = [Path("1/a.jpg"), Path("2/b.png")], [Path("3/b.png"), Path("4/c.png")]
    assert paired(photos, masks) == [("a.png", photos[0], None), ("b.png", photos[1], masks[0])]
    assert paired(photos, masks[:1]) == [("a.png", photos[0], masks[0]), ("b.png", photos[1], masks[0])]
    with pytest.raises(WSSLError):
        paired([], masks)
    assert batch_tab.MOST_PHOTOS >= 100
