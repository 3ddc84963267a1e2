"""Start and end of the page, which leaves nothing on the disk and reports to nobody."""

import importlib.util
import ipaddress
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from wssl_pl.app.models import Models
from wssl_pl.errors import WSSLError


@dataclass(frozen=True)
class AppOptions:
    """Options of `wssl app`.

    Attributes:
        ckpt: the model that is offered first: .ckpt, .safetensors or .onnx; default: the shipped one.
        ckpts: a folder whose best.ckpt, .safetensors and .onnx files are offered too; default: runs.
        host: address to listen on; 0.0.0.0 opens the page to the network.
        port: the port; default: the first free one from 7860 on.
        max_mb: largest upload, in millions of bytes.
        max_megapixels: largest photo, in millions of pixels.
        concurrency: photos filled at once; further users wait in a queue.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        WSSLError: a value that it cannot have.
    """

    ckpt: Path | None = None
    ckpts: Path | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    max_mb: float = 50.0
    max_megapixels: float = 50.0
    concurrency: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise WSSLError("port", self.port, "must be from 1 to 65535")
        for name, value in (("max_mb", self.max_mb), ("max_megapixels", self.max_megapixels)):
            if not 0 < value < float("inf"):
                raise WSSLError(name, value, "must be a positive number")
        if self.concurrency < 1:
            raise WSSLError("concurrency", self.concurrency, "must be at least 1")
        if self.ckpts is not None and not self.ckpts.is_dir():
            raise WSSLError(
                "ckpts", self.ckpts, "is not a folder", "name one with best.ckpt, .safetensors or .onnx files"
            )


@contextmanager
def running(options: AppOptions) -> Iterator[str]:
    """Serve the page while the block lasts; yields its address.

    Raises:
        WSSLError: Gradio is missing, there is no model, the first one cannot be loaded, or the port is not free.
    """
    with tempfile.TemporaryDirectory(prefix="wssl-app-") as temporary, _environment(Path(temporary)):
        folder = Path(temporary)
        if importlib.util.find_spec("gradio") is None:
            raise WSSLError(None, None, "app needs gradio", "pip install 'wssl-pl[app]'")
        check_host(options.host)
        models = Models(options.ckpt, options.ckpts, options.device)
        more = len(models.names()) - 1
        print(f"Model: {models.get('').info.name}" + (f", and {more} more to choose from" if more else ""), flush=True)

        # Only now, as it takes seconds; and in this environment, which it reads when it is imported.
        from starlette.middleware import Middleware

        from wssl_pl.app.examples import make_examples
        from wssl_pl.app.guard import Guard, no_fetching
        from wssl_pl.app.page import CSS, Settings, build_page, theme

        limit = int(options.max_mb * 1e6)
        settings = Settings(
            models=models,
            examples=make_examples(folder / "examples"),
            folder=folder / "served",
            megapixels=options.max_megapixels,
            concurrency=options.concurrency,
            where="this machine" if is_loopback(options.host) else "the machine that runs this page",
        )
        with no_fetching(), _pillow_allows(options.max_megapixels):
            page = build_page(settings)
            try:
                _, url, _ = page.launch(
                    server_name=f"[{options.host}]" if ":" in options.host else options.host,
                    server_port=options.port,
                    share=False,
                    inline=False,
                    prevent_thread_lock=True,
                    quiet=True,
                    max_file_size=limit,
                    # Beside the file there are the names and borders of a form.
                    app_kwargs={"middleware": [Middleware(Guard, limit=limit + 100_000)]},
                    ssr_mode=False,
                    num_workers=0,
                    mcp_server=False,
                    enable_monitoring=False,
                    run_history=False,
                    pwa=False,
                    footer_links=[],
                    theme=theme(),
                    css=CSS,
                )
            except (OSError, ValueError) as error:
                page.close(verbose=False)
                raise WSSLError("port", options.port, f"is not free ({error})", "choose another, or omit it") from None
            try:
                yield str(url).rstrip("/")
            finally:
                page.close(verbose=False)


def serve(options: AppOptions) -> None:
    """Serve the page until Ctrl-C, or until the process is asked to end.

    Raises:
        WSSLError: see :func:`running`.
    """
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with running(options) as url:
            print(f"The page is at {url}   (Ctrl-C ends it)", flush=True)
            if not is_loopback(options.host):
                print(
                    f"WARNING: host={options.host} opens the page to everybody on the network, without a password.",
                    flush=True,
                )
            stop.wait()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
    print("The page is closed, and its files are deleted.", flush=True)


def check_host(host: str) -> None:
    """Raise `WSSLError` unless a host is an address of this machine; Gradio would wait five seconds at each port."""
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        remedy = "127.0.0.1 is this machine alone, 0.0.0.0 all networks"
        raise WSSLError("host", host, f"is not an address of this machine ({error})", remedy) from None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Set what Gradio and its libraries read from the environment, as long as the page runs."""
    ours: dict[str, Any] = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # A folder of our own, unreadable for other users, which goes when the page does.
        "GRADIO_TEMP_DIR": str(folder),
        # No folder is served beside it.
        "GRADIO_ALLOWED_PATHS": None,
        # Gradio calls itself when it starts, which must not go through a proxy.
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "localhost", "127.0.0.1", "::1"])),
        "no_proxy": ",".join(filter(None, [os.environ.get("no_proxy"), "localhost", "127.0.0.1", "::1"])),
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
