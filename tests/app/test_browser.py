"""The page in a browser: a stroke with the mouse, the button, the download."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.processes import unused_port
from wssl_pl.app.server import AppOptions, running

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from app_picture import fill, find_chromium, opened, paint, wait_for_photo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on this machine"),
]


@pytest.fixture
def photo(tmp_path):
    """A photo that is larger than the picture to paint on, and stored on its side."""
    blocks = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    pixels = np.kron(blocks, np.ones((20, 20, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif, compress_level=1)
    return tmp_path / "photo.png"


def shown(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def test_a_stroke_is_filled_and_nothing_else(photo, runs, tmp_path):
    outside = []
    with (
        running(AppOptions(ckpts=runs, port=unused_port(), device="cpu")) as url,
        opened(url, 1280, 900, outside) as page,
    ):
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert folder.stat().st_mode & 0o077 == 0
        page.set_input_files("#photo input[type=file]", photo)
        wait_for_photo(page)
        assert "Nothing is painted yet" in fill(page)
        paint(page, [[(-50, 0), (50, 0)]])
        page.wait_for_selector(".toast-body", state="detached")
        assert "800 × 1200 pixels" in fill(page)

        for picture in page.locator("#result img").all():
            page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture.element_handle())
        assert page.locator("#result img").count() == 2
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == "photo-filled.png"
        download.value.save_as(tmp_path / "result.png")

        # On a phone nothing is wider than the screen.
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_function("document.documentElement.scrollWidth <= 390")
        assert page.locator("#fill").is_visible()

    # Nothing is left behind.
    assert not folder.exists()
    before, after = shown(photo), shown(tmp_path / "result.png")
    assert before.shape == after.shape == (1200, 800, 3)
    changed = (before != after).any(axis=-1)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    # The stroke is a bar across the middle, wider than high, and full of changed pixels.
    assert abs(rows.mean() - 600) < 30
    assert abs(columns.mean() - 400) < 30
    assert 3 < len(columns) / len(rows) < 12
    bar = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert bar.mean() > 0.8
    assert 0.002 < changed.mean() < 0.1
    assert outside == []
