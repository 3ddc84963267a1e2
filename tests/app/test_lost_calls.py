"""The page on a connection that is slow, and that breaks off: photo and strokes stay, and calls can be made again."""

import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.app.proxy import behind_proxy
from tests.processes import unused_port
from wssl_pl.app import photo_tab
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
SEEN = "document.querySelector('.wssl-stage canvas').toDataURL()"
PAINTED = ".wssl-editor [data-tool=clear][aria-disabled=false]"


@pytest.fixture
def page_of(runs, tmp_path):
    """Opens the page of a photo, with a stroke on it, behind a proxy."""

    @contextmanager
    def page_of(strokes=BAR):
        for name, seed in (("photo", 0), ("other", 1)):
            blocks = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
            Image.fromarray(blocks).resize((300, 200)).save(tmp_path / f"{name}.png")
        with (
            running(AppOptions(ckpts=runs, port=unused_port(), device="cpu")) as url,
            behind_proxy(url) as proxy,
            opened(proxy.url, 1280, 900, []) as page,
        ):
            page.set_input_files("#photo", tmp_path / "photo.png")
            wait_for_photo(page)
            if strokes:
                paint(page, strokes)
            yield page, proxy

    return page_of


def wait_for_version(page, title):
    page.wait_for_function("title => document.querySelector('#right input').value.startsWith(title)", arg=title)
    page.wait_for_selector("#canvas .photo-busy", state="hidden")


def wait_for(page, event):
    """Wait for what happens on the server, such as `proxy.closed`: it has ended its stream, whatever has arrived."""
    for _ in range(3000):
        if event.is_set():
            return
        page.wait_for_timeout(20)  # in which the browser's requests are let through
    pytest.fail("it did not happen")


def test_a_break_that_nobody_noticed_changes_nothing(page_of):
    with page_of() as (page, proxy):
        proxy.cut()
        assert "300 × 200 pixels" in fill(page)
        wait_for_version(page, "Fill 1")


def start_fill(page):
    page.click("#fill")
    page.wait_for_selector("#status:has-text('Filling')")


@pytest.mark.parametrize("unnoticed", [False, True])
def test_a_fill_that_breaks_off_keeps_the_strokes_and_can_be_made_again(page_of, fills, unnoticed):
    with page_of() as (page, proxy):
        page.evaluate("window.isSamePage = true")
        start_fill(page)
        proxy.cut(unnoticed)
        page.wait_for_selector("#status:has-text('had broken off')")
        page.wait_for_selector("#canvas .photo-busy", state="hidden")
        page.wait_for_selector(PAINTED)
        fills.set()
        fill(page)
        wait_for_version(page, "Fill 1")
        assert page.evaluate("window.isSamePage")


def test_what_was_filled_although_the_connection_broke_is_shown(page_of, fills):
    with page_of() as (page, proxy):
        start_fill(page)
        proxy.closed.clear()
        proxy.delay = 60.0  # the answers do not arrive
        fills.set()
        wait_for(page, proxy.closed)
        proxy.delay = 0.0
        proxy.cut()
        wait_for_version(page, "Fill 1")
        assert page.locator(PAINTED).count() == 0
        page.click("#undo")
        wait_for_version(page, "Original")
        page.wait_for_selector(PAINTED)


def test_who_stays_after_all_keeps_the_fill(page_of, fills):
    with page_of() as (page, _):
        start_fill(page)
        with page.expect_event("dialog") as asked:
            page.once("dialog", lambda dialog: dialog.dismiss())
            page.evaluate("setTimeout(() => location.reload())")
        assert asked.value.type == "beforeunload"
        fills.set()
        wait_for_version(page, "Fill 1")


def test_a_photo_whose_opening_broke_off_is_shown(page_of, tmp_path, monkeypatch):
    opening, original = threading.Event(), photo_tab.original

    def watched(*args):
        proxy.closed.clear()  # what ends from now on is the stream of this call
        proxy.delay = 60.0  # not before, or the end of an earlier stream would be late
        opening.set()
        return original(*args)

    with page_of(strokes=None) as (page, proxy):
        before = page.evaluate(SEEN)
        monkeypatch.setattr(photo_tab, "original", watched)
        page.set_input_files("#photo", tmp_path / "other.png")
        wait_for(page, opening)
        wait_for(page, proxy.closed)
        proxy.delay = 0.0
        proxy.cut()
        page.wait_for_selector("#status:has-text('had broken off')")
        page.wait_for_selector("#canvas .photo-busy", state="hidden")
        assert page.evaluate(SEEN) != before
        paint(page, BAR)
        fill(page)
        wait_for_version(page, "Fill 1")


def start_batch(page, folder):
    mask = Image.new("L", (300, 200))
    mask.paste(255, (100, 80, 150, 120))
    mask.save(folder / "mask.png")
    page.get_by_role("tab", name="Several photos").click()
    for kind, name in (("photos", "photo.png"), ("masks", "mask.png")):
        page.set_input_files(f"#batch-{kind} input[type=file]", folder / name)
        page.wait_for_selector(f"#batch-{kind} .file-preview")
    page.click("#batch-fill")


def test_a_batch_that_breaks_off_says_so_and_can_be_repeated(page_of, fills, tmp_path):
    with page_of(strokes=None) as (page, proxy):
        start_batch(page, tmp_path)
        page.wait_for_selector("#batch-report:has-text('0 of 1 photos done')")
        assert page.evaluate("window.wsslPage.losable()")
        proxy.cut()
        page.wait_for_selector("#batch-report:has-text('It broke off')")
        assert not page.evaluate("window.wsslPage.losable()")
        fills.set()
        page.click("#batch-fill")
        page.wait_for_selector("#batch-report:has-text('1 of 1 photos filled')")
        page.wait_for_function("window.wsslPage.losable()")  # the ZIP file
        with page.expect_download():
            page.click("#batch-download")
        assert not page.evaluate("window.wsslPage.losable()")


def test_a_batch_that_is_stopped_in_the_queue_is_stopped(page_of, fills, tmp_path):
    with page_of(strokes=None) as (page, proxy):
        start_batch(page, tmp_path)
        page.wait_for_selector("#batch-report:has-text('0 of 1 photos done')")
        other = page.context.browser.new_page()
        other.goto(proxy.url)
        other.wait_for_selector(".photo-mask .wssl-bar", state="attached")
        with other.expect_response("**/gradio_api/queue/join*"):
            start_batch(other, tmp_path)
        other.click("#batch-stop")
        other.wait_for_selector("#batch-stop", state="hidden")
        other.wait_for_selector("#batch-report:has-text('Stopped')")
        assert "broke off" not in other.inner_text("#batch-report")
        fills.set()


def test_a_call_while_the_server_ends_its_stream_is_answered(page_of):
    with page_of() as (page, proxy):
        for number in (1, 2):
            fill(page)
            wait_for_version(page, f"Fill {number}")
            paint(page, BAR)
        proxy.closed.clear()
        proxy.delay = 0.5
        page.click("#undo")
        wait_for(page, proxy.closed)
        page.click("#undo")  # before the page knows that the stream has ended
        wait_for_version(page, "Original")


def test_a_call_that_cannot_be_sent_says_so_and_the_next_one_is(page_of):
    with page_of() as (page, _):
        page.route("**/gradio_api/queue/join*", lambda route: route.abort())
        page.click("#fill")
        page.wait_for_selector(".photo-busy:has-text('waiting for it')")
        page.unroute("**/gradio_api/queue/join*")
        page.wait_for_selector("#canvas .photo-busy", state="hidden")
        page.wait_for_selector(PAINTED)
        fill(page)
        wait_for_version(page, "Fill 1")


def test_strokes_never_fill_a_photo_that_is_not_shown(page_of, tmp_path):
    with page_of(strokes=None) as (page, _):
        before = page.evaluate(SEEN)
        page.route("**/gradio_api/file=**", lambda route: route.abort())
        page.set_input_files("#photo", tmp_path / "other.png")
        page.wait_for_selector(".photo-note:has-text('Trying again')")
        assert page.locator(".photo-busy").is_visible()
        page.unroute("**/gradio_api/file=**")
        page.wait_for_selector("#canvas .photo-busy", state="hidden")
        assert page.locator(".photo-note").inner_text() == ""
        assert page.evaluate(SEEN) != before


def test_stop_counts_although_the_call_arrives_after_it(page_of):
    held = []
    with page_of() as (page, _):
        page.route("**/gradio_api/queue/join*", lambda route: held.append(route) if not held else route.continue_())
        page.click("#fill")
        page.click(".photo-stop")
        page.wait_for_selector("#status .stopped")
        held[0].continue_()
        page.wait_for_selector("#canvas .photo-busy", state="hidden")
        fill(page)
        wait_for_version(page, "Fill 1")
        page.click("#undo")
        wait_for_version(page, "Original")


def test_nothing_is_painted_while_an_example_is_on_its_way(page_of):
    held = []
    with page_of(strokes=None) as (page, _):
        page.route("**/gradio_api/queue/join*", lambda route: held.append(route))
        page.locator("#examples button").first.click()
        page.wait_for_selector(".photo-busy:has-text('Loading')")
        paint(page, BAR)
        assert page.locator(PAINTED).count() == 0
        page.unroute("**/gradio_api/queue/join*")
        held[0].continue_()
        page.wait_for_selector("#status:has-text('512 × 512')")
        page.wait_for_selector("#canvas .photo-busy", state="hidden")
