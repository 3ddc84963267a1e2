"""Seconds that the page of `wssl export web` takes for a fill in the browser, by threads.

    wssl export web out=PAGE download=true
    python benchmarks/web.py PAGE [--threads 1 2] [--rounds 5] [--screenshots DIR]

Fills a stroke and an ellipse in the page's example, 512 x 512 pixels, in Chromium without a screen; the numbers of
threads take turns. `--screenshots` writes what is seen in light and dark, wide and on a phone, and exits.
"""

import argparse
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from app_picture import drag_over_photo, find_chromium

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


class Handler(SimpleHTTPRequestHandler):
    """Sends the headers without which browsers allow no threads."""

    def end_headers(self) -> None:
        """Add them."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def open_example(browser: Any, url: str, **options: Any) -> Any:
    """Return a page that shows the example."""
    page = browser.new_page(**{"viewport": {"width": 900, "height": 900}} | options)
    page.set_default_timeout(120_000)
    page.goto(url)
    page.locator("#about", has_text="Computed").wait_for()
    page.click("#example")
    page.locator("#state", has_text="512 × 512").wait_for()
    return page


def paint(page: Any) -> None:
    """Paint a stroke across the hair, and an ellipse over an eye."""
    for tool, points in (("brush", [(0.3, 0.3), (0.5, 0.22), (0.7, 0.3)]), ("ellipse", [(0.52, 0.42), (0.68, 0.55)])):
        page.click(f"[data-tool={tool}]")
        drag_over_photo(page, *points)


def fill(page: Any) -> str:
    """Press the button and return what the page says."""
    page.click("#fill")
    page.locator("#state", has_text="filled").wait_for()
    text: str = page.inner_text("#state")
    return text


def draw(browser: Any, url: str, folder: Path) -> None:
    """Write screenshots: painted, during a fill that takes long enough to be seen, and with the result."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scheme, width in (("light", "light", 900), ("dark", "dark", 900), ("phone", "dark", 390)):
        page = open_example(browser, url, color_scheme=scheme, viewport={"width": width, "height": 900})
        paint(page)
        page.screenshot(path=folder / f"{name}-painted.png", full_page=True)
        page.click("#fill")
        page.locator("#cancel:visible, #state:has-text('filled')").first.wait_for()
        if page.locator("#cancel").is_visible():
            page.screenshot(path=folder / f"{name}-progress.png", full_page=True)
        page.locator("#state", has_text="filled").wait_for()
        page.wait_for_timeout(500)
        page.screenshot(path=folder / f"{name}-result.png", full_page=True)
        page.close()


def main() -> None:
    """Measure, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--screenshots", type=Path)
    options = parser.parse_args()

    from playwright.sync_api import sync_playwright

    with served(options.page) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        if options.screenshots:
            draw(browser, url, options.screenshots)
            return
        pages = {each: open_example(browser, f"{url}?device=wasm&threads={each}") for each in options.threads}
        seconds: dict[int, list[float]] = {each: [] for each in pages}
        for _ in range(options.rounds + 1):
            for each, page in pages.items():
                page.bring_to_front()
                paint(page)
                text = fill(page)
                seconds[each].append(float(text.split(" in ")[1].split(" s.")[0]))
                page.click("#undo")
                page.locator("#state", has_text="undone").wait_for()
                page.click("[data-tool=clear]")
        print(f"{text.split(' in ')[0]} of 512 x 512")
        for each, page in pages.items():
            used = page.get_attribute("#about", "data-threads")
            times = seconds[each][1:]  # without the first, which compiles
            print(f"{used} thread(s): {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f}")
        browser.close()


if __name__ == "__main__":
    main()
