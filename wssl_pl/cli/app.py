"""`wssl app`."""

from pathlib import Path

from jsonargparse.typing import PositiveFloat, PositiveInt


def app(
    *,
    ckpt: Path | None = None,
    ckpts: Path | None = None,
    host: str = "127.0.0.1",
    names: list[str] | None = None,
    port: PositiveInt | None = None,
    max_mb: PositiveFloat = 50.0,
    max_total_mb: PositiveFloat = 2000.0,
    max_megapixels: PositiveFloat = 50.0,
    concurrency: PositiveInt = 1,
    device: str = "auto",
) -> None:
    """Serve a page in the browser: load a photo, paint the hole, see and download the result. Ctrl-C ends it.

    Example:
        wssl app ckpt=best.ckpt port=8000

    Args:
        ckpt: the model offered first, a .ckpt, .safetensors or .onnx file; default: the shipped one
        ckpts: folder whose best.ckpt, .safetensors and .onnx files are offered too; default: runs
        host: address to listen on; 0.0.0.0 opens the page to the network
        names: further host names by which the page is reached, through DNS or a proxy
        port: the port; default: the first free one from 7860 on
        max_mb: largest upload, in millions of bytes
        max_total_mb: most that is stored of all visitors, uploads and results, in millions of bytes
        max_megapixels: largest photo, in millions of pixels
        concurrency: photos filled at once; further users wait in a queue
        device: auto, cpu, cuda, cuda:N or mps
    """
    from wssl_pl.app.server import AppOptions, serve

    sizes = {"max_mb": max_mb, "max_total_mb": max_total_mb, "max_megapixels": max_megapixels}
    serve(AppOptions(ckpt, ckpts, host, tuple(names or ()), port, **sizes, concurrency=concurrency, device=device))
