"""`wssl app`: the page on which holes are painted and filled."""

from collections.abc import Sequence
from pathlib import Path

from wssl_pl.cli.verb_words import Options, read_options

OPTIONS: Options = {
    "ckpt": (Path, None, "the model offered first: .ckpt, .safetensors or .onnx; the shipped one if left out"),
    "ckpts": (Path, None, "folder whose best.ckpt, .safetensors and .onnx files are offered too; runs if left out"),
    "host": (str, "127.0.0.1", "address to listen on; 0.0.0.0 opens the page to the network"),
    "port": (int, None, "the port; the first free one from 7860 on if left out"),
    "max_mb": (float, 50.0, "largest upload, in millions of bytes"),
    "max_megapixels": (float, 50.0, "largest photo, in millions of pixels"),
    "concurrency": (int, 1, "photos filled at once; further users wait in a queue"),
    "device": (str, "auto", "auto, cpu, cuda, cuda:N or mps"),
}
DESCRIPTION = "A page in the browser: load a photo, paint the hole, see and download the result."


def run(args: Sequence[str]) -> None:
    """Runs `wssl app` with the arguments after the verb, until Ctrl-C.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    options = read_options("app", args, OPTIONS, description=DESCRIPTION)
    if options is None:
        return
    from wssl_pl.app.server import AppOptions, serve

    serve(AppOptions(**options))
