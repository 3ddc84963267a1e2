"""A folder of fixed (image, mask) pairs that any program can be run on."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from pyarrow import csv as arrow_csv
from torch import Tensor

from wssl_pl.data import WSSLDataModule
from wssl_pl.data.decode import binarised
from wssl_pl.data.draws import permutation
from wssl_pl.data.exif import upright_image
from wssl_pl.data.files import FORMATS
from wssl_pl.data.images import FileImages
from wssl_pl.data.masks import Masks
from wssl_pl.data.sources import tell, warn
from wssl_pl.data.splits import SPLITS
from wssl_pl.errors import DataError, WSSLError
from wssl_pl.evaluation.files import join, match_files, read_rgb, reading
from wssl_pl.evaluation.inputs import Damaging, Entry
from wssl_pl.evaluation.pages import render
from wssl_pl.evaluation.results import numbers
from wssl_pl.files import sha256, write_json, writing
from wssl_pl.metrics.bins import bin_of
from wssl_pl.records import read_json

MAX_REPEATS = 4.0
"""How many times as often as the average mask those of one bin may be used."""


@dataclass(frozen=True)
class Pair:
    """One line of `pairs.csv`; `ratio` is the fraction of the image that is hole, `input` the damaged image if any."""

    name: str
    image: str
    mask: str
    ratio: float
    bin: str
    image_sha256: str
    mask_sha256: str
    source: str
    input: str = ""
    input_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` holds.

    Attributes:
        hash: of the names and pixels of all pairs.
        pairs_csv_sha256: of the list.
        count: how many pairs there are.
        size: their side in pixels; None unless they are squares of one size.
        hole_in_masks: the colour of the hole.
        split: of the data; None for a user's own pairs.
        omitted: images that could not be read.
        masks: how many different masks there are, and in how many pairs the most frequent one is.
        data: where images and masks come from.
        restore: the damages of the inputs, in the order in which they were applied; none where the input is the image.
        undamaged: probability with which each damage has left an image as it is.
    """

    hash: str
    pairs_csv_sha256: str
    count: int
    size: int | None
    hole_in_masks: str = "white"
    split: str | None = None
    omitted: list[str] = field(default_factory=list)
    masks: dict[str, int] | None = None
    data: Any = None
    restore: list[str] = field(default_factory=list)
    undamaged: float = 0.0

    def __post_init__(self) -> None:
        json.dumps(self.data, allow_nan=False)  # a ValueError at once, and not when a result is written that holds it


class PairList(Sequence[Pair]):
    """Pairs as columns of text and numbers, some 200 bytes each; a `Pair` is made when it is asked for.

    Args:
        table: a row per pair, a column per field of `Pair`.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> "PairList": ...

    def __getitem__(self, index: int | slice) -> "Pair | PairList":
        if isinstance(index, slice):
            rows = range(*index.indices(len(self)))
            if rows.step == 1:
                return PairList(self.table.slice(rows.start, len(rows)))
            return self.take(rows)
        (row,) = self.table.slice(range(len(self))[index], 1).to_pylist()
        return Pair(**row)

    def __iter__(self) -> Iterator[Pair]:
        for batch in self.table.to_batches(max_chunksize=1024):
            for row in batch.to_pylist():
                yield Pair(**row)

    def take(self, rows: Sequence[int]) -> "PairList":
        """Return the pairs of these rows."""
        return PairList(self.table.take(numbers(np.fromiter(rows, np.int64, len(rows)))))


COLUMNS = {field.name: pa.float64() if field.type is float else pa.string() for field in fields(Pair)}
OF_INPUTS = ("input", "input_sha256")
"""Columns that only pairs with damaged inputs have; after them `STRENGTH` of each damage."""
STRENGTH = "strength_{}"


def write_pairs(
    datamodule: WSSLDataModule,
    split: str,
    out: str | Path,
    batch_size: int = 64,
    restore: Sequence[str] | None = None,
    undamaged: float = 0.0,
) -> "Pairs":
    """Pair every image of a split (its centre crop) with one mask and write them as PNG, in order and repeatably.

    The images take the hole-ratio bins in turn, so that every bin that the data module's bounds allow gets as many as
    the others, also in any beginning of the list; a bin with too few masks for that gets fewer. Within a bin masks
    are drawn without repetition until all were used. Masks without a hole, or without a known pixel, are omitted.
    Masks that are used several times are reported, with counts.

    Args:
        datamodule: images, masks and bounds; `pair_seed` is the seed.
        split: `train`, `val` or `test`.
        out: a folder that is empty or does not exist.
        batch_size: images held in memory at once.
        restore: damages of the inputs, as `Damages` takes them; of `val` and `test` those that validation draws.
        undamaged: probability that a damage leaves an image as it is, as in training.

    Raises:
        WSSLError: There is no such split or damage, or the folder is not empty.
        DataError: The data cannot be used, see `WSSLDataModule.setup`.
    """
    if split not in SPLITS:
        raise WSSLError("split", split, f"is not one of {', '.join(SPLITS)}")
    folder = _new_folder(out)
    damage = None if restore is None else Damaging(restore, datamodule.pair_seed, split, undamaged)
    datamodule.setup(split)
    dataset = getattr(datamodule, f"{split}_dataloader")().dataset
    images, masks = dataset.images, dataset.masks
    chosen = assign_masks(mask_ratios(masks), len(images), datamodule.pair_seed)
    repeats = report_repeats(chosen, datamodule.masks)
    spare = (datamodule.resize - datamodule.image_size) // 2
    crop = slice(spare, spare + datamodule.image_size)
    failed: list[str] = []

    def entries() -> Iterator[Entry]:
        for start in range(0, len(images), batch_size):
            indices = np.arange(start, min(start + batch_size, len(images)))
            batch, failures = images.read(indices)
            if failures and datamodule.on_error == "error":
                first = failures[0][1]
                raise DataError("images", first.value, first.reason, "restore it, or omit it with on_error='skip'")
            failed.extend(str(error) for _, error in failures)
            indices = np.delete(indices, [position for position, _ in failures])
            for index, image, mask in zip(indices, batch, masks.read(chosen[indices])[:, 0], strict=True):
                source = Path(images.paths[index]).name if isinstance(images, FileImages) else ""
                source = source.encode(errors="replace").decode()  # of names that are not UTF-8
                entry = Entry(f"{index:05d}", np.ascontiguousarray(image[crop, crop]), mask, source)
                yield entry if damage is None else damage(entry, int(index), image, spare)

    # `failed` is complete when the entries were written.
    facts = {"split": split, "omitted": failed, "masks": repeats, "data": datamodule.describe()}
    names = [] if damage is None else damage.names
    return write_entries(folder, entries(), names, **facts, undamaged=undamaged)


def write_named_pairs(
    images: str | Path,
    masks: str | Path,
    out: str | Path,
    hole: Literal["black", "white"] = "black",
    restore: Sequence[str] | None = None,
    seed: int = 0,
    undamaged: float = 0.0,
) -> "Pairs":
    """Pair images and masks by the names of their files and write them as PNG, neither cropped nor resized.

    Args:
        images: a folder, whose files are pairs by their names without suffix; or a pattern such as `DIR/*_image.png`,
            whose `*` is the name.
        masks: the same for the masks.
        out: a folder that is empty or does not exist.
        hole: which of both colours is the hole.
        restore: damages of the inputs, as `Damages` takes them.
        seed: of their strengths.
        undamaged: probability that a damage leaves an image as it is.

    Raises:
        WSSLError: The folder is not empty, or there is no such damage.
        DataError: Images or masks are missing, cannot be read, or are of different sizes.

    Example:
        `write_named_pairs("examples/images", "examples/masks", "pairs")`, or from one folder
        `write_named_pairs("examples/*.png", "examples/*_mask.png", "pairs", hole="white")`.
    """
    folder = _new_folder(out)
    damage = None if restore is None else Damaging(restore, seed, "named", undamaged)
    image_files, mask_files = match_files(images, "images"), match_files(masks, "masks")
    names = [name for name in image_files if name in mask_files]
    if not names:
        raise DataError("masks", masks, f"no mask has the name of an image ({join(list(image_files), 2)})")
    without = [name for name in image_files if name not in mask_files]
    # In a folder that holds images, masks and results side by side, not every file is an image of a pair.
    if without and next(iter(image_files.values())).parent != next(iter(mask_files.values())).parent:
        raise DataError("masks", masks, f"{len(without)} images have no mask: {join(without)}")
    if spare := [name for name in without if image_files[name] not in mask_files.values()]:
        warn(f"images={images}: {len(spare)} have no mask and are in no pair: {join(spare)}")
    if alone := [name for name in mask_files if name not in image_files]:
        raise DataError("images", images, f"{len(alone)} masks have no image: {join(alone)}")

    def entries() -> Iterator[Entry]:
        for number, name in enumerate(names):
            image = read_rgb(image_files[name])
            mask = _read_mask(mask_files[name], bright=hole == "white")
            if mask.shape != image.shape[:2]:
                sizes = [f"{width} x {height} px" for height, width in (mask.shape, image.shape[:2])]
                raise DataError("masks", mask_files[name], f"is {sizes[0]}, its image {sizes[1]}")
            entry = Entry(name, image, mask, image_files[name].name)
            yield entry if damage is None else damage(entry, number, image, 0)

    facts = {"images": str(images), "masks": str(masks), "hole": hole, "by": "name"}
    names_of_damages = [] if damage is None else damage.names
    return write_entries(folder, entries(), names_of_damages, data=facts, undamaged=undamaged)


def _read_mask(path: Path, *, bright: bool) -> NDArray[np.uint8]:
    with reading("masks", path), Image.open(path, formats=FORMATS) as opened:
        mask = binarised(upright_image(opened), bright=bright)[0]
        return (np.asarray(mask) > 127).astype(np.uint8)


def _new_folder(out: str | Path) -> Path:
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WSSLError("out", folder, "is not empty", "name a new folder, or empty it")
    return folder


def write_entries(folder: Path, entries: Iterable[Entry], restore: list[str], **facts: Any) -> "Pairs":
    """Write pairs into a new folder.

    Args:
        folder: the folder.
        entries: the pairs, in order; with their damaged images if there are damages.
        restore: names of the damages.
        facts: what else `manifest.json` holds, see `Manifest`.

    Raises:
        WSSLError: it cannot be written.
    """
    pixels = hashlib.sha256()
    count, sizes = 0, set()
    columns = [name for name in COLUMNS if restore or name not in OF_INPUTS]
    with ExitStack() as stack:
        with writing("out", folder):
            for name in ("images", "masks", *(["inputs"] if restore else [])):
                (folder / name).mkdir(parents=True, exist_ok=True)
            writer = csv.writer(stack.enter_context((folder / "pairs.csv").open("w", newline="")), lineterminator="\n")
            writer.writerow([*columns, *map(STRENGTH.format, restore)])
        for entry in entries:
            count += 1
            white = entry.mask * np.uint8(255)
            given = [] if entry.given is None else [("inputs", entry.given)]
            pixels.update(entry.name.encode())
            files, hashes, ratio = [], [], float(entry.mask.mean())
            for kind, array in (("images", entry.image), ("masks", white), *given):
                pixels.update(array.tobytes())
                files.append(f"{kind}/{entry.name}.png")
                with writing("out", folder):
                    hashes.append(_save(array, folder / files[-1]))
            row = [entry.name, *files[:2], round(ratio, 6), bin_of(ratio), *hashes[:2], entry.source]
            with writing("out", folder):
                writer.writerow([*row, *files[2:], *hashes[2:], *entry.strengths.values()])
            sizes.add((white.shape[1], white.shape[0]))
        with writing("out", folder):
            stack.close()
    width, height = sizes.pop() if len(sizes) == 1 else (None, None)
    size = f"All are {width} x {height} px" if width else "They differ in size"
    with writing("out", folder):
        (folder / "README.md").write_text(render("pairs.md.j2", count=count, size=size, restore=restore))
        manifest = Manifest(
            hash=pixels.hexdigest(),
            pairs_csv_sha256=sha256(folder / "pairs.csv"),
            count=count,
            size=width if width == height else None,
            restore=restore,
            **facts,
        )
        # Written last: a folder without it is not finished.
        write_json(folder / "manifest.json", asdict(manifest))
    return Pairs.open(folder)


def mask_ratios(masks: Masks, chunk: int = 1024) -> NDArray[np.float64]:
    """The hole ratio of each mask, `(N,)`."""
    counts = [np.bitwise_count(masks.bits[i : i + chunk]).sum(axis=1) for i in range(0, len(masks), chunk)]
    return np.concatenate(counts) / masks.size**2


def assign_masks(ratios: NDArray[np.float64], count: int, seed: int) -> NDArray[np.int64]:
    """Return for each of `count` images the number of its mask, the ratio bins in turn.

    A bin whose masks would be used more than `MAX_REPEATS` times as often as the average mask gets fewer images: with
    masks of 30 to 50 %, one of exactly 30 % is alone in its bin, and would get a third of all images.

    Raises:
        DataError: Every mask is all hole or no hole.
    """
    usable = np.flatnonzero((ratios > 0) & (ratios < 1))
    if not len(usable):
        raise DataError("masks", None, "every mask within hole_ratio is all hole or no hole")
    groups: dict[str, list[int]] = {}
    for number in usable:
        groups.setdefault(bin_of(float(ratios[number])), []).append(int(number))
    ordered = [
        np.array(groups[name])[permutation(seed, turn, len(groups[name]))] for turn, name in enumerate(sorted(groups))
    ]
    sizes = np.array([len(group) for group in ordered])
    fractions = _equal_fractions(MAX_REPEATS * max(1.0, count / sizes.sum()) * sizes / max(1, count))
    used = np.zeros(len(ordered), np.int64)
    chosen = np.empty(count, np.int64)
    for index in range(count):
        # The bin that is furthest behind its fraction; with equal ones they simply take turns.
        group = int(np.argmax(fractions * (index + 1) - used))
        chosen[index] = ordered[group][used[group] % sizes[group]]
        used[group] += 1
    return chosen


def _equal_fractions(limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return equal fractions of 1, none above its limit; the limits add up to more than 1."""
    limited = np.zeros(len(limits), bool)
    while True:
        equal = (1.0 - limits[limited].sum()) / (~limited).sum()
        above = ~limited & (limits < equal)
        if not above.any():
            return np.where(limited, limits, equal)
        limited |= above


def report_repeats(chosen: NDArray[np.int64], source: str) -> dict[str, int]:
    """Log how often masks are repeated, if they are.

    Args:
        chosen: the number of each image's mask.
        source: where the masks come from, for the message.

    Returns:
        `used`: how many different masks there are, `most`: in how many pairs the most frequent one is.
    """
    uses = np.bincount(chosen)
    used, most = int((uses > 0).sum()), int(uses.max(initial=0))
    line = f"masks={source}: {len(chosen)} images share {used} masks, one of them {most} times"
    if most > MAX_REPEATS:
        warn(f"{line}: add masks, or widen hole_ratio")
    elif most > 1:
        tell(line)
    return {"used": used, "most": most}


def _read_csv(path: Path, columns: dict[str, pa.DataType]) -> pa.Table:
    options = arrow_csv.ConvertOptions(column_types=columns, include_columns=list(columns))
    lines = arrow_csv.ParseOptions(newlines_in_values=True)  # of names of files
    return arrow_csv.read_csv(path, parse_options=lines, convert_options=options)


def _save(array: NDArray[np.uint8], path: Path) -> str:
    Image.fromarray(array).save(path)
    return sha256(path)


def _changed(folder: Path, pair: Pair, restore: bool) -> Iterator[str]:
    """Yield the files of a pair that are missing, changed, or by their path or a link outside of the folder."""
    home = os.path.realpath(folder)
    files = [(pair.image, pair.image_sha256), (pair.mask, pair.mask_sha256)]
    for name, digest in [*files, (pair.input, pair.input_sha256)] if restore else files:
        if not Path(os.path.realpath(folder / name)).is_relative_to(home):
            yield f"{name} (outside of the folder)"
        elif not (folder / name).is_file():
            yield f"{name} (missing)"
        elif sha256(folder / name) != digest:
            yield name


class Pairs:
    """A pairs folder that was checked against its hashes.

    Attributes:
        folder: where it is.
        pairs: its lines, in order.
        manifest: what `manifest.json` holds.
        label: where they come from, for a result; the folder unless it is a temporary one.
    """

    def __init__(self, folder: Path, pairs: PairList, manifest: Manifest) -> None:
        self.folder, self.pairs, self.manifest = folder, pairs, manifest
        self.label = str(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "Pairs":
        """Open and check a folder.

        Raises:
            DataError: `wssl pairs` did not write it, or a file in it was changed or is missing.
        """
        folder = Path(folder)
        with reading("pairs", folder):
            if not (folder / "manifest.json").is_file() or not (folder / "pairs.csv").is_file():
                remedy = "write one with `wssl pairs out=NEW_FOLDER`"
                if (folder / "images").is_dir() and (folder / "masks").is_dir():
                    source = f"images={folder}/images masks={folder}/masks"
                    remedy = f"`wssl pairs {source} by=name out=NEW_FOLDER` writes one"
                raise DataError("pairs", folder, "is not a finished pairs folder", remedy)
            again = "write the pairs again with `wssl pairs`"
            manifest: Manifest = read_json(folder / "manifest.json", Manifest, "pairs", again)
            if sha256(folder / "pairs.csv") != manifest.pairs_csv_sha256:
                raise DataError("pairs", folder, "its pairs.csv was changed since it was written (hash)", again)
            restore = bool(manifest.restore)
            names = [name for name in COLUMNS if restore or name not in OF_INPUTS]
            pairs = PairList(_read_csv(folder / "pairs.csv", {name: COLUMNS[name] for name in names}))
            changed = [text for pair in pairs for text in _changed(folder, pair, restore)]
            if changed or not pairs:
                raise DataError("pairs", folder, f"was changed (hash): {join(changed, 4) or 'it has no pairs'}", again)
        return cls(folder, pairs, manifest)

    def __len__(self) -> int:
        return len(self.pairs)

    def size_of(self, pair: Pair) -> tuple[int, int]:
        """Return the width and height of a pair in pixels."""
        if self.manifest.size:
            return self.manifest.size, self.manifest.size
        with reading("pairs", self.folder / pair.image), Image.open(self.folder / pair.image, formats=FORMATS) as image:
            return image.size

    @cached_property
    def strengths(self) -> dict[str, dict[str, float]]:
        """The strength of each damage of each input, by the pair's name."""
        columns = {name: pa.float64() for name in map(STRENGTH.format, self.manifest.restore)}
        with reading("pairs", self.folder):
            rows = _read_csv(self.folder / "pairs.csv", {"name": COLUMNS["name"], **columns}).to_pylist()
        return {row["name"]: {damage: row[STRENGTH.format(damage)] for damage in self.manifest.restore} for row in rows}

    def batches(self, pairs: PairList, batch_size: int) -> Iterator[PairList]:
        """Yield the pairs in batches of one size each, in order."""
        start = 0
        for _, group in groupby(pairs if not self.manifest.size else (), self.size_of):
            end = start + sum(1 for _ in group)
            yield from (pairs[first : min(first + batch_size, end)] for first in range(start, end, batch_size))
            start = end
        yield from (pairs[first : first + batch_size] for first in range(start, len(pairs), batch_size))

    def read(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Return images `(B, 3, H, W)` uint8 and masks `(B, 1, H, W)` uint8, 1 = hole, of pairs of one size."""
        with reading("pairs", self.folder):
            masks = np.stack([np.asarray(Image.open(self.folder / pair.mask, formats=FORMATS)) > 127 for pair in pairs])
            return self._read_rgb(pair.image for pair in pairs), torch.from_numpy(masks).to(torch.uint8)[:, None]

    def read_inputs(self, pairs: Sequence[Pair]) -> Tensor:
        """Return what a method is given of pairs of one size, without the hole: the damaged images, or the images."""
        with reading("pairs", self.folder):
            return self._read_rgb(pair.input or pair.image for pair in pairs)

    def _read_rgb(self, names: Iterable[str]) -> Tensor:
        images = np.stack([np.asarray(Image.open(self.folder / name, formats=FORMATS)) for name in names])
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
