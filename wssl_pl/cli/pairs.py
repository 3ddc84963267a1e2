"""`wssl pairs` and `wssl show data`: what the data module gives, as files."""

from collections import Counter
from inspect import signature
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse.typing import NonNegativeInt, PositiveInt

from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.output import new_folder, own_file
from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.pairs import Pairs, write_named_pairs, write_pairs

PAIRS_FILES = ("images", "masks", "inputs", "pairs.csv", "README.md", "manifest.json")
OF_DRAWN_PAIRS = (
    "image_size", "resize", "hole_ratio", "dilate", "limit", "train_images", "split_rule", "resize_filter", "on_error",
)  # fmt: skip


def pairs(
    *,
    out: Path,
    split: Literal["train", "val", "test"] = "test",
    by: Literal["draw", "name"] = "draw",
    restore: list[str] | None = None,
    undamaged: float = 0.0,
    overwrite: bool = False,
    data: WSSLDataModule,
) -> Pairs:
    """Write a fixed list of images and masks, as PNG files, for any program to run on.

    Example:
        wssl pairs out=PAIRS images=DIR masks=DIR split=test
        wssl pairs out=PAIRS images=DIR masks=DIR restore=saturation,sharpness

    Args:
        out: the folder to write, new or empty
        split: the split that is written
        by: draw a mask for each image of the split, or take the mask of its file name
        restore: damages of the inputs, such as saturation,sharpness, or class paths of your own
        undamaged: with restore, probability that a damage leaves an image as it is, as model.undamaged
        overwrite: replace pairs that exist
        data: the images and masks
    """
    silence_messages()
    if undamaged and not restore:
        raise WSSLError("undamaged", undamaged, "there are no damages", "give restore=..., or omit it")
    if paths := [name for name in restore or [] if "." in name]:
        from wssl_pl.tasks import import_task

        for path in paths:
            import_task(path)
    with new_folder(out, overwrite, PAIRS_FILES) as folder:
        if by == "draw":
            write_pairs(data, split, folder, restore=restore, undamaged=undamaged)
        else:
            images, masks = data.hparams["images"], data.hparams["masks"]
            if images is None or masks is None:
                raise WSSLError("by", by, "needs images= and masks=")
            defaults = {name: each.default for name, each in signature(WSSLDataModule).parameters.items()}
            unused = {"split": (split, "test")}
            unused |= {name: (data.hparams[name], defaults[name]) for name in OF_DRAWN_PAIRS}
            for name, (value, default) in unused.items():
                if np.any(np.asarray(value) != np.asarray(default)):
                    raise WSSLError(name, value, "is not for by=name, which takes files as they are", "omit it")
            write_named_pairs(images, masks, folder, data.hole, restore, data.pair_seed, undamaged)
    written = Pairs.open(out)
    counts = sorted(Counter(pair.bin for pair in written.pairs).items())
    print(f"{len(written)} pairs in {out}: " + ", ".join(f"{name} %: {count}" for name, count in counts))
    if written.manifest.restore:
        print(f"Inputs damaged by {', '.join(written.manifest.restore)}")
    print(f"Hash {written.manifest.hash}", flush=True)
    return written


def show_data(
    *,
    out: Path = Path("show_data.png"),
    split: Literal["train", "val", "test"] = "train",
    count: PositiveInt = 8,
    epoch: NonNegativeInt = 0,
    overwrite: bool = False,
    data: WSSLDataModule,
) -> Path:
    """Draw a batch as training gets it into an image file.

    Example:
        wssl show data images=DIR masks=DIR split=val

    Args:
        out: the image file
        split: the split that is shown
        count: number of samples
        epoch: the epoch whose random crops and masks are shown
        overwrite: replace a file that exists
        data: the images and masks
    """
    silence_messages()
    from wssl_pl.data.show import draw_batch, first_batch

    with own_file(out, overwrite):
        batch = first_batch(data, split, count, epoch)
        path = draw_batch(data, batch, out, f"{data.images}, {split}, epoch {epoch}")
    print(f"Drawn to {path}", flush=True)
    return path
