"""The mask editor in a browser: what mouse, keys, files and fingers do to the mask."""

import io
from pathlib import Path

import numpy as np
import pytest
from app_picture import drag_over_photo as drag
from PIL import Image

import wssl_pl

pytestmark = pytest.mark.slow

FILES = Path(wssl_pl.__file__).parent / "web"
PAGE = """<!doctype html><link rel="stylesheet" href="editor.css">
<body style="margin: 8px; background: light-dark(white, #14161c); color-scheme: light dark"><div id="editor"></div>
<script type="module">
import {MaskEditor} from "./editor.js";
window.editor = new MaskEditor(document.querySelector("#editor"));
window.events = [];
for (const name of ["change", "fill", "error"]) {
  editor.addEventListener(name, event => events.push(event.detail ?? name));
}
window.canvas = (width, height) => {
  const canvas = Object.assign(document.createElement("canvas"), {width, height});
  const context = canvas.getContext("2d");
  const sky = context.createLinearGradient(0, 0, 0, height);
  sky.addColorStop(0, "#3a6ea5"); sky.addColorStop(1, "#d9c7a0");
  context.fillStyle = sky; context.fillRect(0, 0, width, height);
  return canvas;
};
window.bytes = async promise => [...new Uint8Array(await (await promise).arrayBuffer())];
</script>"""


@pytest.fixture
def page(browser):
    """An editor with a photo of 1200 x 800 pixels, which it shows smaller."""
    page = browser.new_page(viewport={"width": 700, "height": 800})
    page.set_default_timeout(60_000)

    def answer(route):
        name = route.request.url.rpartition("/")[2]
        if name:
            route.fulfill(path=FILES / name)
        else:
            route.fulfill(body=PAGE, content_type="text/html")

    page.route("**/*", answer)
    page.goto("http://localhost/")
    page.wait_for_function("window.editor")
    page.evaluate("editor.open(canvas(600, 400), {width: 1200, height: 800})")
    page.evaluate("events.length = 0")
    yield page
    page.close()


def mask(page):
    """Return the mask as the editor gives it, True in the hole."""
    with Image.open(io.BytesIO(bytes(page.evaluate("bytes(editor.mask())")))) as image:
        assert image.mode == "L"
        pixels = np.asarray(image)
    assert set(np.unique(pixels)) <= {0, 255}
    return pixels > 0


def load(page, pixels, options="{}"):
    """Load a mask file; return what was wrong with it, or an empty string."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    script = f"""bytes => editor.loadMask(new Blob([new Uint8Array(bytes)]), {options})
        .then(() => "", error => error.message)"""
    return page.evaluate(script, list(buffer.getvalue()))


def test_strokes_and_shapes(page):
    assert page.evaluate("editor.isEmpty")
    size = page.evaluate("editor.brushSize")
    assert size == 48  # 4 % of the longer side
    drag(page, (0.25, 0.5), (0.5, 0.5), (0.5, 0.75))
    hole = mask(page)
    assert hole.shape == (800, 1200)
    length = 0.25 * 1200 + 0.25 * 800
    assert hole.sum() == pytest.approx(length * size + np.pi * size**2 / 4, rel=0.03)
    assert hole[400, 450]
    assert not hole[400 + size, 450]

    page.keyboard.press("e")
    drag(page, (0.25, 0.5), (0.5, 0.5))
    assert not mask(page)[400, 300:590].any()
    page.keyboard.press("Control+z")
    assert (mask(page) == hole).all()
    page.keyboard.press("Control+Shift+Z")
    assert not mask(page)[400, 450]

    page.click("[data-tool=clear]")
    page.click("[data-tool=box]")
    drag(page, (0.1, 0.1), (0.3, 0.4))
    assert mask(page).sum() == pytest.approx(240 * 240, rel=0.02)
    page.click("[data-tool=clear]")
    page.keyboard.press("o")
    drag(page, (0.3, 0.4), (0.1, 0.1))
    assert mask(page).sum() == pytest.approx(np.pi / 4 * 240 * 240, rel=0.02)
    assert "change" in page.evaluate("events")


def test_grow_shrink_and_invert(page):
    pixels = np.zeros((800, 1200), np.uint8)
    pixels[300:340, 500:520] = 255
    assert load(page, pixels) == ""
    assert (mask(page) == (pixels > 0)).all()
    page.evaluate("editor.grow(5)")
    rows, columns = np.ogrid[:800, :1200]
    apart = np.hypot(np.clip(300 - rows, 0, None) + np.clip(rows - 339, 0, None),
                     np.clip(500 - columns, 0, None) + np.clip(columns - 519, 0, None))  # fmt: skip
    assert (mask(page) == (apart <= 5)).all()
    page.evaluate("editor.shrink(5)")
    assert (mask(page) == (pixels > 0)).all()
    page.click("[data-tool=invert]")
    assert (mask(page) == (pixels == 0)).all()
    for _ in range(4):
        page.evaluate("editor.undo()")
    assert page.evaluate("editor.isEmpty")


def test_mask_files(page):
    pixels = np.zeros((800, 1200), np.uint8)
    pixels[100:200, 100:300] = 200
    assert load(page, pixels) == ""
    assert (mask(page) == (pixels > 0)).all()
    assert load(page, pixels[::2, ::2]) == ""
    assert (mask(page) == (pixels > 0)).mean() > 0.999
    assert load(page, 255 - pixels, "{black: true}") == ""
    assert (mask(page) == (pixels > 0)).all()
    before = mask(page)
    assert "600 × 800 pixels, the photo 1200 × 800" in load(page, pixels[:, :600])
    with_button = {"name": "mask.png", "mimeType": "image/png", "buffer": b"not an image"}
    page.set_input_files("#editor input[type=file]", with_button)
    page.wait_for_function("document.querySelector('#editor [role=alert]').textContent")
    assert page.evaluate("events.at(-1)") == "The mask is not an image that this browser reads"
    assert (mask(page) == before).all()
    load(page, 255 - pixels)
    assert "press Invert" in page.inner_text("#editor [role=status]")


def test_keys_alone(page):
    page.focus("#editor canvas[tabindex]")
    page.keyboard.press("]")
    assert page.evaluate("editor.brushSize") == 54
    page.keyboard.press("Space")  # a dot in the middle
    dot = mask(page).sum()
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    hole = mask(page)
    assert dot == 0 or dot < hole.sum()
    assert hole.sum() == pytest.approx(4 * 0.05 * 1200 * 54 + np.pi * 54**2 / 4, rel=0.03)
    assert "lifted" in page.inner_text("#editor [role=status]")
    page.keyboard.press("r")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Escape")
    assert (mask(page) == hole).all()
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Enter")
    assert page.evaluate("events.filter(each => each === 'fill').length") == 2


def test_a_small_brush_grows_and_shrinks_by_keys(page):
    page.evaluate("editor.brushSize = 1")
    page.focus("#editor input[type=range]")
    for size in (2, 3, 4):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("editor.brushSize") == size
    for size in (3, 2, 1, 1):
        page.keyboard.press("ArrowLeft")
        assert page.evaluate("editor.brushSize") == size


def test_a_key_that_is_held_acts_once(page):
    page.focus("#editor canvas[tabindex]")
    for key in (" ", "Enter"):
        page.evaluate(
            """key => {
                const canvas = document.querySelector("#editor canvas[tabindex]");
                for (const repeat of [false, true, true, true]) {
                    canvas.dispatchEvent(new KeyboardEvent("keydown", {key, repeat, bubbles: true, cancelable: true}));
                }
            }""",
            key,
        )
        if key == " ":
            assert "Brush down" in page.inner_text("#editor [role=status]")
    assert page.evaluate("events.filter(each => each === 'fill').length") == 1


def test_zoom_and_fingers(page):
    page.evaluate("editor.zoom = 2")
    drag(page, (0.5, 0.5), (0.75, 0.5))  # an eighth of the photo
    rows, columns = np.nonzero(mask(page))
    assert columns.max() - columns.min() == pytest.approx(1200 / 8 + 48, abs=5)
    assert rows.mean() == pytest.approx(400, abs=3)
    before = mask(page)
    fingers = """([type, points]) => {
        const canvas = document.querySelector("#editor canvas[tabindex]"), box = canvas.getBoundingClientRect();
        canvas.setPointerCapture = () => {};
        points.forEach(([x, y], id) => canvas.dispatchEvent(new PointerEvent(type, {pointerId: id + 10, bubbles: true,
            pointerType: "touch", clientX: box.left + x * box.width, clientY: box.top + y * box.height})));
    }"""
    page.evaluate(fingers, ["pointerdown", [[0.4, 0.5], [0.6, 0.5]]])
    page.evaluate(fingers, ["pointermove", [[0.3, 0.5], [0.7, 0.5]]])
    page.evaluate(fingers, ["pointerup", [[0.3, 0.5], [0.7, 0.5]]])
    assert page.evaluate("editor.zoom") == pytest.approx(4, rel=0.01)
    assert (mask(page) == before).all()


def test_a_second_finger_ends_a_stroke_and_removes_a_dot(page):
    touch = """([type, x, y, id]) => {
        const canvas = document.querySelector("#editor canvas[tabindex]"), box = canvas.getBoundingClientRect();
        canvas.setPointerCapture = () => {};
        canvas.dispatchEvent(new PointerEvent(type, {pointerId: id, bubbles: true, pointerType: "touch",
            clientX: box.left + x * box.width, clientY: box.top + y * box.height}));
    }"""
    page.evaluate("editor.brushSize = 2")
    slip = 0.3 + 5 / page.evaluate("document.querySelector('#editor canvas[tabindex]').getBoundingClientRect().width")
    for end, empty in ((0.3, True), (slip, True), (0.7, False)):
        page.evaluate(touch, ["pointerdown", 0.3, 0.5, 10])
        page.evaluate(touch, ["pointermove", end, 0.5, 10])
        page.evaluate(touch, ["pointerdown", 0.5, 0.2, 11])
        for finger in (10, 11):
            page.evaluate(touch, ["pointerup", 0.5, 0.5, finger])
        assert page.evaluate("editor.isEmpty") == empty
    page.evaluate("editor.undo()")
    assert page.evaluate("editor.isEmpty")


def test_large_photos_and_the_next_photo(page):
    drag(page, (0.5, 0.5), (0.6, 0.5))
    page.evaluate("editor.open(canvas(600, 400), {width: 1200, height: 800, keep: true})")
    assert not page.evaluate("editor.isEmpty")
    page.evaluate("editor.open(canvas(600, 400), {width: 6000, height: 4000})")
    assert page.evaluate("editor.isEmpty")
    width, height = page.evaluate("editor.open(canvas(600, 400), {width: 9000, height: 6000})"
                                  ".then(() => [editor.pixels().width, editor.pixels().height])")  # fmt: skip
    assert width * height <= 2**25
    assert width / height == pytest.approx(1.5, abs=0.001)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(page, scheme, tmp_path):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.documentElement.scrollWidth <= 390")
    drag(page, (0.3, 0.5), (0.7, 0.6))
    for box in (each.bounding_box() for each in page.locator("#editor button").all()):
        assert min(box["width"], box["height"]) >= 24
    colour = page.evaluate("getComputedStyle(document.querySelector('#editor')).color")
    assert (sum(map(int, colour.strip("rgb()").split(","))) > 384) == (scheme == "dark")
