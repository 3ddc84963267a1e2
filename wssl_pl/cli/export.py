"""`wssl export onnx`, `wssl export safetensors` and `wssl export web`."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from wssl_pl.cli.options import ModelFile
from wssl_pl.cli.output import check_folder, new_folder, own_file, own_folder
from wssl_pl.errors import WSSLError
from wssl_pl.files import write_atomically, writing
from wssl_pl.models import ModelInfo

CARD_TITLE = "WSSL inpainting"


def export_onnx(
    *,
    out: Path,
    precision: Literal["float32", "int8", "auto"] = "float32",
    images: Path | None = None,
    overwrite: bool = False,
    model: ModelFile,
) -> None:
    """Write a model as ONNX, for images of any number and size, and compare it with PyTorch.

    Example:
        wssl export onnx ckpt=best.ckpt out=model.onnx
        wssl export onnx ckpt=best.ckpt out=model.onnx precision=auto images=DIR

    Args:
        out: the .onnx file; also -o
        precision: int8: convolutions in 8-bit integers, faster on many processors; auto: int8 if it is faster here and
            loses at most 0.05 dB
        images: for int8: a folder of photos like those that will be filled; default: drawn faces
        overwrite: replace a file that exists
        model: the model file
    """
    if out.suffix.lower() != ".onnx":
        raise WSSLError("out", out, "does not end in .onnx")
    if images is not None and precision == "float32":
        raise WSSLError("images", images, "is of no use with precision=float32", "give precision=int8 or auto")
    with own_file(out, overwrite):
        path = _model_path(model.ckpt, out)
        model.import_own()

        from wssl_pl.export.onnx_file import write_onnx
        from wssl_pl.models.weights import read_module

        module, info = read_module(path)
        if precision == "float32":
            difference, chosen = write_onnx(module, info, out), ""
        else:
            from wssl_pl.export.int8 import sample, write_int8

            photos = sample(images, info.side)
            with writing("out", out), TemporaryDirectory(dir=out.parent) as folder:
                float32, int8 = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
                difference = write_onnx(module, info, float32)
                comparison = write_int8(float32, int8, *photos)
                chosen = "int8" if precision == "int8" or comparison.pays else "float32"
                (int8 if chosen == "int8" else float32).replace(out)
            print(f"int8: {comparison}")
    print(f"Written {out} ({out.stat().st_size / 1e6:.1f} MB{chosen and f', {chosen}'}) from {info.name}")
    print(f"float32 differs from PyTorch by at most {difference:.1g} at three sizes", flush=True)


def export_safetensors(
    *,
    out: Path,
    half: bool = False,
    heads: bool = True,
    hole_depth: float | None = None,
    title: str = CARD_TITLE,
    data: str | None = None,
    license: str | None = None,
    figures: Path | None = None,
    overwrite: bool = False,
    model: ModelFile,
) -> None:
    """Write a model as safetensors: a folder with a model card, which huggingface_hub loads, or a single file.

    Example:
        wssl export safetensors ckpt=best.ckpt out=MODEL half=true

    Args:
        out: a folder for weights, config.json and model card, or a .safetensors file; also -o
        half: float16, half the size
        heads: keep the heads of task_loss, which `wssl diagnose` needs and filling does not
        hole_depth: how far from known pixels the model fills a hole at once, as a fraction of its image_size; deeper
            parts are filled at half the size first; default: the model's, else 0.1
        title: the model's name on its card
        data: on the card, what it was trained on, in a sentence or two
        license: on the card, the licence of the weights
        figures: on the card, a result folder of `wssl evaluate`
        overwrite: replace files that exist
        model: the model file
    """
    if hole_depth is not None and not 0.0 < hole_depth <= 0.5:
        raise WSSLError("hole_depth", hole_depth, "must be above 0 and at most 0.5")
    single = out.suffix.lower() == ".safetensors"
    on_card = {"title": title if title != CARD_TITLE else None, "data": data, "license": license, "figures": figures}
    for name, value in on_card.items():
        if single and value is not None:
            raise WSSLError(name, value, "is for the model card, and a single file has none", "name a folder with out=")
    path = _model_path(model.ckpt, out)
    model.import_own()

    from wssl_pl.export.weights import without_heads, write_folder, write_safetensors
    from wssl_pl.models.weights import CONFIG, WEIGHTS, read_module

    def read() -> tuple[dict[str, Any], ModelInfo]:
        module, info = read_module(path)
        info.training.update({} if hole_depth is None else {"hole_depth": hole_depth})
        return (module.state_dict(), info) if heads else without_heads(module.state_dict(), info)

    if single:
        with own_file(out, overwrite), writing("out", out):
            state, info = read()
            write_safetensors(state, info, out, half)
        print(f"Written {out} ({out.stat().st_size / 1e6:.1f} MB) from {info.name}", flush=True)
        return
    with own_folder(out, overwrite, (WEIGHTS, CONFIG, "README.md")), writing("out", out):
        state, info = read()

        from wssl_pl.export.card import model_card

        parameters = sum(value.numel() for value in state.values())
        card = model_card(info, parameters, title, out.resolve().name, data, license, figures)
        write_folder(state, info, out, half)
        write_atomically(out / "README.md", card)
    print(f"Written {WEIGHTS}, {CONFIG} and README.md to {out} from {info.name}", flush=True)


def export_web(
    *,
    out: Path,
    runtime: Path | None = None,
    download: bool = False,
    webgpu: bool = True,
    overwrite: bool = False,
    model: ModelFile,
) -> None:
    """Write a page that fills holes of photos in the browser: for any static host, and offline after the first load.

    Example:
        wssl export web out=PAGE download=true
        python -m http.server -d PAGE

    Args:
        out: a new folder; also -o
        runtime: the npm package onnxruntime-web, as npm packs it or unpacked; default: of the cache, see download
        download: get it by npm into the cache if it is not there; nothing else uses the network
        webgpu: also with what computes on graphics cards; browsers without WebGPU do not load it
        overwrite: replace an earlier page
        model: the model file, or a file of export onnx
    """
    from wssl_pl.export.web import FILES, find_runtime, write_page
    from wssl_pl.models import find_model

    check_folder(out, overwrite, FILES)
    path = find_model(model.ckpt)
    package = find_runtime(runtime, download)
    with new_folder(out, overwrite, FILES) as folder, writing("out", out):
        folder.mkdir(parents=True, exist_ok=True)
        name = str(path)
        if path.suffix.lower() == ".onnx":
            shutil.copyfile(path, folder / "model.onnx")
        else:
            model.import_own()

            from wssl_pl.export.onnx_file import write_onnx
            from wssl_pl.models.weights import read_module

            module, info = read_module(path)
            name = info.name
            write_onnx(module, info, folder / "model.onnx")
        write_page(folder, name, package, webgpu)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"Written {out} ({size / 1e6:.1f} MB) from {name}")
    print(f"To try it: python -m http.server -d {out}", flush=True)


def _model_path(ckpt: Path | None, out: Path) -> Path:
    """Return the model file to export, which has to be another than the result.

    Raises:
        WSSLError: there is none, or it is an ONNX file.
    """
    from wssl_pl.models import find_model
    from wssl_pl.models.weights import WEIGHTS

    path = find_model(ckpt)
    if path.suffix.lower() == ".onnx":
        raise WSSLError("ckpt", path, "is an ONNX file already", "give the checkpoint that it was made from")
    if path.resolve() in (out.resolve(), (out / WEIGHTS).resolve()):
        raise WSSLError("out", out, "is the model itself", "name another")
    return path
