"""Start and end of the page, which leaves nothing on the disk and reports to nobody."""

import importlib.util
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from wssl_pl.app.address import is_loopback, listening, shown
from wssl_pl.app.examples import make_examples
from wssl_pl.app.models import Models
from wssl_pl.app.options import AppOptions
from wssl_pl.app.storage import Storage, own_folder
from wssl_pl.errors import WSSLError
from wssl_pl.files import writing

if TYPE_CHECKING:
    from wssl_pl.app.actions import Settings
    from wssl_pl.app.guard import Guard

FILES = "files"  # below the page's folder: what Gradio serves


@contextmanager
def running(options: AppOptions) -> Iterator[str]:
    """Serve the page while the block lasts; yields its address.

    Raises:
        WSSLError: Gradio is missing, there is no model, the first one cannot be loaded, the port is not free, or the
            temporary folder cannot be written.
    """
    if importlib.util.find_spec("gradio") is None:
        raise WSSLError(None, None, "app needs gradio", "pip install 'wssl-pl[app]'")
    with own_folder() as folder, _environment(folder), listening(options.host, options.port) as listener:
        models = Models(options.ckpt, options.ckpts, options.device)
        more = len(models.names()) - 1
        print(f"Model: {models.get('').info.name}" + (f", and {more} more to choose from" if more else ""), flush=True)

        with writing("TMPDIR", folder.parent):
            (folder / FILES).mkdir(mode=0o700)
            examples = make_examples(folder / FILES / "examples")

        # Only now, as it takes seconds; and in this environment, which it reads when it is imported.
        from wssl_pl.app.actions import Settings
        from wssl_pl.app.guard import no_fetching

        settings = Settings(
            models=models,
            examples=examples,
            storage=Storage(folder / FILES, options.max_total_mb * 1e6),
            megapixels=options.max_megapixels,
            megabytes=options.max_mb,
            concurrency=options.concurrency,
            where="this machine" if is_loopback(options.host) else "the machine that runs this page",
        )
        with no_fetching(), _pillow_allows(options.max_megapixels), _serving(application(settings, options), listener):
            try:
                yield f"http://{shown(options.host)}:{listener.getsockname()[1]}"
            finally:
                settings.stop.set()


def application(settings: "Settings", options: AppOptions) -> "Guard":
    """Return the page as an ASGI application."""
    import gradio as gr
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import FileResponse

    from wssl_pl.app.connection import ScriptFirst, Streams
    from wssl_pl.app.guard import Guard, OwnAddress
    from wssl_pl.app.page import HEAD, PARTS, build_page, theme

    limit = int(options.max_mb * 1e6)
    page = build_page(settings)
    server = FastAPI(openapi_url=None)

    @server.get("/page/{name}")
    def part(name: str) -> FileResponse:
        if name not in PARTS:
            raise HTTPException(404)
        # Asked for at every visit, else a browser may have the files of an earlier version for days.
        return FileResponse(PARTS[name], headers={"Cache-Control": "no-cache"})

    @server.post("/page/renew", status_code=204)
    async def renew(request: Request) -> None:
        # Not by Gradio's queue: a call that breaks off there would interrupt who paints.
        page.renew((await request.body()).decode(errors="replace"))

    app = gr.mount_gradio_app(
        server,
        page,
        path="/",
        show_error=False,
        max_file_size=limit,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        pwa=False,
        footer_links=[],
        theme=theme(),
        head=HEAD,
    )
    # Else Gradio takes paths of files that nobody has uploaded.
    page.has_launched = page.is_running = True
    connected = ScriptFirst(Streams(app, page._queue.pending_event_ids_session))
    # Beside the file there are the names and borders of a form.
    return Guard(OwnAddress(connected, options.host, options.names or ()), limit + 100_000, settings.storage)


@contextmanager
def _serving(app: "Guard", server: socket.socket) -> Iterator[None]:
    import uvicorn

    config = uvicorn.Config(app, lifespan="on", log_config=None, log_level="critical", timeout_graceful_shutdown=1)
    uvicorn_server = uvicorn.Server(config)
    thread = threading.Thread(target=uvicorn_server.run, args=([server],), daemon=True)
    thread.start()
    try:
        while not uvicorn_server.started and thread.is_alive():
            time.sleep(0.01)
        yield
    finally:
        uvicorn_server.should_exit = True
        thread.join(10)
        # Python may crash at its end while a thread that it does not wait for decodes or computes.
        for worker in threading.enumerate():
            if worker.name == "AnyIO worker thread" and worker.loop.is_closed():  # type: ignore[attr-defined]
                worker.join(20)


def serve(options: AppOptions) -> None:
    """Serve the page until Ctrl-C, or until the process is asked to end.

    Raises:
        WSSLError: see `running`.
    """

    def end(*_: Any) -> None:
        for number in handlers:  # another one would leave files behind
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    # SIGINT too, since shells have the programs ignore it that they start in the background.
    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with running(options) as url:
            print(f"The page is at {url}   (Ctrl-C ends it)", flush=True)
            if not is_loopback(options.host):
                print(
                    f"WARNING: host={options.host} opens the page to everybody on the network, without a password.",
                    flush=True,
                )
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    print("The page is closed, and its files are deleted.", flush=True)


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Set what Gradio and its libraries read from the environment, as long as the page runs."""
    ours: dict[str, Any] = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": str(folder / FILES),
    }
    before = {name: os.environ.get(name) for name in ours}
    try:
        _set(ours)
        yield
    finally:
        _set(before)


@contextmanager
def _pillow_allows(megapixels: float) -> Iterator[None]:
    """Pillow's own limit against decompression bombs gives way to a larger one of ours; it is the whole process's."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max(before or 0, int(megapixels * 1e6))
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _set(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
