"""`wssl advise`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from wssl_pl.cli.messages import pillow_limit_lifted, silence_messages
from wssl_pl.cli.options import import_own
from wssl_pl.errors import WSSLError

if TYPE_CHECKING:
    from wssl_pl.inference.diagnosis import Diagnosis

LOOKED_AT = 50  # images whose size, and whose damage, is looked at


def advise(
    *,
    images: Path,
    masks: Path,
    ckpt: Path | None = None,
    device: str = "auto",
    tasks: list[str] | None = None,
    encoder: str | None = None,
) -> list[str]:
    """Look at images and masks, and recommend a way to train for them, with what was measured.

    Example:
        wssl advise images=DIR masks=DIR ckpt=heads.ckpt

    Args:
        images: folder of images, or a cache or shards that `wssl prepare` has written
        masks: folder of masks
        ckpt: a model with heads, which look for damages: a pretext checkpoint, or one trained with task_loss
        device: auto, cpu, cuda, cuda:N or mps
        tasks: class paths of your own tasks, if the model has some; they are imported
        encoder: class path of your own encoder, if the model has one; it is imported
    """
    from wssl_pl.data.files import list_images
    from wssl_pl.study.advice import advise as lines_of
    from wssl_pl.study.advice import read_findings

    silence_messages()
    import_own(encoder, tasks)
    sample = _look_at(images)
    _check_images("masks", masks)
    lines = [f"{sample.about}; {len(list_images(masks, 'masks')):,} masks"]
    damaged: dict[str, float] = {}
    if ckpt is None:
        lines.append("Damages: not looked for, the shipped model has no heads: give ckpt= of a model that has some")
    else:
        damaged = _damages(sample, ckpt, device)
        lines.append("Damages seen: " + ", ".join(f"{task} in {fraction:.0%}" for task, fraction in damaged.items()))
    damaged.pop("rotation", None)  # is no damage
    if errors := sample.errors:
        total = len(sample.images) + len(errors)
        lines.append(f"{len(errors)} of {total} images that were looked at cannot be read, {min(errors)} first")
    lines += lines_of(read_findings(), sample.train, damaged)
    print("\n".join(lines), flush=True)
    return lines


@dataclass
class _Sample:
    """Images that are looked at: files, or `(H, W, 3)` uint8 of a prepared folder; how many there are for training."""

    about: str
    train: int
    images: list[Path | NDArray[np.uint8]]
    errors: dict[Path, WSSLError] = field(default_factory=dict)


def _look_at(folder: Path) -> _Sample:
    """Return a sample of the images of a folder, which may be prepared.

    Raises:
        WSSLError: it holds no image, or none of the sample can be read.
    """
    from PIL import Image

    from wssl_pl.data.files import FORMATS, check_folder, list_images
    from wssl_pl.data.sources import open_prepared
    from wssl_pl.data.splits import find_layout, split_images
    from wssl_pl.evaluation.files import reading

    check_folder("images", folder)
    if prepared := open_prepared(folder):
        sizes = prepared.sizes
        source = prepared.open("train" if "train" in sizes else next(iter(sizes)))
        pixels = list(source.read(_spread(len(source)))[0])
        count = sizes.get("train", 0)
        about = f"{sum(sizes.values()):,} prepared images, {count:,} of them for training"
        return _Sample(f"{about}, read at {pixels[0].shape[0]} px", count, pixels)
    _check_images("images", folder)
    _, root = find_layout(folder)
    files = list_images(root)
    train = split_images(root, files)[0]["train"]
    sides: dict[Path, int] = {}
    errors: dict[Path, WSSLError] = {}
    for path in (files[number] for number in _spread(len(files))):
        try:
            with reading("images", path), Image.open(path, formats=FORMATS) as image:
                sides[path] = min(image.size)
        except WSSLError as error:
            errors[path] = error
    if not sides:
        raise next(iter(errors.values()))
    side = int(np.median(list(sides.values())))
    about = f"{len(files):,} images, {len(train):,} of them for training, short side {side} px in the median"
    return _Sample(about, len(train), list(sides), errors)


def _damages(sample: _Sample, ckpt: Path, device: str) -> dict[str, float]:
    """Return the fraction of the sample in which each head sees its damage; files that cannot be read are noted."""
    from wssl_pl.inference.diagnosis import Diagnoser
    from wssl_pl.models import open_heads

    diagnoser = Diagnoser(open_heads(ckpt, device))
    found: list[Diagnosis] = []
    for image in sample.images:
        if not isinstance(image, Path):
            found.append(cast("Diagnosis", diagnoser(image)))
            continue
        try:
            with pillow_limit_lifted():
                found.append(diagnoser.read(image))
        except WSSLError as error:
            sample.errors[image] = error
    if not found:
        raise next(iter(sample.errors.values()))
    sample.images = [image for image in sample.images if not (isinstance(image, Path) and image in sample.errors)]
    changed: dict[str, list[bool]] = {each.task: [] for each in found[0].findings}
    for finding in (each for diagnosis in found for each in diagnosis.findings):
        changed[finding.task].append(finding.found)
    return {task: float(np.mean(values)) for task, values in changed.items()}


def _spread(count: int) -> NDArray[np.int64]:
    """Return the numbers of the images that are looked at, of `count`."""
    return np.linspace(0, count - 1, min(LOOKED_AT, count)).astype(np.int64)


def _check_images(parameter: str, folder: Path) -> None:
    from wssl_pl.data.files import check_folder, list_images

    check_folder(parameter, folder)
    if not list_images(folder, parameter):
        raise WSSLError(parameter, folder, "holds no JPEG, PNG or WebP file", "name a folder that holds some")
