"""Photo files in, photo files out: one, or folders of them on all cores."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wssl_pl.data.files import list_images
from wssl_pl.errors import WSSLError
from wssl_pl.files import writing
from wssl_pl.inference.engine import Progress
from wssl_pl.inference.inpainter import Inpainter
from wssl_pl.inference.masks import MaskOptions, find_mask, hole_fraction
from wssl_pl.inference.photo import FORMATS, PHOTO_SUFFIXES, Photo, output_format, read_photo, write_photo

SAMPLE = 16  # masks of a folder by which all are judged


@dataclass(frozen=True)
class PhotoPaths:
    """The files of one photo: the photo, its mask if it has one, and the result."""

    photo: Path
    mask: Path | None
    out: Path

    @property
    def lossy(self) -> bool:
        """Whether the result's format changes known pixels."""
        return output_format(self.out) == "JPEG"


@dataclass
class LoadedPhoto:
    """A photo that was read and whose mask was found.

    Attributes:
        paths: its files.
        photo: the photo.
        mask: `(H, W)`, True in the hole.
        notes: what the user should know.
        options: how the hole was found, and what is done.
    """

    paths: PhotoPaths
    photo: Photo
    mask: NDArray[np.bool_]
    notes: list[str]
    options: MaskOptions


def load(paths: PhotoPaths, options: MaskOptions) -> LoadedPhoto:
    """Read a photo, find its mask, and check that the result's format can hold it.

    Raises:
        WSSLError: photo or mask cannot be used, or the format cannot hold the result.
    """
    photo = read_photo(paths.photo, options.max_megapixels)
    mask, notes = find_mask(photo, paths.mask, options)
    output_format(paths.out, photo.opaque_in(mask))
    return LoadedPhoto(paths, photo, mask, [*(f"{paths.photo} {note}" for note in photo.notes), *notes], options)


def fill_file(loaded: LoadedPhoto, inpainter: Inpainter, progress: Progress | None = None) -> None:
    """Fill the hole, or restore all of the photo, and write the result.

    Raises:
        WSSLError: it cannot be written.
    """
    out = loaded.paths.out
    with writing("out", out):
        out.parent.mkdir(parents=True, exist_ok=True)
    if loaded.options.restores:
        filled = inpainter.restore_photo(loaded.photo, loaded.mask, progress)
    else:
        filled = inpainter.fill(loaded.photo, loaded.mask, progress, in_place=True, feather=loaded.options.feather)
    with writing("out", out):
        write_photo(filled, out)


def pair_folders(photos: Path, masks: Path | None, out: Path) -> tuple[list[PhotoPaths], list[Path], int]:
    """Pair the photos of a folder tree with their masks by path and name without suffix.

    Args:
        photos: the folder.
        masks: a folder of masks, one mask file for all photos, or None where photos mark their own holes.
        out: the folder of the results, which get the photos' names; inside `photos`, what it holds is no photo.

    Returns:
        the pairs, the photos without a mask, and the number of masks without a photo.

    Raises:
        WSSLError: no photo is found, or two masks have one name.
    """
    found = _without_results(photos, "photo", out)
    if not found:
        raise WSSLError("photo", photos, "holds no JPEG, PNG, WebP, TIFF or HEIC file")
    outputs = {path: out / result_name(path.relative_to(photos)) for path in found}
    first: dict[Path, Path] = {}
    for path, result in outputs.items():
        if (other := first.setdefault(result, path)) != path:
            raise WSSLError("photo", photos, f"the results of {other.name} and {path.name} would have one name")
    if masks is None or masks.is_file():
        return [PhotoPaths(path, masks, outputs[path]) for path in found], [], 0
    by_name: dict[Path, Path] = {}
    for path in _without_results(masks, "mask", out):
        other = by_name.setdefault(path.relative_to(masks).with_suffix(""), path)
        if other != path:
            raise WSSLError("mask", masks, f"{other.name} and {path.name} are masks of one name")
    pairs, alone = [], []
    for path in found:
        mask = by_name.pop(path.relative_to(photos).with_suffix(""), None)
        if mask is None:
            alone.append(path)
        else:
            pairs.append(PhotoPaths(path, mask, outputs[path]))
    return pairs, alone, len(by_name)


def _without_results(folder: Path, parameter: str, out: Path) -> list[Path]:
    """Return the photos of a folder tree, without those in the folder of the results where that is inside it."""
    found, results = list_images(folder, parameter, PHOTO_SUFFIXES), out.resolve()
    if folder.resolve() not in results.parents:
        return found
    return [path for path in found if not path.parent.resolve().is_relative_to(results)]


def result_name(photo: Path) -> Path:
    """Return the name of a photo's result: its own, or `.png` where the format is only read (TIFF, HEIC)."""
    return photo if photo.suffix.lower() in FORMATS else photo.with_suffix(".png")


def judge_masks(pairs: Sequence[PhotoPaths], masks: Path, options: MaskOptions) -> str | None:
    """Return a note if the masks of a folder mark most of their photos as hole, on average; None if not.

    Some of them are read; one that cannot be is omitted.
    """
    paths = sorted({each.mask for each in pairs if each.mask is not None})
    fractions = []
    for path in paths[:: -(-len(paths) // SAMPLE) or 1]:
        with suppress(WSSLError):
            fractions.append(hole_fraction(path, options))
    return options.suspicion(masks, sum(fractions) / len(fractions)) if fractions else None


def check_outputs(pairs: Sequence[PhotoPaths], overwrite: bool) -> None:
    """Raise `WSSLError` if an output exists, unless it may be overwritten, or is a photo or a mask itself."""
    inputs = {path.resolve() for each in pairs for path in (each.photo, each.mask) if path is not None}
    taken = []
    for each in pairs:
        output_format(each.out)
        own = [path for path in (each.photo, each.mask) if path is not None and path.exists()]
        # A hard link is the same file under another name.
        linked = each.out.exists() and any(each.out.samefile(path) for path in own)
        if linked or each.out.resolve() in inputs:
            raise WSSLError("out", each.out, "is the photo or the mask itself", "name another file")
        if each.out.is_dir():
            raise WSSLError("out", each.out, "is a folder", "name a file")
        if each.out.exists():
            taken.append(each.out)
    if taken and not overwrite:
        what = f"and {len(taken) - 1} more outputs exist already" if len(taken) > 1 else "exists already"
        raise WSSLError("out", taken[0], what, "name another, or add --overwrite")


class _Stopped(Exception):
    """Raised in the other threads when one ends the work."""


def fill_files(
    pairs: Sequence[PhotoPaths], inpainter: Inpainter, options: MaskOptions, workers: int
) -> Iterator[tuple[PhotoPaths, list[str], Exception | None]]:
    """Fill the photos of many files, several at once; a bad one does not stop the others.

    Yields:
        the files of each photo when it is done, with its notes and what made it fail, if anything did.
    """
    stop = threading.Event()

    def check(done: int, total: int) -> None:
        if stop.is_set():
            raise _Stopped

    def work(paths: PhotoPaths) -> list[str]:
        check(0, 0)
        loaded = load(paths, options)
        fill_file(loaded, inpainter, check)
        return loaded.notes

    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(work, paths): paths for paths in pairs}
        try:
            with tqdm(total=len(pairs), unit="photo", disable=None) as bar:
                for future in as_completed(futures):
                    paths, error = futures.pop(future), future.exception()
                    bar.update()
                    if error is None:
                        yield paths, future.result(), None
                    elif isinstance(error, Exception):
                        # Whatever went wrong with one photo, the others are still to be done.
                        yield paths, [], error
                    else:
                        raise error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
