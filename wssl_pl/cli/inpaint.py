"""`wssl inpaint`: fills the holes of a photo, or of a folder of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wssl_pl.cli.verb_words import Options, flag, read_options
from wssl_pl.errors import SomeFailed, UsageError, WSSLError

if TYPE_CHECKING:
    from wssl_pl.inference import Inpainter
    from wssl_pl.inference.folder import PhotoPaths
    from wssl_pl.inference.masks import MaskOptions

OPTIONS: Options = {
    "photo": (Path, None, "JPEG, PNG or WebP, or a folder of them"),
    "mask": (Path, None, "its mask, or a folder of masks of the same names; left out: see hole_color"),
    "out": (Path, None, "the result, or the folder for the results; also -o"),
    "ckpt": (Path, None, ".ckpt, .safetensors, .onnx or an exported folder; the shipped model if left out"),
    "hole": (str, "white", "which brightness of the mask is the hole: white or black"),
    "hole_color": (str, None, "without a mask: the colour that marks the hole, as #ff00ff; else transparency does"),
    "dilate": (int, 0, "pixels by which holes are widened"),
    "resize_mask": (flag, False, "bring a mask of another size to the photo's"),
    "overwrite": (flag, False, "replace results that exist"),
    "device": (str, "auto", "auto, cpu, cuda, cuda:N or mps"),
    "max_megapixels": (float, 100.0, "refuse pictures of more million pixels"),
}
DESCRIPTION = """\
Fills the holes of a photo; a mask is white where the hole is. Folders are paired by name.
  train.py inpaint photo.png mask.png -o filled.png
  train.py inpaint photos/ masks/ -o filled/ ckpt=runs/downstream/<run>/best.ckpt"""


def run(args: Sequence[str]) -> None:
    """Runs `wssl inpaint` with the arguments after the verb.

    Raises:
        UsageError: something in them cannot be used as given.
        SomeFailed: photos of a folder could not be done; the others were.
    """
    options = read_options("inpaint", args, OPTIONS, ("photo", "mask"), DESCRIPTION, {"o": "out"})
    if options is None:
        return
    for name in ("photo", "out"):
        if options[name] is None:
            raise UsageError(f"inpaint needs {name}: inpaint PHOTO MASK -o OUT")
    photo, mask, out = options["photo"], options["mask"], options["out"]
    if mask is not None and options["hole_color"] is not None:
        raise UsageError(f"mask={mask} and hole_color={options['hole_color']}: give one of them")
    for name in ("photo", "mask"):
        if options[name] is not None and not options[name].exists():
            raise UsageError(f"{name}={options[name]} does not exist")

    from wssl_pl.inference.folder import PhotoPaths, check_outputs, pair_folders
    from wssl_pl.inference.masks import MaskOptions

    names = ("hole", "hole_color", "dilate", "resize_mask", "max_megapixels")
    hole_options = MaskOptions(**{name: options[name] for name in names})
    with _own_limit():
        if photo.is_dir():
            if out.exists() and not out.is_dir():
                raise UsageError(f"out={out} is a file: name a folder for the results of a folder")
            jobs, alone, spare = pair_folders(photo, mask, out)
            check_outputs(jobs, options["overwrite"])
            _fill_folder(jobs, alone, options, hole_options)
            if spare:
                print(f"Note: {spare} masks are without a photo of their name", flush=True)
        else:
            if mask is not None and mask.is_dir():
                raise UsageError(f"mask={mask} is a folder, photo={photo} a file: give two files or two folders")
            job = PhotoPaths(photo, mask, out / photo.name if out.is_dir() else out)
            check_outputs([job], options["overwrite"])
            if not job.out.parent.is_dir():
                raise UsageError(f"out={job.out}: the folder {job.out.parent} does not exist")
            _fill_one(job, options, hole_options)


def _fill_one(job: "PhotoPaths", options: dict[str, Any], hole_options: "MaskOptions") -> None:
    from tqdm import tqdm

    from wssl_pl.inference.folder import fill_file, load

    # What is wrong with the files shows before the model is loaded, which takes seconds.
    loaded = load(job, hole_options)
    inpainter = _load(options, threads=None)
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
    jobs: "list[PhotoPaths]", alone: list[Path], options: dict[str, Any], hole_options: "MaskOptions"
) -> None:
    from tqdm import tqdm

    from wssl_pl.devices import usable_cores
    from wssl_pl.inference.folder import fill_files

    if not jobs:
        raise UsageError(f"photo={options['photo']}: no photo has a mask of its name in mask={options['mask']}")
    workers = min(usable_cores(), len(jobs))
    # One thread per photo keeps all cores busy, reading and writing included, and none of them waiting for others.
    inpainter = _load(options, threads=max(1, usable_cores() // workers))
    failed = [f"{path}: no mask of this name in {options['mask']}" for path in alone]
    lossy = done = 0
    for job, notes, error in fill_files(jobs, inpainter, hole_options, workers):
        if error is not None:
            failed.append(_line(job, error))
            continue
        done += 1
        lossy += job.lossy
        for note in notes:
            tqdm.write(f"Note: {note}")
    if lossy:
        print(f"Note: {lossy} results are JPEGs, which are lossy: PNG and WebP photos keep known pixels bit by bit")
    print(f"Written {done} photos to {options['out']}", flush=True)
    if failed:
        lines = [f"{len(failed)} photos were left out:", *(f"  {line}" for line in sorted(failed))]
        raise SomeFailed("\n".join(lines))


def _line(job: "PhotoPaths", error: Exception) -> str:
    """Return why a photo failed, in one line that names it."""
    text = " ".join(str(error).split())
    if not isinstance(error, WSSLError):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if isinstance(error, WSSLError) and error.parameter == "photo" else f"{job.photo}: {text}"


def _load(options: dict[str, Any], threads: int | None) -> "Inpainter":
    from wssl_pl.inference import Inpainter
    from wssl_pl.models import SHIPPED_LICENSE

    inpainter = Inpainter.from_checkpoint(options["ckpt"], options["device"], threads)
    info = inpainter.info
    network = f"at {info.side} px" if info.foreign else f"width {info.width}, trained at {info.side} px"
    print(f"Model: {info.name} ({network}) on {inpainter.device}", flush=True)
    if options["ckpt"] is None:
        print(f"Weights of the shipped model: {SHIPPED_LICENSE}", flush=True)
    return inpainter


@contextmanager
def _own_limit() -> Iterator[None]:
    """Lifts Pillow's limit against decompression bombs, one for the whole process: ours is checked before it."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
