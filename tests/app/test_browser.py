"""The page in a browser, as visitors use it: with mouse and keys, and with a finger on a small screen."""

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.processes import unused_port
from wssl_pl.app.options import AppOptions
from wssl_pl.app.server import running

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from app_picture import fill, find_chromium, opened, paint, wait_for_photo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on this machine"),
]
BAR = [[(-50, 0), (50, 0)]]


@pytest.fixture
def photo(tmp_path):
    """A photo that is larger than what is seen of it, and stored on its side."""
    blocks = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    pixels = np.kron(blocks, np.ones((20, 20, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif, compress_level=1)
    return tmp_path / "photo.png"


def shown(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def download(page, button, folder):
    with page.expect_download() as download:
        page.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def changed(page, before, folder):
    """Which pixels the file to download has changed."""
    after = shown(download(page, "#download", folder))
    assert after.shape == before.shape
    return (before != after).any(axis=-1)


def choose(page, list_id, name):
    page.click(f"{list_id} input")
    page.get_by_role("option", name=name, exact=True).click()


def wait_for_fill(page, number):
    page.wait_for_function(
        "number => document.querySelector('#right input').value.startsWith(`Fill ${number}`)", arg=number
    )
    page.wait_for_selector("#canvas .photo-busy", state="hidden")


def test_a_photo_is_repaired_step_by_step(photo, runs, tmp_path):
    outside, before = [], shown(photo)
    with (
        running(AppOptions(ckpts=runs, port=unused_port(), device="cpu")) as url,
        opened(url, 1280, 900, outside) as page,
    ):
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert folder.stat().st_mode & 0o077 == 0
        (tmp_path / "none.png").write_text("no image")
        page.set_input_files("#photo", tmp_path / "none.png")
        page.wait_for_selector(".photo-note:has-text('none.png is not a JPEG')")
        page.set_input_files("#photo", photo)
        wait_for_photo(page)
        assert "Nothing is painted yet" in fill(page)

        # Paint and fill; what breaks off on the way loses nothing.
        paint(page, BAR)
        page.route("**/gradio_api/upload*", lambda route: route.abort())
        fill(page)
        assert "The mask did not arrive: the connection broke off" in page.locator(".photo-note").inner_text()
        page.unroute("**/gradio_api/upload*")
        assert "1200 × 1800 pixels" in fill(page)
        first = changed(page, before, tmp_path)
        rows, columns = np.flatnonzero(first.any(axis=1)), np.flatnonzero(first.any(axis=0))
        # The stroke is a bar across the middle, wider than high, and full of changed pixels.
        assert abs(rows.mean() - 900) < 40
        assert abs(columns.mean() - 600) < 40
        assert 2 < len(columns) / len(rows) < 12
        assert first[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.8

        # Go on from the result, by keys alone: the cursor is in the middle.
        page.focus(".wssl-stage canvas[tabindex]")
        for key in (*["Shift+ArrowDown"] * 4, "Space", "Shift+ArrowRight", "Space", "Control+Enter"):
            page.keyboard.press(key)
        wait_for_fill(page, 2)
        second = changed(page, before, tmp_path)
        assert (first & ~second).mean() < 1e-5
        assert second.sum() > 1.2 * first.sum()

        # Undo gives the strokes back, redo the result.
        page.keyboard.press("Alt+z")
        page.wait_for_function("document.querySelector('#right input').value.startsWith('Fill 1')")
        page.wait_for_selector(".wssl-editor p[role=status]:has-text('The mask marks')")
        assert (changed(page, before, tmp_path) == first).all()
        page.click("#redo")
        wait_for_fill(page, 2)
        page.wait_for_selector(".wssl-editor [data-tool=clear][aria-disabled=true]")

        # Two models side by side, and the second is chosen.
        page.get_by_role("button", name="More: several models").click()
        page.click("#others input")
        page.get_by_role("option", name="Telea").click()
        page.keyboard.press("Escape")
        paint(page, [[(-50, -100), (50, -100)]])
        fill(page)
        wait_for_fill(page, 3)
        page.wait_for_selector("#results button.thumbnail-lg >> nth=1")
        with page.expect_download():
            page.click("#download")
        assert not page.evaluate("window.wsslPage.losable()")
        page.locator("#results button.thumbnail-lg").nth(1).click()
        page.wait_for_function("document.querySelector('#right input').value == 'Fill 3: Telea'")

        # Compare any two.
        source = page.locator("#result img").first.get_attribute("src")
        choose(page, "#left", f"Fill 1: {page.locator('#model input').input_value()}")
        page.wait_for_function(
            "source => document.querySelector('#result img').getAttribute('src') != source", arg=source
        )
        page.check("#shows input")
        page.wait_for_selector("#seen img")

        # The result is a photo again, from the clipboard, once it may take the place of what is not downloaded.
        paste = """async () => {
            const answer = await fetch(document.querySelector('#seen img').src);
            const data = new DataTransfer();
            data.items.add(new File([await answer.blob()], 'copied.png', {type: 'image/png'}));
            document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}));
        }"""
        with page.expect_event("dialog") as asked:
            page.once("dialog", lambda dialog: dialog.dismiss())
            page.evaluate(paste)
        assert "not downloaded yet" in asked.value.message
        assert not page.locator("#undo").is_disabled()
        page.once("dialog", lambda dialog: dialog.accept())
        page.evaluate(paste)
        page.wait_for_selector("#status:has-text('1067 × 1600 pixels')")
        assert page.locator("#undo").is_disabled()
    # Nothing is left behind.
    assert not folder.exists()
    assert outside == []


def test_the_editor_shows_the_version_that_was_chosen_last(runs, tmp_path):
    seen = "document.querySelector('.wssl-stage canvas').toDataURL()"
    with (
        running(AppOptions(ckpts=runs, port=unused_port(), device="cpu")) as url,
        opened(url, 1280, 900, []) as page,
    ):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).resize((300, 200)).save(
            tmp_path / "photo.png"
        )
        page.set_input_files("#photo", tmp_path / "photo.png")
        wait_for_photo(page)
        start = page.evaluate(seen)
        for number in (1, 2):
            paint(page, [[(-50, 30 * number), (50, 30 * number)]])
            fill(page)
            wait_for_fill(page, number)
        held = []
        arrived = (
            "performance.getEntriesByType('resource')"
            ".filter(each => each.initiatorType === 'fetch' && each.name.includes('file=')).length"
        )
        before = page.evaluate(arrived)

        def hold_first(route):
            if held or route.request.resource_type != "fetch":
                route.continue_()
            else:
                held.append(route)

        page.route("**/gradio_api/file=**", hold_first)
        page.click("#undo")
        page.wait_for_function("document.querySelector('#right input').value.startsWith('Fill 1')")
        page.click("#undo")
        page.wait_for_function("document.querySelector('#undo').disabled")
        held[0].continue_()
        page.wait_for_function(f"{arrived} >= {before + 4}")  # of each version the photo, and then its mask
        assert page.evaluate(seen) == start
        page.unroute("**/gradio_api/file=**")

        # Each click counts, also before the answer to the one before.
        page.evaluate("const {redo} = window; redo.click(); redo.click()")
        wait_for_fill(page, 2)


def test_an_open_tab_asks_for_its_files_to_stay(runs, tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.png")
    with (
        running(AppOptions(ckpts=runs, port=unused_port(), device="cpu")) as url,
        opened(url, 1280, 900, []) as page,
    ):
        page.add_init_script(
            "const set = window.setInterval; window.setInterval = (f, ms) => set(f, ms === 600_000 ? 100 : ms);"
        )
        page.reload()
        page.wait_for_selector(".photo-mask .wssl-bar", state="attached")
        page.set_input_files("#photo", tmp_path / "photo.png")
        wait_for_photo(page)
        with page.expect_response("**/page/renew") as answer:
            pass
        assert answer.value.status == 204
        assert answer.value.request.post_data == page.evaluate("sessionStorage.getItem('wssl')")


def test_an_example_takes_the_place_of_a_painted_photo_when_asked(runs, tmp_path):
    with (
        running(AppOptions(ckpts=runs, port=unused_port(), device="cpu")) as url,
        opened(url, 1280, 900, []) as page,
    ):
        Image.new("RGB", (300, 200)).save(tmp_path / "black.png")
        page.set_input_files("#photo", tmp_path / "black.png")
        wait_for_photo(page)
        paint(page, BAR)
        example = page.locator("#examples button").first
        with page.expect_event("dialog") as asked:
            page.once("dialog", lambda dialog: dialog.dismiss())
            example.click()
        assert "Open another photo?" in asked.value.message
        page.once("dialog", lambda dialog: dialog.accept())
        example.click()
        page.wait_for_function("!document.querySelector('#status').innerText.includes('300 × 200')")


def test_stop_reload_and_files_that_are_too_large(runs, tmp_path, fills):
    outside = []
    with (
        running(AppOptions(ckpts=runs, port=unused_port(), device="cpu", max_mb=1.0)) as url,
        opened(url, 1280, 900, outside) as page,
    ):
        other = page.context.browser.new_page(viewport=page.viewport_size)
        other.goto(url)
        other.wait_for_selector(".photo-mask .wssl-bar", state="attached")
        Image.new("RGB", (300, 200)).save(tmp_path / "black.png")
        for each in (page, other):
            each.set_input_files("#photo", tmp_path / "black.png")
            wait_for_photo(each)
            paint(each, BAR)
            each.click("#fill")
            each.wait_for_selector(".photo-stop")
        # The second one waits in the queue.
        other.wait_for_selector("#status:has-text('queue')")
        # Another photo has to wait, too.
        page.evaluate("""() => {
            const files = new DataTransfer();
            files.items.add(new File([], "b.png", {type: "image/png"}));
            document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: files, cancelable: true}));
        }""")
        note = page.locator("#canvas .photo-note")
        assert note.inner_text() == ("The photo was not opened: wait until the work on this one has ended, or stop it")
        other.keyboard.press("Escape")
        other.wait_for_selector("#canvas .photo-busy", state="hidden")
        assert other.locator("#status .line").inner_text() == "Stopped"
        assert page.locator(".photo-stop").is_visible()
        page.click(".photo-stop")
        page.wait_for_selector("#status .stopped")
        page.wait_for_selector("#canvas .photo-busy", state="hidden")
        assert note.inner_text() == ""
        assert page.locator("#undo").is_disabled()
        # The strokes are still there.
        fills.set()
        assert "300 × 200 pixels" in fill(page)

        page.on("dialog", lambda dialog: dialog.accept())
        page.reload()
        page.wait_for_selector("#right input")
        wait_for_fill(page, 1)
        wait_for_photo(page)
        page.click("#undo")
        page.wait_for_selector(".wssl-editor p[role=status]:has-text('The mask marks')")

        page.get_by_role("tab", name="Several photos").click()
        for name, size in (("large", 1_200_000), ("a", 600_000), ("b", 600_000), ("c", 600_000)):
            (tmp_path / f"{name}.png").write_bytes(bytes(size))
        page.set_input_files("#batch-photos input[type=file]", [tmp_path / f"{name}.png" for name in ("large", *"abc")])
        page.wait_for_selector("#batch-photos .file-preview")
        assert page.locator("#batch-note").inner_text() == (
            "large.png has 1.2 MB, and at most 1 MB are taken: save it smaller, as JPEG for example. "
            "b.png and 1 more did not fit, as at most 1 MB are taken at once: "
            "add the rest with the arrow above the list"
        )
        assert page.locator("#batch-photos .file-preview tr").count() == 1

        page.set_input_files("#batch-masks input[type=file]", tmp_path / "a.png")
        page.wait_for_selector("#batch-masks .file-preview")
        assert not page.locator("#batch-note").is_visible()
    assert outside == []


def late_images(page):
    """A route on which images take a few seconds, as with a slow connection."""

    def route(route):
        if route.request.resource_type == "image":
            page.wait_for_timeout(3000)
        route.continue_()

    return route


def test_a_phone_and_many_photos(photo, runs, tmp_path):
    outside, before = [], shown(photo)
    with (
        running(AppOptions(ckpts=runs, port=unused_port(), device="cpu")) as url,
        opened(url, 390, 844, outside, touch=True) as page,
    ):
        page.set_input_files("#photo", photo)
        wait_for_photo(page)
        paint(page, BAR, touch=True)
        # The result comes into view, however long its image takes, and nothing is wider than the screen.
        page.route("**/gradio_api/file=**", late_images(page))
        fill(page)
        page.unroute("**/gradio_api/file=**")
        page.wait_for_function(
            "(() => { const {top, bottom} = document.querySelector('#result').getBoundingClientRect();"
            "return top >= -1 && top < innerHeight / 2; })()"
        )
        page.wait_for_function("document.documentElement.scrollWidth <= 390")
        assert 0.001 < changed(page, before, tmp_path).mean() < 0.1
        small = page.evaluate(
            "[...document.querySelectorAll('.wssl-bar button, #fill, #undo, #redo, .photo-open')]"
            ".map(each => each.getBoundingClientRect())"
            ".filter(({width, height}) => Math.min(width, height) < 24).length"
        )
        assert small == 0

        page.get_by_role("tab", name="Several photos").click()
        mask = Image.new("L", before.shape[1::-1])
        mask.paste(255, (500, 800, 700, 900))
        mask.save(tmp_path / "mask.png")
        (tmp_path / "bad.png").write_text("no image")
        page.set_input_files("#batch-photos input[type=file]", [photo, tmp_path / "bad.png"])
        page.set_input_files("#batch-masks input[type=file]", tmp_path / "mask.png")
        page.wait_for_selector("#batch-masks .file-preview")
        page.wait_for_selector("#batch-photos .file-preview")
        page.click("#batch-fill")
        page.wait_for_selector("#batch-report :text('1 of 2 photos filled')")
        assert "The photo bad.png is not a JPEG" in page.locator("#batch-report").inner_text()
        with zipfile.ZipFile(download(page, "#batch-download", tmp_path)) as archive:
            archive.extract("photo.png", tmp_path / "out")
        inside = np.asarray(mask) > 0
        after = (shown(tmp_path / "out" / "photo.png") != before).any(axis=-1)
        assert after[inside].mean() > 0.9
        assert not after[~inside].any()
    assert outside == []
