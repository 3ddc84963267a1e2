"""The picture of `wssl app` in the README, taken in a browser without a screen.

    python benchmarks/app_picture.py --ckpt best.ckpt [--width 1280] [--example 5] [--out docs/app.png]

Opens the page, takes an example, paints a stroke with the mouse, fills it and writes what is seen. Needs Chromium.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
STROKES: list[list[tuple[int, int]]] = [
    [(-150, -120), (-70, -75), (-20, -50)],
    [(-75, 95), (-10, 60), (90, 105)],
    [(110, -60), (85, 40)],
]


def find_chromium() -> str | None:
    """The program, or None."""
    return next((path for path in map(shutil.which, CHROMIUM) if path), None)


@contextmanager
def opened(url: str, width: int, height: int, outside: list[str], touch: bool = False) -> Iterator[Any]:
    """The page in a browser of this size; requests to other machines are noted and not let through."""
    from playwright.sync_api import sync_playwright

    def route(route: Any) -> None:
        if urlsplit(route.request.url).hostname in ("127.0.0.1", None):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    def note(message: Any) -> None:
        # What the page's policy keeps from being asked at all.
        if "Content Security Policy" in message.text:
            outside.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        try:
            page = browser.new_page(viewport={"width": width, "height": height}, has_touch=touch, is_mobile=touch)
            page.set_default_timeout(120_000)
            page.route("**/*", route)
            page.on("console", note)
            page.goto(url)
            page.wait_for_selector(".photo-mask .wssl-bar", state="attached")
            yield page
        finally:
            browser.close()


def wait_for_photo(page: Any) -> None:
    """Waits until the editor shows a photo."""
    page.wait_for_selector(".photo-mask.has-photo")
    page.wait_for_selector("#canvas .photo-busy", state="hidden")


def drag(page: Any, points: Sequence[tuple[float, float]]) -> None:
    """Drag the mouse along screen points."""
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


def drag_over_photo(page: Any, *points: tuple[float, float]) -> None:
    """Drag the mouse along fractions of the width and height of the photo in a page of `wssl export web`."""
    canvas = page.locator("#editor canvas[tabindex]")
    canvas.evaluate("canvas => canvas.scrollIntoView({block: 'center'})")
    box = canvas.bounding_box()
    drag(page, [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points])


def paint(page: Any, strokes: Sequence[Sequence[tuple[int, int]]], touch: bool = False) -> None:
    """Paints strokes with the mouse, or a finger, given in screen pixels from the middle of the photo."""
    stage = page.locator(".wssl-stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    finger: Any = page.context.new_cdp_session(page) if touch else None

    def touched(kind: str, *points: tuple[float, float]) -> None:
        at = [{"x": x, "y": y} for x, y in points]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    for stroke in strokes:
        points = [(middle[0] + x, middle[1] + y) for x, y in stroke]
        if finger:
            touched("touchStart", points[0])
            for point in points[1:]:
                touched("touchMove", point)
            touched("touchEnd")
            continue
        drag(page, points)


def fill(page: Any) -> str:
    """Press the button, wait for the result or for a message, and return the line that says so."""
    # Not until the line changes: two fills may say the same.
    page.evaluate("""() => {
        const {wsslPage} = window, {done} = wsslPage;
        window.isFilled = false;
        wsslPage.done = async () => {
            wsslPage.done = done;
            await done();
            window.isFilled = true;
        };
    }""")
    page.click("#fill")
    page.wait_for_function("window.isFilled")
    line: str = page.evaluate("document.querySelector('#status .line').innerText")
    return line


def main() -> None:
    """Takes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--example", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/app.png"))
    options = parser.parse_args()

    from wssl_pl.app.options import AppOptions
    from wssl_pl.app.server import running

    outside: list[str] = []
    with (
        running(AppOptions(ckpt=options.ckpt)) as url,
        opened(url, options.width, options.height, outside) as page,
    ):
        page.locator("#examples button.thumbnail-lg").nth(options.example).click()
        wait_for_photo(page)
        paint(page, STROKES)
        print(fill(page))
        page.click("[data-tool=undo]")  # shows the strokes again
        page.mouse.move(0, 0)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(2000)
        page.screenshot(path=options.out)
    with Image.open(options.out) as image:
        # 256 colours suffice for a page, and make a quarter of the file.
        image.convert("RGB").quantize(256).save(options.out, optimize=True)
    print(f"Written {options.out}, {options.out.stat().st_size // 1000} kB; asked elsewhere: {outside or 'nothing'}")


if __name__ == "__main__":
    main()
