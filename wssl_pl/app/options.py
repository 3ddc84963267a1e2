"""Options of the page, apart from it, so that `wssl app --help` needs no Gradio."""

from dataclasses import dataclass
from pathlib import Path

from jsonargparse.typing import PositiveFloat, PositiveInt

from wssl_pl.errors import WSSLError


@dataclass(frozen=True)
class AppOptions:
    """Options of `wssl app`.

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

    Raises:
        WSSLError: a value that it cannot have.
    """

    ckpt: Path | None = None
    ckpts: Path | None = None
    host: str = "127.0.0.1"
    names: list[str] | None = None
    port: PositiveInt | None = None
    max_mb: PositiveFloat = 50.0
    max_total_mb: PositiveFloat = 2000.0
    max_megapixels: PositiveFloat = 50.0
    concurrency: PositiveInt = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.port is not None and self.port > 65535:
            raise WSSLError("port", self.port, "must be from 1 to 65535")
        for name in ("max_mb", "max_total_mb", "max_megapixels"):
            if not 0 < getattr(self, name) < float("inf"):
                raise WSSLError(name, getattr(self, name), "must be a positive number")
        if self.ckpts is not None and not self.ckpts.is_dir():
            remedy = "name one with best.ckpt, .safetensors or .onnx files"
            raise WSSLError("ckpts", self.ckpts, "is not a folder", remedy)
