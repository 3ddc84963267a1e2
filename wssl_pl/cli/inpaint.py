"""`wssl inpaint`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat

from wssl_pl.cli.options import AnyModelFile, import_encoder
from wssl_pl.cli.output import own_file
from wssl_pl.errors import SomeFailed, WSSLError
from wssl_pl.files import check_readable, owned, writing
from wssl_pl.models.info import Polarity

if TYPE_CHECKING:
    from wssl_pl.inference import Inpainter
    from wssl_pl.inference.folder import PhotoPaths
    from wssl_pl.inference.masks import MaskOptions


def inpaint(
    photo: Path,
    mask: Path | None = None,
    *,
    out: Path,
    hole: Literal["white", "black"] = "white",
    hole_color: str = "",
    dilate: NonNegativeInt = 0,
    resize_mask: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    max_megapixels: PositiveFloat = 100.0,
    model_mask: Polarity | None = None,
    model: AnyModelFile,
) -> None:
    """Fill the holes of a photo, or of a folder of photos. A mask is white where the hole is.

    Example:
        wssl inpaint photo.png mask.png -o filled.png
        wssl inpaint photos/ masks/ -o filled/ ckpt=runs/downstream/<run>/best.ckpt

    Args:
        photo: JPEG, PNG or WebP file, or a folder of them
        mask: its mask, or a folder of masks of the same names; default: see hole_color
        out: the result, or the folder of the results; also -o
        hole: brightness of the hole in the mask
        hole_color: without a mask, the colour that marks the hole, as #ff00ff; default: transparent pixels are the hole
        dilate: pixels by which holes are widened
        resize_mask: resize a mask of another size to the photo's
        overwrite: replace results that exist
        device: auto, cpu, cuda, cuda:N or mps
        max_megapixels: refuse larger photos, in millions of pixels
        model_mask: of an ONNX file of another project: where its mask is 1; default: by its inputs
        model: the model file

    Raises:
        SomeFailed: photos of a folder could not be filled; the others were.
    """
    if mask is not None and hole_color:
        raise WSSLError("hole_color", hole_color, "a mask is given too", "give one of them")
    for name, path in (("photo", photo), ("mask", mask)):
        if path is not None:
            check_readable(path, name)

    import_encoder(model.encoder)

    from wssl_pl.inference.folder import PhotoPaths, check_outputs, pair_folders
    from wssl_pl.inference.masks import MaskOptions

    holes = MaskOptions(hole, hole_color or None, dilate, resize_mask, max_megapixels)
    open_inpainter = partial(_open, model, model_mask, device)
    with writing("out", out):  # a closed folder
        there, into_folder = out.exists(), out.is_dir()
    with _pillow_limit_lifted():
        if photo.is_dir():
            if there and not into_folder:
                raise WSSLError("out", out, "is a file", "name a folder for the results of a folder")
            jobs, alone, spare = pair_folders(photo, mask, out)
            if not jobs:
                raise WSSLError("photo", photo, f"no photo has a mask of its name in mask={mask}")
            missing = [f"{path}: no mask of this name in {mask}" for path in alone]
            with owned(out):
                check_outputs(jobs, overwrite)
                _fill_folder(jobs, missing, out, holes, open_inpainter)
            if spare:
                print(f"Note: {spare} masks are without a photo of their name", flush=True)
        else:
            if mask is not None and mask.is_dir():
                raise WSSLError("mask", mask, "is a folder, and the photo a file", "give two files or two folders")
            job = PhotoPaths(photo, mask, out / photo.name if into_folder else out)
            check_outputs([job], overwrite)
            with own_file(job.out, overwrite):
                _fill_one(job, holes, open_inpainter)


def _fill_one(job: "PhotoPaths", holes: "MaskOptions", open_inpainter: "Callable[..., Inpainter]") -> None:
    from tqdm import tqdm

    from wssl_pl.inference.folder import fill_file, load

    # What is wrong with the files shows before the model is loaded, which takes seconds.
    loaded = load(job, holes)
    inpainter = open_inpainter(threads=None)
    with tqdm(unit="px", unit_scale=True, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        fill_file(loaded, inpainter, progress)
    for note in loaded.notes:
        print(f"Note: {note}")
    if job.lossy:
        print(f"Note: {job.out} is a JPEG, which is lossy: a .png or .webp file keeps known pixels bit by bit")
    print(f"Written {job.out}", flush=True)


def _fill_folder(
    jobs: "list[PhotoPaths]",
    failed: list[str],
    out: Path,
    holes: "MaskOptions",
    open_inpainter: "Callable[..., Inpainter]",
) -> None:
    from tqdm import tqdm

    from wssl_pl.devices import usable_cores
    from wssl_pl.inference.folder import fill_files

    workers = min(usable_cores(), len(jobs))
    # One thread per photo keeps all cores busy, reading and writing included, and none of them waiting for others.
    inpainter = open_inpainter(threads=max(1, usable_cores() // workers))
    lossy = done = 0
    for job, notes, error in fill_files(jobs, inpainter, holes, workers):
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


def _open(model: AnyModelFile, mask: Polarity | None, device: str, threads: int | None) -> "Inpainter":
    from wssl_pl.inference import Inpainter
    from wssl_pl.models import SHIPPED_LICENSE

    convention = {"mask": mask, "range": model.range, "size": model.size}
    try:
        inpainter = Inpainter.from_checkpoint(model.ckpt, device, threads, **convention)
    except WSSLError as error:
        # Here `mask` is the file.
        error.parameter = "model_mask" if error.parameter == "mask" else error.parameter
        raise
    info = inpainter.info
    network = f"at {info.side} px" if info.foreign else f"width {info.width}, trained at {info.side} px"
    print(f"Model: {info.name} ({network}) on {inpainter.device}", flush=True)
    if model.ckpt is None:
        print(f"Weights of the shipped model: {SHIPPED_LICENSE}", flush=True)
    return inpainter


@contextmanager
def _pillow_limit_lifted() -> Iterator[None]:
    """Lift Pillow's limit against decompression bombs, one for the whole process: ours is checked before it."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
