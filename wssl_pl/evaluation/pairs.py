"""A folder of fixed (image, mask) pairs that any program can be run on."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from wssl_pl.data import WSSLDataModule
from wssl_pl.data.draws import permutation
from wssl_pl.data.images import FileImages
from wssl_pl.data.masks import Masks
from wssl_pl.data.sources import tell, warn
from wssl_pl.errors import DataError, UsageError, WSSLError
from wssl_pl.metrics.bins import bin_of

README = """\
# {count} pairs of images and hole masks

`images/NAME.png` is the true picture, `masks/NAME.png` its mask: **white (255) is the hole**, black (0) is known. Both
are {size} px on a side. Fill the hole of each image, save the whole picture as 8-bit RGB `NAME.png` of the same size in
a folder, and measure it with `wssl evaluate pairs=THIS_FOLDER predictions=YOUR_FOLDER out=RESULTS`.

`pairs.csv` lists the pairs with hole ratio, ratio bin in percent (upper bound included) and the SHA-256 of each file.
`manifest.json` tells how they were made; its `hash` is that of all pixels, and results are compared only where it is
the same.
"""


MAX_REPEATS = 4.0
"""How many times as often as the average mask those of one bin may be used."""


@dataclass(frozen=True)
class Pair:
    """One line of `pairs.csv`; `ratio` is the share of the image that is hole."""

    name: str
    image: str
    mask: str
    ratio: float
    bin: str
    image_sha256: str
    mask_sha256: str
    source: str


COLUMNS = [field.name for field in fields(Pair)]


def write_pairs(datamodule: WSSLDataModule, split: str, out: str | Path, batch_size: int = 64) -> "Pairs":
    """Pairs every image of a split (its centre crop) with one mask and writes them as PNG, in order and repeatably.

    The images take the hole-ratio bins in turn, so that every bin that the data module's bounds allow gets as many as
    the others, also in any beginning of the list; a bin with too few masks for that gets fewer. Within a bin masks
    are drawn without repetition until all were used. Masks without a hole, or without a known pixel, are omitted.
    Masks that are used several times are reported, with counts.

    Args:
        datamodule: images, masks and bounds; `pair_seed` is the seed.
        split: `train`, `val` or `test`.
        out: a folder that is empty or does not exist.
        batch_size: images held in memory at once.

    Raises:
        UsageError: no such split, or the folder holds something.
        DataError: the data cannot be used, see `WSSLDataModule.setup`.
    """
    stages = {"train": "fit", "val": "validate", "test": "test"}
    if split not in stages:
        raise UsageError(f"split={split} is not a split; there are {', '.join(stages)}")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"out={folder} holds something already: name a new folder, or empty it")
    datamodule.setup(stages[split])
    dataset = getattr(datamodule, f"{split}_dataloader")().dataset
    images, masks = dataset.images, dataset.masks
    ratios = mask_ratios(masks)
    chosen = assign_masks(ratios, len(images), datamodule.pair_seed)
    repeats = report_repeats(chosen, datamodule.masks)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    side = datamodule.image_size
    margin = (datamodule.resize - side) // 2
    pixels = hashlib.sha256()
    pairs: list[Pair] = []
    failed: list[str] = []
    for start in range(0, len(images), batch_size):
        indices = np.arange(start, min(start + batch_size, len(images)))
        batch, failures = images.read(indices)
        if failures and datamodule.on_error == "error":
            raise DataError(f"data.images: {failures[0][1]}: restore it, or leave it out with data.on_error=skip")
        failed += [message for _, message in failures]
        indices = np.delete(indices, [position for position, _ in failures])
        holes = masks.read(chosen[indices])[:, 0]
        for index, image, hole in zip(indices, batch, holes, strict=True):
            name = f"{index:05d}"
            image = np.ascontiguousarray(image[margin : margin + side, margin : margin + side])
            mask = hole * np.uint8(255)
            pixels.update(name.encode() + image.tobytes() + mask.tobytes())
            image_file, mask_file = f"images/{name}.png", f"masks/{name}.png"
            hashes = _save(image, folder / image_file), _save(mask, folder / mask_file)
            ratio = float(ratios[chosen[index]])
            source = Path(images.paths[index]).name if isinstance(images, FileImages) else ""
            pairs.append(
                Pair(name, image_file, mask_file, round(ratio, 6), bin_of(ratio), hashes[0], hashes[1], source)
            )
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(pair) for pair in pairs)
    (folder / "README.md").write_text(README.format(count=len(pairs), size=side))
    manifest = {
        "hash": pixels.hexdigest(),
        "pairs_csv_sha256": _sha256(folder / "pairs.csv"),
        "count": len(pairs),
        "size": side,
        "split": split,
        "hole_in_masks": "white",
        "left_out": failed,
        "masks": repeats,
        "data": datamodule.describe(),
    }
    # Written last: a folder without it was not finished.
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
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
        DataError: every mask is all hole or no hole.
    """
    usable = np.flatnonzero((ratios > 0) & (ratios < 1))
    if not len(usable):
        raise DataError("data.masks: every mask within data.hole_ratio is all hole or no hole")
    groups: dict[str, list[int]] = {}
    for number in usable:
        groups.setdefault(bin_of(float(ratios[number])), []).append(int(number))
    ordered = [
        np.array(groups[name])[permutation(seed, turn, len(groups[name]))] for turn, name in enumerate(sorted(groups))
    ]
    sizes = np.array([len(group) for group in ordered])
    shares = _shares(MAX_REPEATS * max(1.0, count / sizes.sum()) * sizes / max(1, count))
    used = np.zeros(len(ordered), np.int64)
    chosen = np.empty(count, np.int64)
    for index in range(count):
        # The bin that is furthest behind its share; with equal shares they simply take turns.
        group = int(np.argmax(shares * (index + 1) - used))
        chosen[index] = ordered[group][used[group] % sizes[group]]
        used[group] += 1
    return chosen


def _shares(limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return equal shares of 1, none above its limit; the limits add up to more than 1."""
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
    line = f"data.masks={source}: {len(chosen)} images share {used} masks, one of them {most} times"
    if most > MAX_REPEATS:
        warn(f"{line}: add masks, or widen data.hole_ratio")
    elif most > 1:
        tell(line)
    return {"used": used, "most": most}


def _save(array: NDArray[np.uint8], path: Path) -> str:
    Image.fromarray(array).save(path)
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Pairs:
    """A pairs folder that was checked against its hashes.

    Attributes:
        folder: where it lies.
        pairs: its lines, in order.
        manifest: what `manifest.json` says; `hash` identifies the pairs.
        label: what a result says about where they came from; the folder unless it is a passing one.
    """

    def __init__(self, folder: Path, pairs: list[Pair], manifest: dict[str, Any]) -> None:
        self.folder, self.pairs, self.manifest = folder, pairs, manifest
        self.label = str(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "Pairs":
        """Opens and checks a folder.

        Raises:
            UsageError: it is none that `wssl pairs` finished, or a file in it was changed or is gone.
        """
        folder = Path(folder)
        if not (folder / "manifest.json").is_file() or not (folder / "pairs.csv").is_file():
            raise UsageError(f"pairs={folder} is not a finished pairs folder: make one with `wssl pairs out={folder}`")
        again = "make the pairs again with `wssl pairs`"
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            expected = manifest["hash"], manifest["size"], manifest["pairs_csv_sha256"]
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"pairs={folder}: manifest.json cannot be read: {again}") from None
        if _sha256(folder / "pairs.csv") != expected[2]:
            raise UsageError(f"pairs={folder}: pairs.csv was changed since it was written (hash): {again}")
        with (folder / "pairs.csv").open(newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        pairs = [Pair(**(row | {"ratio": float(row["ratio"])})) for row in rows]
        changed = []
        for pair in pairs:
            for name, digest in ((pair.image, pair.image_sha256), (pair.mask, pair.mask_sha256)):
                if not (folder / name).is_file():
                    changed.append(f"{name} (gone)")
                elif _sha256(folder / name) != digest:
                    changed.append(name)
        if changed:
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise UsageError(f"pairs={folder} was changed (hash): {', '.join(changed[:4])}{more}: {again}")
        return cls(folder, pairs, manifest)

    def __len__(self) -> int:
        return len(self.pairs)

    def check_output(self, folder: Path) -> None:
        """Raise `WSSLError` if a folder to write to is that of the pairs."""
        if folder.resolve() == self.folder.resolve():
            raise WSSLError("out", folder, "is the pairs folder", "name another one")

    @property
    def size(self) -> int:
        """The side of the images in pixels."""
        return int(self.manifest["size"])

    def read(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Images `(B, 3, H, W)` uint8 and masks `(B, 1, H, W)` uint8, 1 = hole."""
        images = [np.asarray(Image.open(self.folder / pair.image)) for pair in pairs]
        masks = [np.asarray(Image.open(self.folder / pair.mask)) > 127 for pair in pairs]
        return (
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(np.stack(masks)).to(torch.uint8)[:, None],
        )

    def describe(self) -> dict[str, Any]:
        """What a result keeps of them, in plain types."""
        data = self.manifest.get("data", {})
        return {"folder": self.label, "hash": self.manifest["hash"], "count": len(self), "data": data}
