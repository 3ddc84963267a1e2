"""Starts the page and ends it, without a trace on the disk or a word to anybody else."""

import errno
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
from wssl_pl.errors import UsageError

PORTS = 100  # how many are tried


@dataclass(frozen=True)
class AppOptions:
    """What `wssl app` can be told.

    Attributes:
        ckpt: the model that is offered first; the shipped one if left out.
        ckpts: a folder whose models are offered too.
        host: address to listen on.
        port: the first port to try.
        max_mb: the largest upload, in millions of bytes.
        max_megapixels: the largest photo, in millions of pixels.
        concurrency: how many photos are filled at once.
        device: as for `Inpainter.from_checkpoint`.

    Raises:
        UsageError: a value that it cannot have.
    """

    ckpt: Path | None = None
    ckpts: Path | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    max_mb: float = 50.0
    max_megapixels: float = 50.0
    concurrency: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UsageError(f"port={self.port}: it must be from 1 to 65535")
        for name, value in (("max_mb", self.max_mb), ("max_megapixels", self.max_megapixels)):
            if not 0 < value < float("inf"):
                raise UsageError(f"{name}={value}: it must be a positive number")
        if self.concurrency < 1:
            raise UsageError(f"concurrency={self.concurrency}: it must be at least 1")
        if self.ckpts is not None and not self.ckpts.is_dir():
            raise UsageError(
                f"ckpts={self.ckpts} is not a folder: name one with best.ckpt, .safetensors or .onnx files"
            )


@contextmanager
def running(options: AppOptions) -> Iterator[str]:
    """The page, served while the block lasts; gives its address.

    Raises:
        UsageError: Gradio is missing, there is no model, the first one cannot be loaded, or no port is free.
    """
    with tempfile.TemporaryDirectory(prefix="wssl-app-") as temporary, _environment(Path(temporary)):
        folder = Path(temporary)
        if importlib.util.find_spec("gradio") is None:
            raise UsageError("app needs gradio: pip install 'wssl-pl[app]'")
        port = free_port(options.host, options.port)
        models = Models(options.ckpt, options.ckpts, options.device)
        more = len(models.names()) - 1
        print(f"Model: {models.get('').info.name}" + (f", and {more} more to choose from" if more else ""), flush=True)

        # Only now, as it takes seconds; and in this environment, which it reads when it is imported.
        from starlette.middleware import Middleware

        from wssl_pl.app.examples import make_examples
        from wssl_pl.app.guard import Guard, no_fetching
        from wssl_pl.app.page import CSS, Settings, build_page, theme

        # The address of all networks is none to go to.
        name = options.host if options.host not in ("0.0.0.0", "::") else socket.gethostname()
        url = f"http://{bracketed(name)}:{port}"
        limit = int(options.max_mb * 1e6)
        settings = Settings(
            models=models,
            examples=make_examples(folder / "examples"),
            folder=folder / "served",
            megapixels=options.max_megapixels,
            concurrency=options.concurrency,
            url=url,
            where="this machine" if is_loopback(options.host) else "the machine that runs this page",
        )
        with no_fetching(), _pillow_allows(options.max_megapixels):
            page = build_page(settings)
            try:
                page.launch(
                    server_name=bracketed(options.host),
                    server_port=port,
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
            except OSError as error:
                raise UsageError(f"port={port} was taken meanwhile ({error}): try again") from None
            try:
                yield url
            finally:
                page.close(verbose=False)


def serve(options: AppOptions) -> None:
    """Serves the page until Ctrl-C, or until the process is asked to end.

    Raises:
        UsageError: see :func:`running`.
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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bracketed(host: str) -> str:
    """A host as it stands in an address."""
    return f"[{host}]" if ":" in host else host


def free_port(host: str, first: int) -> int:
    """The first port from `first` on that is free.

    Raises:
        UsageError: the host is not an address of this machine, or no port is free.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, first, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise UsageError(
            f"host={host} is not an address: 127.0.0.1 is this machine alone, 0.0.0.0 all networks"
        ) from None
    last = min(65535, first + PORTS - 1)
    for port in range(first, last + 1):
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], port))
                return port
            except PermissionError:
                raise UsageError(f"port={port} is not for ordinary users: take one from 1024 on") from None
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise UsageError(f"host={host} is not an address of this machine") from None
    raise UsageError(f"port={first}: it and all up to {last} are taken")


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """What Gradio and its libraries read from the environment, for as long as the page runs."""
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
    _set(ours)
    try:
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
