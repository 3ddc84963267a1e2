"""Open what ``data.images`` and ``data.masks`` name: a folder, or the synthetic dataset."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from wssl_pl.data.cache import Cache, CachedImages, describe_duplicates, duplicates, looks_like_cache
from wssl_pl.data.decode import dilate
from wssl_pl.data.files import find_damaged, find_images, list_images
from wssl_pl.data.images import ArrayImages, FileImages, ImageSource
from wssl_pl.data.layouts import find_layout
from wssl_pl.data.mask_index import MaskIndex
from wssl_pl.data.masks import Masks, MaskScan, scan_masks, split_masks
from wssl_pl.data.splits import split_images
from wssl_pl.errors import DataError, UsageError

log = logging.getLogger(__name__)

SYNTHETIC = "synthetic"
OLD_NAME = "sample"  # of the synthetic dataset, in configurations of earlier versions
DEFAULTS = {"data.images": "data/celeba_hq", "data.masks": "data/qd_imd"}

Skipped = list[tuple[str, str]]


@rank_zero_only
def warn(message: str) -> None:
    """Log a warning on the first process only."""
    log.warning(message)


@rank_zero_only
def tell(message: str) -> None:
    """Log what is worth knowing once, on the first process only."""
    log.info(message)


def resolve(parameter: str, value: str | None) -> str:
    """Return the folder to read, or `synthetic`; without a value the default folder if it exists, else `synthetic`.

    Raises:
        DataError: A folder was named that does not exist, is none, or holds no image.
    """
    if value is None:
        return DEFAULTS[parameter] if Path(DEFAULTS[parameter]).is_dir() else SYNTHETIC
    if value in (SYNTHETIC, OLD_NAME):
        if Path(value).is_dir():
            warn(
                f"{parameter}={value} is the synthetic dataset: for the folder of this name give {parameter}=./{value}"
            )
        return SYNTHETIC
    folder = Path(value)
    if not folder.exists():
        raise DataError(
            f"{parameter}={value} does not exist: name a folder of images, or `{SYNTHETIC}` for the synthetic dataset"
        )
    if not folder.is_dir():
        raise DataError(f"{parameter}={value} is not a folder: name a folder of JPEG, PNG or WebP files")
    if parameter == "data.images" and looks_like_cache(folder):
        return value
    if next(find_images(folder, parameter), None) is None:
        if next(folder.rglob("*.parquet"), None):
            raise DataError(
                f"{parameter}={value} holds Parquet files: run `wssl prepare images={value} out=CACHE` "
                f"and give {parameter}=CACHE"
            )
        raise DataError(
            f"{parameter}={value} holds no JPEG, PNG or WebP file: name a folder (or a folder of folders) of them"
        )
    return value


def drop_damaged(parameter: str, damaged: Skipped, total: int, on_error: str) -> None:
    """Raise for damaged files, or warn in one line that they are left out.

    Raises:
        DataError: ``on_error`` is ``error`` and there are any.
    """
    if not damaged:
        return
    first, why = damaged[0]
    if on_error == "error":
        raise DataError(
            f"{parameter}: {first} {why} ({len(damaged)} of {total} files are damaged): "
            "restore them, or leave them out with data.on_error=skip"
        )
    names = ", ".join(Path(file).name for file, _ in damaged[:3]) + (", ..." if len(damaged) > 3 else "")
    warn(f"{parameter}: {len(damaged)} of {total} files are damaged and left out: {names}; the first one {why}")


class Images:
    """The images of all splits.

    Args:
        source: A folder, or ``synthetic``.
        resize: Side in pixels to which images are resized.
        on_error: ``error`` or ``skip``: what to do about damaged files.
        limit: Use the first so many of each split.
        rule: How a folder is divided; see :func:`~wssl_pl.data.splits.split_images`. A cache is divided already.
        resize_filter: How images are resized; the synthetic ones are drawn at the right size.

    Raises:
        DataError: A cache is unfinished, damaged or of another version.
        UsageError: A cache has another size, filter or split than asked for, or ``rule`` does not fit.
    """

    def __init__(
        self,
        source: str,
        resize: int,
        on_error: str,
        limit: int | None,
        rule: str = "auto",
        resize_filter: str = "lanczos",
    ) -> None:
        self.source = source
        self.resize = resize
        self.resize_filter = resize_filter
        self.on_error = on_error
        self.limit = limit
        self.skipped: Skipped = []
        self.files: dict[str, list[Path]] = {}
        self.cache: Cache | None = None
        self.layout = self.split = "synthetic dataset"
        if source != SYNTHETIC and looks_like_cache(Path(source)):
            self.cache = self._cache(Path(source), rule)
            self.layout, self.split = f"cache of {self.cache.manifest['layout']}", self.cache.manifest["split"]
        elif source != SYNTHETIC:
            found = find_layout(Path(source))
            self.layout = found.name
            self.files, self.split = split_images(found.folder, list_images(found.folder, "data.images"), rule)
        self._open: dict[str, ImageSource] = {}

    def open(self, split: str) -> ImageSource:
        """The images of a split; its files are checked the first time.

        Raises:
            DataError: The split is empty, or a file is damaged and ``on_error`` is ``error``.
        """
        if split not in self._open:
            if self.cache is not None:
                self._open[split] = self._cached(self.cache, split)
            else:
                self._open[split] = self._synthetic(split) if self.source == SYNTHETIC else self._folder(split)
        return self._open[split]

    def sizes(self) -> dict[str, int]:
        """Images per split, as far as they are known without opening it."""
        sizes = {split: len(files[: self.limit]) for split, files in self.files.items()}
        if self.cache is not None:
            sizes = {split: min(count, self.limit or count) for split, count in self.cache.sizes().items()}
        return sizes | {split: len(images) for split, images in self._open.items()}

    def _synthetic(self, split: str) -> ImageSource:
        from wssl_pl.synthetic import FACE_COUNTS, synthetic_faces

        count = FACE_COUNTS[split] if self.limit is None else min(self.limit, FACE_COUNTS[split])
        return ArrayImages(synthetic_faces(split, size=self.resize, count=count))

    def _cache(self, folder: Path, rule: str) -> Cache:
        cache = Cache(folder, "data.images")
        if cache.size != self.resize:
            raise UsageError(
                f"data.images={folder} is a cache of {cache.size} px and data.resize={self.resize}: "
                f"set data.resize={cache.size}, or prepare another one with size={self.resize}"
            )
        if cache.resize_filter != self.resize_filter:
            raise UsageError(
                f"data.resize_filter={self.resize_filter}: the cache {folder} was made with {cache.resize_filter}: "
                f"give data.resize_filter={cache.resize_filter}, or prepare another one with "
                f"resize_filter={self.resize_filter}"
            )
        # A rule may be followed by a remark on how it was applied.
        if rule not in ("auto", cache.manifest["split"], cache.manifest["split"].partition(",")[0]):
            raise UsageError(
                f"data.split={rule}: the cache {folder} is split by {cache.manifest['split']}; "
                f"divide it anew by `wssl prepare ... split={rule}`"
            )
        if shared := duplicates(cache.entries):
            warn(f"data.images={folder}: {describe_duplicates(shared)}: remove them and run `wssl prepare` again")
        if count := cache.manifest["skipped"]["count"]:
            tell(f"data.images={folder}: {count} files were skipped when it was made, see {folder / 'skipped.csv'}")
        return cache

    def _cached(self, cache: Cache, split: str) -> ImageSource:
        rows = cache.split_rows(split)[: self.limit]
        if len(rows) == 0:
            raise self._empty(split)
        return CachedImages(cache.array_path, rows)

    def _folder(self, split: str) -> ImageSource:
        files = self.files[split][: self.limit]
        damaged = find_damaged(files)
        drop_damaged("data.images", damaged, len(files), self.on_error)
        self.skipped += damaged
        bad = {file for file, _ in damaged}
        whole = [file for file in files if str(file) not in bad]
        if not whole:
            raise self._empty(split)
        return FileImages(whole, self.resize, self.resize_filter)

    def _empty(self, split: str) -> DataError:
        total = sum(self.sizes().values())
        remedy = "add more images"
        if self.split.startswith("folders"):
            remedy = f"add images in {Path(self.source) / split}, or divide all of them with data.split=hash"
        elif self.split == "hash":
            remedy = (
                f"{total} images are too few to be divided by a hash (90 % train, 5 % val, 5 % test): add images, or "
                "sort them into train/, val/ and test/ folders"
            )
        if self.cache is not None:
            remedy = "add images to the folder that it was made of, and run `wssl prepare` again"
        return DataError(f"data.images={self.source} has no {split} images (split by {self.split}): {remedy}")


class MaskSets:
    """The masks of all splits that lie within the hole ratio.

    Args:
        source: A folder, or ``synthetic``.
        size: Side in pixels.
        hole: ``black`` or ``white``: which brightness is the hole.
        bounds: Smallest and largest hole ratio, inclusive.
        on_error: ``error`` or ``skip``: what to do about damaged files.
        dilate: Pixels by which holes are widened.
    """

    def __init__(
        self, source: str, size: int, hole: str, bounds: Sequence[float], on_error: str, dilate: int = 0
    ) -> None:
        self.source = source
        self.size = size
        self.hole = hole
        self.bounds = (bounds[0], bounds[1])
        self.on_error = on_error
        self.dilate = dilate
        self.skipped: Skipped = []
        self.layout = "synthetic dataset"
        self._open: dict[str, Masks] = {}
        self._files: dict[str, list[Path]] | None = None
        self._warned = False
        self.counts: dict[str, dict[str, int]] = {}

    def open(self, split: str) -> Masks:
        """The masks for a split of the images; validation and test share theirs.

        Raises:
            DataError: No mask is left, or a file is damaged and ``on_error`` is ``error``.
        """
        part = split if self.source == SYNTHETIC or split == "train" else "test"
        if part not in self._open:
            self._open[part] = self._synthetic(part) if self.source == SYNTHETIC else self._folder(part)
        return self._open[part]

    def _synthetic(self, part: str) -> Masks:
        from wssl_pl.synthetic import synthetic_masks

        arrays = synthetic_masks(part, size=self.size, ratio=self.bounds)
        if self.dilate:
            arrays = np.stack([dilate(mask.astype(bool), self.dilate) for mask in arrays]).astype(np.uint8)
        masks = Masks.from_arrays(arrays)
        self.counts[part] = {"kept": len(masks), "total": len(masks)}
        return masks

    def _folder(self, part: str) -> Masks:
        root = Path(self.source)
        if self._files is None:
            self._files, self.layout = split_masks(root, list_images(root, "data.masks"))
        files = self._files[part]
        if not files:
            raise self._empty(part)
        index = MaskIndex(root, self.size, self.hole, self.dilate)
        scan = scan_masks(files, self.size, self.hole, self.bounds, self.dilate, index)
        index.save(path for paths in self._files.values() for path in paths)
        if scan.non_binary:
            warn(
                f"data.masks={self.source}: {scan.non_binary} of {len(files)} {part} masks are not black and white "
                "alone: they are binarised at half"
            )
        drop_damaged("data.masks", scan.damaged, len(files), self.on_error)
        self.skipped += scan.damaged
        self._check_polarity(scan, part)
        self.counts[part] = {"kept": scan.kept, "total": len(files)}
        return scan.masks

    def _empty(self, part: str) -> DataError:
        assert self._files is not None
        total = sum(map(len, self._files.values()))
        reason = f"its {total} masks are too few to set 10 % aside for evaluation by a hash"
        if self.layout != "hash":
            reason = f"it holds a {self.layout}, which is for evaluation"
        return DataError(
            f"data.masks={self.source} has no masks for {'training' if part == 'train' else 'evaluation'}: {reason}: "
            "put masks into train/ and test/ folders"
        )

    def _check_polarity(self, scan: MaskScan, part: str) -> None:
        low, high = self.bounds
        other = "white" if self.hole == "black" else "black"
        otherwise = f"with data.hole={other} {scan.kept_otherwise} would be"
        if scan.kept == 0:
            raise DataError(
                f"data.masks={self.source}: none of {len(scan.ratios)} {part} masks has a hole of {low:.0%} to "
                f"{high:.0%} with data.hole={self.hole} ({otherwise}); hole ratios: {scan.histogram()}: "
                "change data.hole_ratio or data.hole"
            )
        # Twice the standard deviation of the difference if both polarities were equally likely to keep a mask.
        margin = 2.0 * (scan.kept + scan.kept_otherwise) ** 0.5
        if scan.kept_otherwise - scan.kept > margin and not self._warned:
            self._warned = True
            warn(
                f"data.masks={self.source}: {scan.kept} of {len(scan.ratios)} {part} masks are kept with "
                f"data.hole={self.hole}, {otherwise}: is the polarity right?"
            )
