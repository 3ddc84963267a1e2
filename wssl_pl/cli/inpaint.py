"""`wssl inpaint` and `wssl restore`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat

from wssl_pl.cli.imports import collector_at_rest, import_torch
from wssl_pl.cli.messages import pillow_limit_lifted
from wssl_pl.cli.options import AnyModelFile
from wssl_pl.cli.output import own_file
from wssl_pl.errors import SomeFailed, WSSLError
from wssl_pl.files import check_readable, owned, writing
from wssl_pl.models.info import Polarity

if TYPE_CHECKING:
    from wssl_pl.inference import Inpainter
    from wssl_pl.inference.folder import PhotoPaths
    from wssl_pl.inference.masks import MaskOptions

    OpenInpainter = Callable[..., Inpainter]

InferencePrecision = Literal["auto", "32-true", "bf16-mixed"]
Classical = Literal["telea", "navier_stokes", "biharmonic", "fsr_fast", "fsr_best"]


def inpaint(
    photo: Path,
    mask: Path | None = None,
    *,
    out: Path,
    hole: Literal["white", "black"] = "white",
    hole_color: str = "",
    dilate: NonNegativeInt = 0,
    feather: NonNegativeInt = 0,
    resize_mask: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    precision: InferencePrecision = "auto",
    max_megapixels: PositiveFloat = 100.0,
    model_mask: Polarity | None = None,
    method: list[Classical] | None = None,
    model: AnyModelFile,
) -> None:
    """Fill the holes of a photo, or of a folder of photos. A mask is white where the hole is.

    Example:
        wssl inpaint photo.png mask.png -o filled.png
        wssl inpaint photos/ masks/ -o filled/ ckpt=runs/downstream/<run>/best.ckpt
        wssl inpaint photo.png mask.png -o filled.png ckpt=shipped,best.ckpt method=telea

    Args:
        photo: JPEG, PNG, WebP, TIFF or HEIC file, or a folder of them
        mask: its mask, or a folder of masks of the same names; default: see hole_color
        out: the result, or the folder of the results; also -o
        hole: brightness of the hole in the mask
        hole_color: without a mask, the colour that marks the hole, as #ff00ff; default: transparent pixels are the hole
        dilate: pixels by which holes are widened
        feather: pixels around the hole that are filled too and blended with the photo
        resize_mask: resize a mask of another size to the photo's
        overwrite: replace results that exist
        device: auto, cpu, cuda, cuda:N or mps
        precision: auto takes bfloat16 on a CPU where it is measured to be faster, else float32
        max_megapixels: refuse larger photos, in millions of pixels
        model_mask: of an ONNX file of another project: where its mask is 1; default: by its inputs
        method: in place of a model, or beside it: one or more of telea, navier_stokes, biharmonic, fsr_fast, fsr_best
        model: the model file, or several: ckpt=a,b; the shipped one is `shipped`

    Raises:
        SomeFailed: photos of a folder could not be filled; the others were.
    """
    if mask is not None and hole_color:
        raise WSSLError("hole_color", hole_color, "a mask is given too", "give one of them")
    ckpts = [] if method and model.ckpt is None else _several(model.ckpt)
    if not ckpts:
        for name, value in (("model_mask", model_mask), ("range", model.range), ("size", model.size)):
            if value is not None:
                raise WSSLError(name, value, "is for ONNX files of other projects", "omit it")
    model.import_own()

    from wssl_pl.inference.masks import MaskOptions

    holes = MaskOptions(hole, hole_color or None, dilate, resize_mask, max_megapixels, feather)
    openers: dict[str, OpenInpainter] = {
        name: partial(_open, replace(model, ckpt=ckpt), model_mask, device, precision)
        for name, ckpt in zip(_names(ckpts), ckpts, strict=True)
    }
    openers |= {name: partial(_open_method, name) for name in method or ()}
    _run(photo, mask, out, holes, overwrite, openers)


def restore(
    photo: Path,
    mask: Path | None = None,
    *,
    out: Path,
    hole: Literal["white", "black"] = "white",
    dilate: NonNegativeInt = 0,
    resize_mask: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    precision: InferencePrecision = "auto",
    max_megapixels: PositiveFloat = 100.0,
    ckpt: Path,
    encoder: str | None = None,
    tasks: list[str] | None = None,
) -> None:
    """Undo the damages of a photo, or of a folder of photos, with a model that was trained with model.restore.

    All of the photo is restored, in full resolution, and the holes of its mask are filled.

    Example:
        wssl restore faded.jpg -o restored.png ckpt=runs/downstream/<run>/best.ckpt
        wssl restore photos/ masks/ -o restored/ ckpt=runs/downstream/<run>/best.ckpt

    Args:
        photo: JPEG, PNG, WebP, TIFF or HEIC file, or a folder of them
        mask: its mask, or a folder of masks of the same names; default: nothing is a hole
        out: the result, or the folder of the results; also -o
        hole: brightness of the hole in the mask
        dilate: pixels by which holes are widened
        resize_mask: resize a mask of another size to the photo's
        overwrite: replace results that exist
        device: auto, cpu, cuda, cuda:N or mps
        precision: auto takes bfloat16 on a CPU where it is measured to be faster, else float32
        max_megapixels: refuse larger photos, in millions of pixels
        ckpt: .ckpt or .safetensors file or exported folder of a model that was trained so; the shipped one was not
        encoder: class path of your own encoder, if the model has one; it is imported
        tasks: class paths of your own tasks, if the model has some; they are imported

    Raises:
        SomeFailed: photos of a folder could not be restored; the others were.
    """
    model = AnyModelFile(ckpt=ckpt, encoder=encoder, tasks=tasks)
    model.import_own()

    from wssl_pl.inference.masks import MaskOptions

    holes = MaskOptions(hole, None, dilate, resize_mask, max_megapixels, restores=True)
    _run(photo, mask, out, holes, overwrite, {"model": partial(_open_restoring, model, device, precision)})


def _several(ckpt: Path | None) -> list[Path | None]:
    """Return the model files of `ckpt=a,b`, None for the shipped one; a file whose name has a comma is one."""
    if ckpt is None or ckpt.exists() or "," not in str(ckpt):
        return [None if str(ckpt) == "shipped" else ckpt]
    return [None if name == "shipped" else Path(name) for name in str(ckpt).strip("[]").split(",")]


def _names(ckpts: Sequence[Path | None]) -> list[str]:
    """Return a short name for each of several model files, with as many of its folders as tell it from the others."""
    paths = [("shipped",) if path is None else path.absolute().with_suffix("").parts for path in ckpts]
    for depth in range(1, max(map(len, paths), default=1) + 1):
        names = ["-".join(path[-depth:]).strip("/-") for path in paths]
        if len(set(names)) == len(names):
            break
    else:
        typed = ",".join("shipped" if path is None else str(path) for path in ckpts)
        raise WSSLError("ckpt", typed, "names one model twice", "name each once")
    return names


def _run(
    photo: Path,
    mask: Path | None,
    out: Path,
    holes: "MaskOptions",
    overwrite: bool,
    openers: "Mapping[str, OpenInpainter]",
) -> None:
    """Work on a photo or a folder with each of the models; of several, each result has the model's name in its own."""
    from wssl_pl.inference.folder import PhotoPaths, check_outputs, judge_masks, pair_folders, result_name

    for name, path in (("photo", photo), ("mask", mask)):
        if path is not None:
            check_readable(path, name)
    several = len(openers) > 1
    with writing("out", out):  # a closed folder
        there, into_folder = out.exists(), out.is_dir()
    with pillow_limit_lifted():
        if photo.is_dir():
            if there and not into_folder:
                raise WSSLError("out", out, "is a file", "name a folder for the results of a folder")
            jobs, alone, spare = pair_folders(photo, mask, out)
            if not jobs:
                raise WSSLError("photo", photo, f"no photo has a mask of its name in mask={mask}")
            missing = [f"{path}: no mask of this name in {mask}" for path in alone]
            of_models = {
                name: [replace(job, out=out / name / job.out.relative_to(out)) for job in jobs] if several else jobs
                for name in openers
            }
            with owned(out):
                check_outputs([job for jobs in of_models.values() for job in jobs], overwrite)
                if mask is not None and (note := judge_masks(jobs, mask, holes)):
                    print(f"Warning: {note}", flush=True)
                _fill_folders(of_models, missing, out, replace(holes, alone=False), openers)
            if spare:
                print(f"Note: {spare} masks are without a photo of their name", flush=True)
        else:
            if mask is not None and mask.is_dir():
                raise WSSLError("mask", mask, "is a folder, and the photo a file", "give two files or two folders")
            base = out / result_name(Path(photo.name)) if into_folder else out
            ends = {name: base.with_name(f"{base.stem}-{name}{base.suffix}") if several else base for name in openers}
            alone_jobs = {name: PhotoPaths(photo, mask, end) for name, end in ends.items()}
            check_outputs(list(alone_jobs.values()), overwrite)
            with ExitStack() as stack:
                for job in alone_jobs.values():
                    stack.enter_context(own_file(job.out, overwrite))
                for number, (name, job) in enumerate(alone_jobs.items()):
                    _fill_one(job, holes, openers[name], quiet=number > 0)


def _fill_one(job: "PhotoPaths", holes: "MaskOptions", open_inpainter: "OpenInpainter", quiet: bool) -> None:
    """Fill one photo; with `quiet` what was said of it for another model already is not repeated."""
    from tqdm import tqdm

    from wssl_pl.inference.folder import fill_file, load

    # What is wrong with the files shows before the model is loaded, which takes seconds.
    loaded = load(job, holes)
    for note in () if quiet else loaded.notes:
        print(f"Note: {note}", flush=True)
    inpainter = open_inpainter(threads=None)
    with tqdm(unit="px", unit_scale=True, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        fill_file(loaded, inpainter, progress)
    if job.lossy and not quiet:
        print(f"Note: {job.out} is a JPEG, which is lossy: a .png or .webp file keeps known pixels bit by bit")
    print(f"Written {job.out}", flush=True)


def _fill_folders(
    jobs: "Mapping[str, list[PhotoPaths]]",
    failed: list[str],
    out: Path,
    holes: "MaskOptions",
    openers: "Mapping[str, OpenInpainter]",
) -> None:
    from tqdm import tqdm

    from wssl_pl.devices import usable_cores
    from wssl_pl.inference.folder import fill_files

    lossy = done = 0
    failed = list(failed)
    for name, of_model in jobs.items():
        workers = min(usable_cores(), len(of_model))
        # One thread per photo keeps all cores busy, reading and writing included, and none of them waiting for others.
        inpainter = openers[name](threads=max(1, usable_cores() // workers))
        for job, notes, error in fill_files(of_model, inpainter, holes, workers):
            if error is not None:
                failed.append(_line(job, error))
                continue
            done += 1
            lossy += job.lossy
            for note in notes:
                tqdm.write(f"Note: {note}")
    if lossy:
        print(f"Note: {lossy} results are JPEGs, which are lossy: PNG and WebP photos keep known pixels bit by bit")
    print(f"Written {done} photos to {out}", flush=True)
    if failed:
        lines = [f"{len(failed)} photos were not filled:", *(f"  {line}" for line in sorted(failed))]
        raise SomeFailed(None, None, "\n".join(lines))


def _line(job: "PhotoPaths", error: Exception) -> str:
    """Return why a photo failed, in one line that names it."""
    text = " ".join(str(error).split())
    if not isinstance(error, WSSLError):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if isinstance(error, WSSLError) and error.parameter == "photo" else f"{job.photo}: {text}"


def _open(
    model: AnyModelFile, mask: Polarity | None, device: str, precision: InferencePrecision, threads: int | None
) -> "Inpainter":
    from wssl_pl.inference import Inpainter
    from wssl_pl.models import SHIPPED_LICENSE, find_model

    convention = {"mask": mask, "range": model.range, "size": model.size}
    try:
        with collector_at_rest() as collects:
            if collects and find_model(model.ckpt).suffix.lower() != ".onnx":
                import_torch()
        inpainter = Inpainter.from_checkpoint(model.ckpt, device, threads, precision, **convention)
    except WSSLError as error:
        # Here `mask` is the file.
        error.parameter = "model_mask" if error.parameter == "mask" else error.parameter
        raise
    info = inpainter.info
    network = f"at {info.side} px" if info.foreign else f"width {info.width}, trained at {info.side} px"
    bfloat16 = " in bfloat16" if inpainter.precision == "bf16-mixed" else ""
    print(f"Model: {info.name} ({network}) on {inpainter.device}{bfloat16}", flush=True)
    if info.training.get("license") == SHIPPED_LICENSE:
        print(f"Weights of the shipped model: {SHIPPED_LICENSE}", flush=True)
    return inpainter


def _open_method(name: str, threads: int | None) -> "Inpainter":
    from wssl_pl.inference import Inpainter

    inpainter = Inpainter.from_method(name)
    print(f"Method: {name}", flush=True)
    return inpainter


def _open_restoring(
    model: AnyModelFile, device: str, precision: InferencePrecision, threads: int | None
) -> "Inpainter":
    from wssl_pl.inference.restore import check_restores

    inpainter = _open(model, None, device, precision, threads)
    check_restores(inpainter.info)
    return inpainter
