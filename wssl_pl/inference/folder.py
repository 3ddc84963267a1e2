"""Photo files in, photo files out: one, or folders of them on all cores."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wssl_pl.data.files import list_images
from wssl_pl.errors import UsageError
from wssl_pl.inference.engine import Progress, fill_all
from wssl_pl.inference.holes import HoleOptions, find_hole
from wssl_pl.inference.inpainter import Inpainter
from wssl_pl.inference.photo import Photo, check_holds, check_output, read_photo, write_photo


@dataclass(frozen=True)
class Job:
    """One photo: where it is, its mask if it has one, and where the result goes."""

    photo: Path
    mask: Path | None
    out: Path


@dataclass
class Work:
    """A photo that was read and whose hole was found.

    Attributes:
        job: the files.
        photo: the photo, with the transparency that the result will have.
        hole: `(H, W)`, True in the hole.
        notes: what the user should know.
        lossy: whether the result's format changes known pixels.
    """

    job: Job
    photo: Photo
    hole: NDArray[np.bool_]
    notes: list[str]
    lossy: bool


def read_work(job: Job, options: HoleOptions) -> Work:
    """Reads a photo, finds its hole, and checks that the result's format can hold it.

    Raises:
        UsageError: photo or mask cannot be used, or the format does not do.
    """
    form = check_output(job.out)
    photo = read_photo(job.photo, options.max_megapixels)
    hole, notes = find_hole(photo, job.mask, options)
    if photo.alpha is not None and job.mask is None and options.hole_color is None:
        # The hole was where it was transparent: what is filled in is there to be seen.
        photo.alpha[hole] = np.iinfo(photo.alpha.dtype).max
    transparent = photo.alpha is not None and bool((photo.alpha < np.iinfo(photo.alpha.dtype).max).any())
    check_holds(job.out, form, photo.pixels.dtype, transparent)
    return Work(job, photo, hole, notes, form == "JPEG")


def finish_work(work: Work, inpainter: Inpainter, progress: Progress | None = None) -> None:
    """Fills the hole and writes the result.

    Raises:
        OSError: it cannot be written.
    """
    photo = work.photo
    fill_all([photo.pixels], [work.hole], inpainter.backend, inpainter.scheme, progress, in_place=True)
    write_photo(photo, work.job.out)


def pair_folders(photos: Path, masks: Path | None, out: Path) -> tuple[list[Job], list[Path], int]:
    """The photos of a folder tree with their masks, paired by path and name without suffix.

    Args:
        photos: the folder.
        masks: a folder of masks, one mask file for all photos, or None where photos mark their own holes.
        out: the folder of the results, which get the photos' names.

    Returns:
        the jobs, the photos without a mask, and how many masks are without a photo.

    Raises:
        UsageError: no photo is found, or two masks have one name.
    """
    found = list_images(photos, "photo")
    if not found:
        raise UsageError(f"photo={photos} holds no JPEG, PNG or WebP file")
    if masks is None or masks.is_file():
        return [Job(path, masks, out / path.relative_to(photos)) for path in found], [], 0
    by_name: dict[Path, Path] = {}
    for path in list_images(masks, "mask"):
        name = path.relative_to(masks).with_suffix("")
        if name in by_name:
            raise UsageError(f"mask={masks}: {by_name[name].name} and {path.name} are masks of one name")
        by_name[name] = path
    jobs, alone = [], []
    for path in found:
        mask = by_name.pop(path.relative_to(photos).with_suffix(""), None)
        if mask is None:
            alone.append(path)
        else:
            jobs.append(Job(path, mask, out / path.relative_to(photos)))
    return jobs, alone, len(by_name)


def check_outputs(jobs: Sequence[Job], overwrite: bool) -> None:
    """Raises `UsageError` if an output exists, unless it may be overwritten, or is a photo or a mask itself."""
    inputs = {path.resolve() for job in jobs for path in (job.photo, job.mask) if path is not None}
    taken = []
    for job in jobs:
        check_output(job.out)
        if job.out.resolve() in inputs or _same_file(job):
            raise UsageError(f"out={job.out} is the photo or the mask itself: name another")
        if job.out.is_dir():
            raise UsageError(f"out={job.out} is a folder")
        if job.out.exists():
            taken.append(job.out)
    if taken and not overwrite:
        more = f" and {len(taken) - 1} more outputs exist" if len(taken) > 1 else " exists"
        raise UsageError(f"out={taken[0]}{more} already: name another, or add --overwrite")


def _same_file(job: Job) -> bool:
    """Whether the output is the photo or the mask by another name, a hard link."""
    inputs = [path for path in (job.photo, job.mask) if path is not None and path.exists()]
    return job.out.exists() and any(job.out.samefile(path) for path in inputs)


class _Stopped(Exception):
    """Another thread asks this one to leave its photo."""


def inpaint_files(
    jobs: Sequence[Job], inpainter: Inpainter, options: HoleOptions, workers: int
) -> Iterator[tuple[Job, Work | None, str]]:
    """Fills the photos of many files, several at once; a bad one does not keep the others from being done.

    Yields:
        each job when it is done, with its work, or with None and why it failed.
    """
    stop = threading.Event()

    def leave(done: int, total: int) -> None:
        if stop.is_set():
            raise _Stopped

    def do(job: Job) -> Work:
        leave(0, 0)
        work = read_work(job, options)
        job.out.parent.mkdir(parents=True, exist_ok=True)
        finish_work(work, inpainter, leave)
        work.photo.pixels = work.photo.pixels[:0]  # the result is on the disk; a list of them would fill the memory
        return work

    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(do, job): job for job in jobs}
        try:
            with tqdm(total=len(jobs), unit="photo", disable=None) as bar:
                for future in as_completed(futures):
                    job, error = futures.pop(future), future.exception()
                    bar.update()
                    if error is None:
                        yield job, future.result(), ""
                    elif isinstance(error, Exception):
                        # Whatever went wrong with one photo, the others are still to be done.
                        yield job, None, _line(error)
                    else:
                        raise error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UsageError) else f"{type(error).__name__}: {text}".removesuffix(": ")
