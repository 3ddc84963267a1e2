"""`wssl export onnx` and `wssl export safetensors`: a trained model for use elsewhere."""

from collections.abc import Sequence
from pathlib import Path

from wssl_pl.cli.verb_words import Options, flag, read_options
from wssl_pl.errors import UsageError

ONNX: Options = {
    "ckpt": (Path, None, ".ckpt, .safetensors or an exported folder; the shipped model if left out"),
    "out": (Path, None, "the .onnx file; also -o"),
    "overwrite": (flag, False, "replace a file that exists"),
}
SAFETENSORS: Options = {
    "ckpt": (Path, None, ".ckpt, .safetensors or an exported folder; the shipped model if left out"),
    "out": (Path, None, "a folder for weights, config.json and model card, or one .safetensors file; also -o"),
    "half": (flag, False, "float16: half the size"),
    "title": (str, "WSSL inpainting", "the model's name on its card"),
    "data": (str, None, "on the card: what it was trained on, in a sentence or two"),
    "license": (str, None, "on the card: the licence of the weights"),
    "figures": (Path, None, "on the card: a result folder of wssl evaluate"),
    "overwrite": (flag, False, "replace files that exist"),
}


def run(args: Sequence[str]) -> None:
    """Runs `wssl export` with the arguments after the verb.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    verbs = {"onnx": _onnx, "safetensors": _safetensors}
    if not args or args[0] not in verbs:
        if args and args[0] in ("--help", "-h", "help"):
            _onnx(["--help"])
            return _safetensors(["--help"])
        raise UsageError("say export onnx ckpt=FILE out=FILE or export safetensors ckpt=FILE out=DIR")
    verbs[args[0]](args[1:])
    return None


def _onnx(args: Sequence[str]) -> None:
    what = "Writes a model as ONNX, any batch and size, and compares it with PyTorch."
    options = read_options("export onnx", args, ONNX, (), what, {"o": "out"})
    if options is None:
        return
    out: Path | None = options["out"]
    if out is None or out.suffix.lower() != ".onnx":
        raise UsageError(f"out={out}: name a file that ends in .onnx" if out else "export onnx needs out=FILE.onnx")
    check_new([out], options["overwrite"])
    path = _model_path(options["ckpt"], out)

    from wssl_pl.export.onnx_file import write_onnx
    from wssl_pl.models.weights import read_module

    module, info = read_module(path)
    difference = write_onnx(module, info, out)
    print(f"Written {out} ({out.stat().st_size / 1e6:.1f} MB) from {info.name}")
    print(f"Differs from PyTorch by at most {difference:.1g} at three sizes", flush=True)


def _safetensors(args: Sequence[str]) -> None:
    what = "Writes a model as safetensors: a folder that huggingface_hub loads, or a single file."
    options = read_options("export safetensors", args, SAFETENSORS, (), what, {"o": "out"})
    if options is None:
        return
    out: Path | None = options["out"]
    if out is None:
        raise UsageError("export safetensors needs out=: a folder, or a file that ends in .safetensors")
    path = _model_path(options["ckpt"], out)

    from wssl_pl.export.weights import write_folder, write_safetensors
    from wssl_pl.models.weights import CONFIG, WEIGHTS, read_module

    single = out.suffix.lower() == ".safetensors"
    if not single and out.is_file():
        raise UsageError(f"out={out} is a file: name a folder, or a file that ends in .safetensors")
    check_new([out] if single else [out / name for name in (WEIGHTS, CONFIG, "README.md")], options["overwrite"])
    module, info = read_module(path)
    if single:
        write_safetensors(module.state_dict(), info, out, options["half"])
        print(f"Written {out} ({out.stat().st_size / 1e6:.1f} MB) from {info.name}", flush=True)
        return

    from wssl_pl.export.card import model_card
    from wssl_pl.inference.output import replacing

    parameters = sum(value.numel() for value in module.state_dict().values())
    card = model_card(
        info, parameters, options["title"], out.name, options["data"], options["license"], options["figures"]
    )
    out.mkdir(parents=True, exist_ok=True)
    write_folder(module.state_dict(), info, out, options["half"])
    with replacing(out / "README.md") as temporary:
        temporary.write_text(card)
    print(f"Written {WEIGHTS}, {CONFIG} and README.md to {out} from {info.name}", flush=True)


def check_new(paths: Sequence[Path], overwrite: bool) -> None:
    """Raises `UsageError` if a file exists already, unless it may be overwritten, or cannot be written there."""
    for path in paths:
        if path.is_dir():
            raise UsageError(f"out={path} is a folder: name a file")
        if path.exists() and not overwrite:
            raise UsageError(f"out={path} exists already: name another, or add --overwrite")
    if len(paths) == 1 and not paths[0].parent.is_dir():
        raise UsageError(f"out={paths[0]}: the folder {paths[0].parent} does not exist")


def _model_path(ckpt: Path | None, out: Path) -> Path:
    """The model file to export, which has to be another than the result.

    Raises:
        UsageError: there is none, or it is an ONNX file.
    """
    from wssl_pl.models import find_model

    path = find_model(ckpt)
    if path.suffix.lower() == ".onnx":
        raise UsageError(f"ckpt={path} is an ONNX file already: give the checkpoint that it was made from")
    if path.resolve() == out.resolve():
        raise UsageError(f"out={out} is the model itself: name another")
    return path
