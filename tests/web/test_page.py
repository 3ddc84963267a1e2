"""The page of `wssl export web` in a browser: a stroke, its fill, and everything that can go wrong on the way."""

import functools
import io
import re
import shutil
import struct
import threading
import zlib
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from app_picture import drag_over_photo as drag
from PIL import Image, ImageCms, ImageOps

from tests.web.network import write_network
from wssl_pl.cli import main
from wssl_pl.errors import WSSLError
from wssl_pl.export.web import find_runtime
from wssl_pl.inference import Inpainter

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory, request):
    """The folder of the page, written once by the command."""
    cache = getattr(request.config, "cache", None)
    home = cache.mkdir("npm") if cache else tmp_path_factory.mktemp("npm")
    out = tmp_path_factory.mktemp("site") / "page"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        try:
            find_runtime(None, download=True)
        except WSSLError as error:
            # Without npm or a way to its registry; a wrong version, checksum or file fails.
            if shutil.which("npm") and not re.search("ENOTFOUND|ECONN|ETIMEDOUT|EAI_AGAIN|ENETUNREACH", str(error)):
                raise
            pytest.skip(str(error))
        write_network(out.parent / "network.onnx")
        main(["export", "web", f"ckpt={out.parent / 'network.onnx'}", f"out={out}"])
    return out


class Handler(SimpleHTTPRequestHandler):
    headers_of_host = ()

    def log_message(self, *args):
        pass

    def end_headers(self):
        for header in self.headers_of_host:
            self.send_header(*header)
        super().end_headers()


@contextmanager
def served(folder):
    """Serve a folder as a simple static host does, at a free port; yield the server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def open_page(browser, site):
    """Open the page with a query; what it complains about on the console is collected in `page.complaints`."""
    contexts = []
    with served(site) as server:

        def open_(query="", script="", ready=True, **options):
            context = browser.new_context(viewport={"width": 800, "height": 900}, **options)
            contexts.append(context)
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.complaints = []
            page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
            page.on("pageerror", lambda error: page.complaints.append(str(error)))
            page.server = server
            page.add_init_script(script)
            page.goto(f"http://127.0.0.1:{server.server_port}/{query}")
            if ready:
                page.locator("#about", has_text="Computed").wait_for()
            return page

        yield open_
        for context in contexts:
            context.close()


@pytest.fixture
def page(open_page):
    page = open_page()
    page.asked, page.agrees = [], True

    def answer(dialog):
        page.asked.append(dialog.message)
        dialog.accept() if page.agrees else dialog.dismiss()

    page.on("dialog", answer)
    yield page
    assert page.complaints == []


@pytest.fixture(scope="module")
def inpainter(site):
    return Inpainter.from_checkpoint(site / "model.onnx", device="cpu")


def noise(height, width, channels=3, seed=0):
    """Return an image of random blocks with fine detail, `(H, W, C)` uint8."""
    random = np.random.default_rng(seed)
    blocks = np.kron(random.integers(30, 226, (-(-height // 10), -(-width // 10), channels)), np.ones((10, 10, 1)))
    return (blocks[:height, :width] + random.integers(-30, 30, (height, width, channels))).astype(np.uint8)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, form, **options)
    return buffer.getvalue()


def choose(page, content, name="photo.png"):
    """Choose a file as photo; return what the page answers."""
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
    page.locator("#state", has_text="Loading").wait_for(state="detached")
    return page.inner_text("#wrong") or page.inner_text("#state")


def fill(page):
    """Press the button; return the mask and what the page answers."""
    page.click("#fill")
    page.locator("#state", has_text="Filling").wait_for(state="detached")
    return page.inner_text("#wrong") or page.inner_text("#state")


def painted(page):
    """Return the mask of the editor, True in the hole."""
    with page.expect_download() as download:
        page.click("[data-tool=download]")
    with Image.open(download.value.path()) as image:
        return np.asarray(image) > 0


def result(page):
    """Download the result: its name, and the image."""
    with page.expect_download() as download:
        page.click("#download")
    with Image.open(download.value.path()) as image:
        image.load()
        return download.value.suggested_filename, image


def check(pixels, given, hole, inpainter):
    """Known pixels are the photo's, those of the hole the `Inpainter`'s within 1/255."""
    assert (pixels[~hole] == given[~hole]).all()
    apart = np.abs(pixels.astype(int) - inpainter(given, hole))
    assert apart.max() <= 1
    assert (pixels[hole] != given[hole]).any()


def test_strokes_are_filled_as_by_the_inpainter(page, inpainter):
    outside = []
    page.on("request", lambda request: outside.append(request.url) if "127.0.0.1" not in request.url else None)
    given = noise(300, 420)
    assert choose(page, encoded(given), "holiday.jpg.png") == "420 × 300 pixels."
    assert "1 thread" in page.inner_text("#about")  # the server sends no headers that allow more
    assert fill(page) == "Nothing is painted yet: paint over what is to be filled"
    drag(page, (0.2, 0.3), (0.6, 0.4), (0.5, 0.8))
    page.keyboard.press("o")
    drag(page, (0.6, 0.5), (0.95, 0.95))  # deeper than one prediction fills
    hole = painted(page)
    page.focus("#editor canvas[tabindex]")
    page.keyboard.press("Enter")
    page.locator("#state", has_text=f"{hole.sum():,} pixels filled").wait_for()
    page.keyboard.press("b")  # the editor has the focus again
    assert page.get_attribute("[data-tool=brush]", "aria-pressed") == "true"
    name, image = result(page)
    assert (name, image.mode) == ("holiday.jpg-filled.png", "RGB")
    first = np.asarray(image)
    check(first, given, hole, inpainter)

    # The next stroke continues on the result.
    drag(page, (0.1, 0.1), (0.3, 0.1))
    second_hole = painted(page)
    fill(page)
    check(np.asarray(result(page)[1]), first, second_hole, inpainter)
    assert page.locator("#left option").all_inner_texts() == ["the photo", "fill 1"]
    page.click("#undo")
    page.locator("#state", has_text="undone").wait_for()
    assert (painted(page) == second_hole).all()
    assert (np.asarray(result(page)[1]) == first).all()
    page.click("#undo")
    assert page.locator("#download").is_disabled()
    # What was painted since, and not filled, comes back by the editor's own undo.
    page.click("[data-tool=clear]")
    drag(page, (0.7, 0.1), (0.9, 0.1))
    third_hole = painted(page)
    page.click("#redo")
    page.locator("#state", has_text="The fill is back").wait_for()
    assert (np.asarray(result(page)[1]) == first).all()
    assert page.get_attribute("[data-tool=clear]", "aria-disabled") == "true"
    page.click("[data-tool=undo]")
    assert (painted(page) == third_hole).all()
    assert outside == []


def test_what_a_photo_file_holds_stays(page, inpainter):
    # Transparent pixels keep their colours, and the colour profile is still there.
    given = np.concatenate([noise(60, 80), noise(60, 80, 1, 1)], axis=2)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    choose(page, encoded(given, icc_profile=profile))
    drag(page, (0.3, 0.5), (0.7, 0.5))
    hole = painted(page)
    fill(page)
    _, image = result(page)
    assert image.info["icc_profile"] == profile
    pixels = np.asarray(image)
    assert (pixels[..., 3] == np.where(hole, 255, given[..., 3])).all()
    check(pixels[..., :3], given[..., :3], hole, lambda *_: inpainter(given, hole)[..., :3])

    # Grey stays grey, a photo that is stored on its side is shown upright, and the profile of a JPEG stays.
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(noise(60, 90, 1)[..., 0], "JPEG", exif=exif, quality=95)
    assert choose(page, content).startswith("60 × 90 pixels")
    drag(page, (0.3, 0.5), (0.7, 0.5))
    hole = painted(page)
    fill(page)
    _, image = result(page)
    assert image.mode == "L"
    check(np.asarray(image), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content)))), hole, inpainter)
    choose(page, encoded(noise(40, 40), "JPEG", icc_profile=profile))
    drag(page, (0.3, 0.5), (0.7, 0.5))
    fill(page)
    assert result(page)[1].info["icc_profile"] == profile
    assert "CMYK; the result is RGB" in choose(page, encoded(Image.new("CMYK", (40, 30)), "JPEG"))


def test_what_is_painted_over_a_transparent_part_is_visible_until_it_is_undone(page, inpainter):
    given = np.concatenate([noise(60, 80), np.full((60, 80, 1), 255, np.uint8)], axis=2)
    given[10:50, 20:60] = 0
    choose(page, encoded(given))
    drag(page, (0.3, 0.3), (0.7, 0.3))
    first_hole = painted(page)
    fill(page)
    first = np.asarray(result(page)[1])
    assert (first[..., 3] == np.where(first_hole, 255, given[..., 3])).all()
    check(first[..., :3], given[..., :3], first_hole, lambda *_: inpainter(given, first_hole)[..., :3])
    page.click("#undo")
    page.locator("#state", has_text="undone").wait_for()
    page.click("[data-tool=clear]")
    drag(page, (0.3, 0.7), (0.7, 0.7))
    second_hole = painted(page)
    fill(page)
    second = np.asarray(result(page)[1])
    assert (second[..., 3] == np.where(second_hole, 255, given[..., 3])).all()
    check(second[..., :3], given[..., :3], second_hole, lambda *_: inpainter(given, second_hole)[..., :3])


def png_header(width, height, depth=8):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_what_cannot_be_used_is_refused_and_nothing_is_lost(page):
    choose(page, encoded(noise(50, 70)))
    drag(page, (0.3, 0.5), (0.7, 0.5))
    hole = painted(page)
    small = Image.fromarray(noise(20, 20))
    for content, answer in [
        (b"not an image", "not an image that this browser reads"),
        (encoded(noise(50, 50))[:900], "or it is damaged"),
        (png_header(8000, 6000), "48 megapixels, more than 25"),
        (png_header(80, 60, 16), "16 bits a channel"),
        (encoded(small, "PNG", save_all=True, append_images=[small.rotate(90)]), "animation"),
        (encoded(small, "WEBP", save_all=True, append_images=[small.rotate(90)]), "animation"),
        (encoded(small, "GIF"), "GIF"),
    ]:
        assert answer in choose(page, content)
    buffer = encoded(noise(70, 50, 1)[..., 0])
    page.set_input_files("#editor input[type=file]", {"name": "m.png", "mimeType": "image/png", "buffer": buffer})
    page.locator("#editor [role=alert]", has_text="The mask has 50 × 70 pixels, the photo 70 × 50").wait_for()
    assert (painted(page) == hole).all()
    assert "pixels filled" in fill(page)
    page.click("[data-tool=invert]")
    assert fill(page).startswith("The whole photo is painted")
    # It asks, since the result is not downloaded, or something is painted.
    page.asked.clear()
    page.agrees = False
    assert choose(page, encoded(noise(1, 1))).startswith("The whole photo is painted")
    result(page)
    assert choose(page, encoded(noise(1, 1))).startswith("The whole photo is painted")
    assert len(page.asked) == 2
    page.click("[data-tool=clear]")
    assert choose(page, encoded(noise(1, 1))) == "1 × 1 pixels."
    assert len(page.asked) == 2


def test_a_photo_that_the_page_cannot_show_leaves_the_one_before(page):
    given = noise(60, 80)
    choose(page, encoded(given))
    page.evaluate("""() => {
        const real = createImageBitmap;
        window.createImageBitmap = () => Promise.reject(new Error("no memory"));
        window.restored = () => { window.createImageBitmap = real; };
    }""")
    choose(page, encoded(noise(60, 80, seed=1)))
    assert page.inner_text("#wrong")
    page.evaluate("restored()")
    drag(page, (0.3, 0.5), (0.6, 0.5))
    hole = painted(page)
    fill(page)
    assert (np.asarray(result(page)[1])[~hole] == given[~hole]).all()


def test_an_earlier_fill_that_is_downloaded_does_not_save_the_last_one(page):
    choose(page, encoded(noise(60, 80)))
    for y in (0.3, 0.7):
        drag(page, (0.3, y), (0.6, y))
        fill(page)
    page.click("#undo")
    page.locator("#state", has_text="undone").wait_for()
    page.click("[data-tool=clear]")
    result(page)
    page.asked.clear()
    choose(page, encoded(noise(60, 80)))
    assert len(page.asked) == 1


def test_a_photo_stays_when_its_file_is_changed(page, tmp_path):
    file = tmp_path / "photo.png"
    file.write_bytes(encoded(noise(60, 80)))
    page.set_input_files("#file", file)
    page.locator("#state", has_text="80 × 60").wait_for()
    drag(page, (0.3, 0.5), (0.6, 0.5))
    fill(page)
    file.write_bytes(b"another one")
    page.click("#undo")
    page.locator("#state", has_text="undone").wait_for()
    assert page.inner_text("#wrong") == ""


def test_an_example_that_is_on_its_way_is_waited_for(open_page):
    held = []
    page = open_page(service_workers="block")
    page.route("**/example.png", lambda route: held.append(route))
    with page.expect_request("**/example.png"):
        page.click("#example")
    page.locator("#state", has_text="Loading").wait_for()
    held[0].continue_()
    page.locator("#state", has_text="Loading").wait_for(state="detached")
    assert "pixels" in page.inner_text("#state")


def test_what_did_not_arrive_at_the_start_is_asked_for_again(open_page):
    page = open_page(ready=False, script="""
        const real = fetch;
        let away = true;
        window.back = () => { away = false; };
        window.fetch = (...given) => away ? Promise.reject(new TypeError("Failed to fetch")) : real(...given);
    """)  # fmt: skip
    page.locator("#wrong", has_text="did not arrive: check the connection").wait_for()
    assert "did not arrive" in choose(page, encoded(noise(60, 80)))
    page.evaluate("back()")
    assert "80 × 60 pixels" in choose(page, encoded(noise(60, 80)))
    drag(page, (0.3, 0.5), (0.6, 0.5))
    assert "pixels filled" in fill(page)


@pytest.mark.parametrize("size", [(390, 844), (1280, 720)])
def test_answers_are_in_view_where_the_button_is(page, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    choose(page, encoded(noise(900, 700)))
    assert fill(page).startswith("Nothing is painted yet")
    for seen in ("#fill", "#wrong"):
        box = page.locator(seen).bounding_box()
        assert 0 <= box["y"] <= box["y"] + box["height"] <= size[1]


def test_cancel_leaves_photo_and_mask(page):
    choose(page, encoded(noise(1100, 1300), compress_level=1))
    page.click("[data-tool=box]")
    drag(page, (0.05, 0.05), (0.95, 0.95))
    hole = painted(page)
    page.evaluate("""new MutationObserver((_, observer) => {
        if (document.querySelector("#bar").value === 0) return;
        observer.disconnect();
        const files = new DataTransfer();
        files.items.add(new File([], "b.png", {type: "image/png"}));
        dispatchEvent(new DragEvent("drop", {dataTransfer: files, cancelable: true}));
        window.answer = document.querySelector("#wrong").textContent;
        document.querySelector("#cancel").click();
    }).observe(document.querySelector("#percent"), {childList: true, characterData: true, subtree: true})""")
    assert fill(page) == "Cancelled: the photo is as it was, and so is the mask."
    assert page.evaluate("answer") == (
        "The photo was not opened: wait until the work on this one has ended, or cancel it"
    )
    assert (painted(page) == hole).all()
    assert page.locator("#undo").is_disabled()
    assert not page.locator("#progress").is_visible()


def test_it_works_offline_and_with_threads_after_the_first_load(open_page, site, inpainter, monkeypatch):
    # As hosts do whose answers depend on who asks.
    monkeypatch.setattr(Handler, "headers_of_host", [("Vary", "Origin, Accept")])
    page = open_page()
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    # Other pages below its folder are none of its own.
    other = page.evaluate(
        "fetch('other').then(answer => [answer.status, answer.headers.get('Cross-Origin-Embedder-Policy')])"
    )
    assert other == [404, None]
    page.complaints.clear()
    page.server.shutdown()
    page.server.server_close()
    page.reload()
    page.locator("#about", has_text="Computed").wait_for()
    if page.evaluate("navigator.hardwareConcurrency > 1"):
        assert int(page.get_attribute("#about", "data-threads")) > 1
    page.click("#example")
    page.locator("#state", has_text="512 × 512").wait_for()
    drag(page, (0.3, 0.5), (0.5, 0.5))
    hole = painted(page)
    assert "pixels filled" in fill(page)
    check(np.asarray(result(page)[1]), np.asarray(Image.open(site / "example.png")), hole, inpainter)


def test_a_newer_version_is_announced(browser, site, tmp_path):
    shutil.copytree(site, tmp_path / "page")
    context = browser.new_context(viewport={"width": 800, "height": 900})
    with served(tmp_path / "page") as server:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        page.wait_for_function("navigator.serviceWorker.controller")
        page.reload()
        page.locator("#about", has_text="Computed").wait_for()
        assert not page.locator("#newer").is_visible()
        worker = tmp_path / "page" / "service_worker.js"
        worker.write_text(worker.read_text().replace('VERSION = "', 'VERSION = "newer '))
        page.reload()
        page.locator("#newer", has_text="There is a newer version of this page").wait_for()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(open_page, scheme):
    page = open_page(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    choose(page, encoded(noise(300, 200)))
    drag(page, (0.3, 0.5), (0.5, 0.5))
    fill(page)
    assert page.locator("#compare").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_graphics_card_that_fails_leaves_the_processor(open_page, inpainter):
    adapter = "Object.defineProperty(navigator, 'gpu', {value: {requestAdapter: async () => ({info: {}})}})"
    page = open_page(script=adapter)
    assert "WebAssembly, 1 thread" in page.inner_text("#about")
    given = noise(80, 90)
    choose(page, encoded(given))
    drag(page, (0.3, 0.5), (0.7, 0.5))
    hole = painted(page)
    fill(page)
    check(np.asarray(result(page)[1]), given, hole, inpainter)


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("delete globalThis.CompressionStream", "This browser is too old for this page"),
        ("delete globalThis.Worker", "This browser is too old for this page"),
        (
            """const ask = fetch;
            globalThis.fetch = async name => {
                const answer = await ask(name), config = await answer.json();
                config.check.expected[3] += 0.5;
                return new Response(JSON.stringify(config));
            }""",
            r"The model does not run in this browser \(wasm: wrong by 0\.[45]",
        ),
    ],
)
def test_a_browser_that_cannot_do_it_says_so(open_page, script, answer):
    page = open_page(script=script, ready=False)
    page.locator("#wrong", has_text=re.compile(answer)).wait_for()


@pytest.mark.parametrize(
    ("noise_of_browser", "answer"),
    [
        ("pixels.data[4 * 17 + 1] ^= 1", "80 × 60 pixels. This browser changes the pixels that a page reads"),
        ("pixels.data.fill(255)", "allow this page to read them"),
    ],
)
def test_a_browser_that_changes_pixels_is_noticed(browser, site, tmp_path, noise_of_browser, answer):
    # As private windows of Firefox do, or its strict protection against fingerprinting.
    shutil.copytree(site, tmp_path / "page")
    photo = tmp_path / "page" / "photo.js"
    reads = f"""const read = OffscreenCanvasRenderingContext2D.prototype.getImageData;
        OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...area) {{
            const pixels = read.apply(this, area);
            {noise_of_browser};
            return pixels;
        }};
    """
    photo.write_text(reads + photo.read_text())
    context = browser.new_context(service_workers="block")
    with served(tmp_path / "page") as server:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.locator("#about", has_text="Computed").wait_for()
        assert answer in choose(page, encoded(noise(60, 80)))
    context.close()


def test_a_fill_whose_result_cannot_be_written_leaves_no_trace(browser, site, tmp_path):
    # Once, as where the memory does not suffice.
    shutil.copytree(site, tmp_path / "page")
    editor = tmp_path / "page" / "editor.js"
    changed = editor.read_text().replace(
        "export async function writePng(", "let failures = 1;\nexport async function writePng("
    )
    start = changed.index("{\n", changed.index("export async function writePng(")) + 2
    fails = (
        '  if (typeof window === "undefined" && failures-- > 0) throw new RangeError("too large");\n'  # in the worker
    )
    editor.write_text(changed[:start] + fails + changed[start:])
    context = browser.new_context(viewport={"width": 800, "height": 900}, service_workers="block")
    with served(tmp_path / "page") as server:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.locator("#about", has_text="Computed").wait_for()
        given = noise(60, 80)
        choose(page, encoded(given))
        drag(page, (0.1, 0.2), (0.3, 0.2))
        page.click("#fill")
        page.locator("#wrong", has_text="memory does not suffice").wait_for()
        page.click("[data-tool=clear]")
        drag(page, (0.7, 0.8), (0.9, 0.8))
        hole = painted(page)
        fill(page)
        filled = np.asarray(result(page)[1])
        assert (filled[~hole] == given[~hole]).all()
        page.click("#undo")
        page.locator("#state", has_text="undone").wait_for()
        assert page.locator("#download").is_disabled()
    context.close()
