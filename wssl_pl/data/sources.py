"""Open what `images` and `masks` name: a folder, a cache, or the synthetic dataset."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from wssl_pl.data.bucket import SCHEME, Bucket
from wssl_pl.data.cache import Cache, describe_duplicates, duplicates, looks_like_cache
from wssl_pl.data.decode import dilate
from wssl_pl.data.files import check_folder, find_damaged, find_images, find_tables, list_images
from wssl_pl.data.images import ArrayImages, FileImages, ImageSource
from wssl_pl.data.masks import MaskIndex, Masks, MaskScan, scan_masks, split_masks
from wssl_pl.data.shards import Folder, ShardImages, Shards, Store, looks_like_shards
from wssl_pl.data.splits import find_layout, split_images
from wssl_pl.errors import DataError, WSSLError
from wssl_pl.files import check_local

log = logging.getLogger(__name__)

SYNTHETIC = "synthetic"
DEFAULTS = {"images": "data/celeba_hq", "masks": "data/qd_imd"}

Damaged = list[tuple[str, str]]
"""Files and the reasons why they cannot be used."""


# On the first process only.
warn, tell = rank_zero_only(log.warning), rank_zero_only(log.info)


def default_source(parameter: str, cwd: Path = Path()) -> str:
    """Return the default folder of `images` or `masks` if it exists in a working folder, else `synthetic`."""
    return DEFAULTS[parameter] if (cwd / DEFAULTS[parameter]).is_dir() else SYNTHETIC


def resolve(parameter: str, value: str | Path | None) -> str:
    """Return the folder to read, or `synthetic`; without a value the default folder if it exists, else `synthetic`.

    Args:
        parameter: `images` or `masks`.
        value: What was given; a URL of a bucket is returned as it is.

    Raises:
        DataError: The folder does not exist, is no folder, or holds no image.
    """
    if value is None:
        return default_source(parameter)
    value = str(value)
    if value == SYNTHETIC:
        if Path(value).is_dir():
            warn(f"{parameter}={value} is the synthetic dataset: for the folder of this name set {parameter}=./{value}")
        return SYNTHETIC
    if value.startswith(SCHEME) and parameter == "images":
        return value
    check_local(parameter, value)
    folder = Path(value)
    if "*" in folder.name and folder.parent.is_dir():  # of `wssl pairs by=name`; as a data set it is refused later
        return value
    check_folder(
        parameter, folder, f"name a folder of JPEG, PNG or WebP files, or `{SYNTHETIC}` for the synthetic dataset"
    )
    if parameter == "images" and (looks_like_cache(folder) or looks_like_shards(folder)):
        return value
    if next(find_images(folder, parameter), None) is None:
        if next(find_tables(folder), None):
            remedy = f"run `wssl prepare images={value} out=CACHE` and set {parameter}=CACHE"
            raise DataError(parameter, value, "holds Parquet files", remedy)
        reason = "holds no JPEG, PNG or WebP file"
        raise DataError(parameter, value, reason, "name a folder (or a folder of folders) of them")
    return value


def refuse_damaged(parameter: str, damaged: Damaged, total: int, on_error: str) -> None:
    """Raise for damaged files, or warn in one line that they are omitted.

    Raises:
        DataError: `on_error` is `error` and there are any.
    """
    if not damaged:
        return
    first, why = damaged[0]
    if on_error == "error":
        reason = f"{why} ({len(damaged)} of {total} files cannot be used)"
        raise DataError(parameter, first, reason, "restore them, or omit them with on_error=skip")
    names = ", ".join(Path(file).name for file, _ in damaged[:3]) + (", ..." if len(damaged) > 3 else "")
    warn(f"{parameter}: {len(damaged)} of {total} files cannot be used and are omitted: {names}; the first one {why}")


class ImageSet:
    """The images of all splits.

    Attributes:
        layout: What was recognised.
        split_rule: How the images are divided.
        sizes: Images per split, as far as they are known.
        damaged: Files that were omitted so far.
    """

    def __init__(self, layout: str, split_rule: str, sizes: dict[str, int]) -> None:
        self.layout, self.split_rule, self.sizes = layout, split_rule, sizes
        self.damaged: Damaged = []
        self._opened: dict[str, ImageSource] = {}

    def open(self, split: str) -> ImageSource:
        """Return the images of a split.

        Raises:
            DataError: The split is empty, or a file is damaged and must not be omitted.
        """
        if split not in self._opened:
            self._opened[split] = self._read(split)
            self.sizes[split] = len(self._opened[split])
        return self._opened[split]

    def _read(self, split: str) -> ImageSource:
        raise NotImplementedError


class SyntheticImages(ImageSet):
    """The faces of the synthetic dataset, drawn at the right size."""

    def __init__(self, size: int, limit: int | None) -> None:
        super().__init__("synthetic dataset", "synthetic dataset", {})
        self.size, self.limit = size, limit

    def _read(self, split: str) -> ImageSource:
        from wssl_pl.synthetic import FACE_COUNTS, synthetic_faces

        count = min(self.limit or FACE_COUNTS[split], FACE_COUNTS[split])
        return ArrayImages(synthetic_faces(split, size=self.size, count=count))


def check_settings(made: Cache | Shards, what: str, size: int, resize_filter: str, split_rule: str) -> None:
    """Raise `WSSLError` if a cache or shards, named by `what`, were made with other settings than those wanted."""
    again = "prepare another one with this"
    if made.size not in (size, None):
        raise WSSLError("resize", size, f"{what} has {made.size} px", f"set resize={made.size}, or {again} size")
    if made.resize_filter not in (resize_filter, None):
        remedy = f"set resize_filter={made.resize_filter}, or {again} filter"
        raise WSSLError("resize_filter", resize_filter, f"{what} was made with {made.resize_filter}", remedy)
    # A rule may be followed by a remark on how it was applied.
    known = split_rule in ("auto", made.split_rule, made.split_rule.partition(",")[0])
    lists = made.split_rule.removeprefix("lists in ")
    if not known and (lists == made.split_rule or Path(lists).resolve() != Path(split_rule).resolve()):
        reason = f"{what} is split by {made.split_rule}"
        raise WSSLError("split_rule", split_rule, reason, f"omit it, or {again} rule")


class CacheImages(ImageSet):
    """The images of a prepared cache.

    Raises:
        DataError: It is unfinished, damaged or of another version.
        WSSLError: It has another size, filter or split rule.
    """

    def __init__(self, folder: Path, size: int, limit: int | None, split_rule: str, resize_filter: str) -> None:
        self.cache = cache = Cache(folder, "images")
        self.limit = limit
        sizes = {split: min(count, limit or count) for split, count in cache.sizes().items()}
        super().__init__(f"cache of {cache.layout}", cache.split_rule, sizes)
        check_settings(cache, f"the cache {folder}", size, resize_filter, split_rule)
        if counts := duplicates(cache.entries):
            warn(f"images={folder}: {describe_duplicates(counts)}: remove them and run `wssl prepare` again")
        if cache.skipped:
            tell(f"images={folder}: {len(cache.skipped)} files were skipped when it was made")

    def _read(self, split: str) -> ImageSource:
        rows = self.cache.split_rows(split)[: self.limit]
        if len(rows) == 0:
            remedy = "add images to the folder that it was made of, and run `wssl prepare` again"
            raise _empty(self.cache.folder, split, self.split_rule, remedy)
        return ArrayImages(self.cache.array_path, rows)


class ShardSet(ImageSet):
    """The images of shards, in a folder or in a bucket.

    Raises:
        DataError: They are unfinished, damaged or of another version, or the bucket cannot be read.
        WSSLError: They have another size, filter or split rule, or the chunks do not fit on the disk.
    """

    def __init__(
        self,
        store: Store,
        size: int,
        limit: int | None,
        split_rule: str,
        resize_filter: str,
        on_error: str,
    ) -> None:
        self.shards = shards = Shards(store)
        self.size, self.limit, self.resize_filter, self.on_error = size, limit, resize_filter, on_error
        sizes = {split: min(count, limit or count) for split, count in shards.sizes().items()}
        super().__init__(f"shards of {shards.layout}", shards.split_rule, sizes)
        check_settings(shards, f"the set of shards {store.root}", size, resize_filter, split_rule)
        if shards.duplicates:
            warn(f"images={store.root}: {describe_duplicates(shards.duplicates)}: remove them and prepare them again")
        if shards.omitted:
            tell(f"images={store.root}: {shards.omitted} files were skipped when it was made")

    def _read(self, split: str) -> ImageSource:
        if split not in self.shards.sizes():
            remedy = "add images to the folder that it was made of, and run `wssl prepare` again"
            raise _empty(self.shards.store.root, split, self.split_rule, remedy)
        images = ShardImages(self.shards, split, self.size, self.resize_filter)
        if missing := images.missing():
            refuse_damaged("images", missing, len(images.table), self.on_error)
            self.damaged += missing
        self.shards.store.check_room(images.table)
        return images if self.limit is None else images.take(np.arange(len(images))[: self.limit])


class FolderImages(ImageSet):
    """The images of a folder, checked when a split is opened and decoded at every read.

    Raises:
        WSSLError: `split_rule` does not fit.
    """

    def __init__(
        self, folder: Path, size: int, limit: int | None, split_rule: str, resize_filter: str, on_error: str
    ) -> None:
        self.folder, self.size, self.resize_filter, self.on_error = folder, size, resize_filter, on_error
        layout, root = find_layout(folder)
        files, split_rule = split_images(root, list_images(root), split_rule)
        self._files = {split: found[:limit] for split, found in files.items()}
        super().__init__(layout, split_rule, {split: len(found) for split, found in self._files.items()})

    def _read(self, split: str) -> ImageSource:
        files = self._files[split]
        damaged = find_damaged(files)
        refuse_damaged("images", damaged, len(files), self.on_error)
        self.damaged += damaged
        bad = {file for file, _ in damaged}
        whole = [file for file in files if str(file) not in bad]
        if not whole:
            raise _empty(self.folder, split, self.split_rule, self._remedy(split))
        return FileImages(whole, self.size, self.resize_filter)

    def _remedy(self, split: str) -> str:
        if self.split_rule.startswith("folders"):
            return f"add images in {self.folder / split}, or divide all of them with split_rule=hash"
        if self.split_rule.startswith("hash"):
            return (
                f"{sum(self.sizes.values())} images are too few to be divided by a hash (90 % train, 5 % val, 5 % "
                "test): add images, or sort them into train/, val/ and test/ folders"
            )
        return "add more images"


def _empty(folder: Path | str, split: str, split_rule: str, remedy: str) -> DataError:
    return DataError("images", folder, f"has no {split} images (split by {split_rule})", remedy)


def open_prepared(folder: Path, size: int = 256) -> CacheImages | ShardSet | None:
    """Open a cache or shards with the settings that they were made with; None for another folder.

    Args:
        folder: what `wssl prepare` has written.
        size: height and width in pixels of images that shards keep as they were; others have their own.

    Raises:
        DataError: They are unfinished, damaged or of another version.
    """
    if looks_like_cache(folder):
        cache = Cache(folder, "images")
        return CacheImages(folder, cache.size, None, "auto", cache.resize_filter)
    if looks_like_shards(folder):
        shards = Shards(Folder(folder))
        return ShardSet(Folder(folder), shards.size or size, None, "auto", shards.resize_filter or "lanczos", "skip")
    return None


def open_images(
    source: str,
    size: int,
    limit: int | None,
    split_rule: str,
    resize_filter: str,
    on_error: str,
    chunk_cache: str | None = None,
    chunk_cache_gb: float = 10.0,
) -> ImageSet:
    """Open a folder, a cache, shards, or the synthetic dataset; the arguments are those of `WSSLDataModule`."""
    if source == SYNTHETIC:
        return SyntheticImages(size, limit)
    if source.startswith(SCHEME):
        bucket = Bucket(source, chunk_cache, chunk_cache_gb)
        return ShardSet(bucket, size, limit, split_rule, resize_filter, on_error)
    if looks_like_shards(Path(source)):
        return ShardSet(Folder(Path(source)), size, limit, split_rule, resize_filter, on_error)
    if looks_like_cache(Path(source)):
        return CacheImages(Path(source), size, limit, split_rule, resize_filter)
    return FolderImages(Path(source), size, limit, split_rule, resize_filter, on_error)


class MaskSet:
    """The masks of all splits whose hole ratio is within the bounds.

    Attributes:
        layout: What was recognised.
        damaged: Files that were omitted so far.
        counts: Masks kept and in total, by `train` and `test`.
    """

    def __init__(self, layout: str, size: int, bounds: tuple[float, float], dilate: int) -> None:
        self.layout, self.size, self.bounds, self.dilate = layout, size, bounds, dilate
        self.damaged: Damaged = []
        self.counts: dict[str, dict[str, int]] = {}
        self._opened: dict[str, Masks] = {}

    def open(self, split: str) -> Masks:
        """Return the masks for a split of the images.

        Raises:
            DataError: No mask is left, or a file is damaged and must not be omitted.
        """
        part = self._part(split)
        if part not in self._opened:
            self._opened[part], total = self._read(part)
            self.counts[part] = {"kept": len(self._opened[part]), "total": total}
        return self._opened[part]

    def _part(self, split: str) -> str:
        return split

    def _read(self, part: str) -> tuple[Masks, int]:
        """Return the masks that are kept, and how many there are."""
        raise NotImplementedError


class SyntheticMasks(MaskSet):
    """The strokes of the synthetic dataset."""

    def _read(self, part: str) -> tuple[Masks, int]:
        from wssl_pl.synthetic import synthetic_masks

        arrays = synthetic_masks(part, size=self.size, ratio=self.bounds)
        count = len(arrays)
        if self.dilate:
            arrays = np.stack([dilate(mask.astype(bool), self.dilate) for mask in arrays]).astype(np.uint8)
            low, high = self.bounds
            ratios = arrays.mean(axis=(1, 2))
            arrays = arrays[(low <= ratios) & (ratios <= high)]
            if not len(arrays):
                reason = f"no synthetic mask has a hole of {low:.0%} to {high:.0%} after it"
                raise DataError("dilate", self.dilate, reason, "give a smaller one, or a larger hole_ratio")
        return Masks.from_arrays(arrays), count


class FolderMasks(MaskSet):
    """The masks of a folder, measured when a split is opened. Validation and test share theirs."""

    def __init__(
        self, folder: Path, size: int, bounds: tuple[float, float], dilate: int, hole: str, on_error: str
    ) -> None:
        self.folder, self.hole, self.on_error = folder, hole, on_error
        self._files, layout = split_masks(folder, list_images(folder, "masks"))
        super().__init__(layout, size, bounds, dilate)
        self._warned = False

    def _part(self, split: str) -> str:
        return "train" if split == "train" else "test"

    def _read(self, part: str) -> tuple[Masks, int]:
        files = self._files[part]
        if not files:
            raise self._empty(part)
        index = MaskIndex(self.folder, self.size, self.hole, self.dilate)
        scan = scan_masks(files, self.size, self.hole, self.bounds, self.dilate, index)
        index.save(path for paths in self._files.values() for path in paths)
        if scan.non_binary:
            warn(
                f"masks={self.folder}: {scan.non_binary} of {len(files)} {part} masks are not black and white alone: "
                "they are binarised at half"
            )
        refuse_damaged("masks", scan.damaged, len(files), self.on_error)
        self.damaged += scan.damaged
        self._check_polarity(scan, part)
        return scan.masks, len(files)

    def _empty(self, part: str) -> DataError:
        total = sum(map(len, self._files.values()))
        why = f"its {total} masks are too few to set 10 % aside for evaluation by a hash"
        if self.layout != "hash":
            why = f"it holds a {self.layout}, which is for evaluation"
        reason = f"has no masks for {'training' if part == 'train' else 'evaluation'}: {why}"
        return DataError("masks", self.folder, reason, "put masks into train/ and test/ folders")

    def _check_polarity(self, scan: MaskScan, part: str) -> None:
        low, high = self.bounds
        otherwise = f"with hole={'white' if self.hole == 'black' else 'black'} {scan.kept_otherwise} would be"
        if scan.kept == 0:
            reason = (
                f"none of {len(scan.ratios)} {part} masks has a hole of {low:.0%} to {high:.0%} with hole={self.hole} "
                f"({otherwise}); hole ratios: {scan.histogram()}"
            )
            raise DataError("masks", self.folder, reason, "change hole_ratio or hole")
        # Twice the standard deviation of the difference if both polarities were equally likely to keep a mask.
        margin = 2.0 * (scan.kept + scan.kept_otherwise) ** 0.5
        if scan.kept_otherwise - scan.kept > margin and not self._warned:
            self._warned = True
            warn(
                f"masks={self.folder}: {scan.kept} of {len(scan.ratios)} {part} masks are kept with hole={self.hole}, "
                f"{otherwise}: is the polarity right?"
            )


def open_masks(source: str, size: int, bounds: Sequence[Any], dilate: int, hole: str, on_error: str) -> MaskSet:
    """Open a folder of masks, or the synthetic dataset; the arguments are those of `WSSLDataModule`."""
    low, high = bounds
    if source == SYNTHETIC:
        return SyntheticMasks("synthetic dataset", size, (low, high), dilate)
    return FolderMasks(Path(source), size, (low, high), dilate, hole, on_error)
