"""`wssl advise`."""

from pathlib import Path

import numpy as np

from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.options import import_own
from wssl_pl.errors import WSSLError

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
        images: folder of images
        masks: folder of masks
        ckpt: a model with heads, which look for damages: a pretext checkpoint, or one trained with task_loss
        device: auto, cpu, cuda, cuda:N or mps
        tasks: class paths of your own tasks, if the model has some; they are imported
        encoder: class path of your own encoder, if the model has one; it is imported
    """
    from PIL import Image

    from wssl_pl.data.files import FORMATS, check_folder, list_images
    from wssl_pl.data.splits import find_layout, split_images
    from wssl_pl.evaluation.files import reading
    from wssl_pl.study.advice import advise as lines_of
    from wssl_pl.study.advice import read_findings

    silence_messages()
    import_own(encoder, tasks)
    for name, folder in (("images", images), ("masks", masks)):
        check_folder(name, folder)
        if not list_images(folder, name):
            raise WSSLError(name, folder, "holds no JPEG, PNG or WebP file", "name what `wssl prepare` was given")
    _, root = find_layout(images)
    files = list_images(root)
    train = split_images(root, files)[0]["train"]
    sample = [files[number] for number in np.linspace(0, len(files) - 1, min(LOOKED_AT, len(files))).astype(int)]
    sides, errors = [], {}
    for path in sample:
        try:
            with reading("images", path), Image.open(path, formats=FORMATS) as image:
                sides.append(min(image.size))
        except WSSLError as error:
            errors[path] = error
    if not sides:
        raise next(iter(errors.values()))
    number_of_masks = len(list_images(masks, "masks"))
    about = f"{len(files):,} images, {len(train):,} of them for training, short side {int(np.median(sides))} px"
    lines = [f"{about} in the median; {number_of_masks:,} masks"]
    damaged: dict[str, float] = {}
    if ckpt is None:
        lines.append("Damages: not looked for, the shipped model has no heads: give ckpt= of a model that has some")
    else:
        from wssl_pl.inference.diagnosis import Diagnoser
        from wssl_pl.models import open_heads

        diagnoser = Diagnoser(open_heads(ckpt, device))
        found = []
        for path in sample:
            try:
                found.append(diagnoser.read(path))
            except WSSLError as error:
                errors[path] = error
        if not found:
            raise next(iter(errors.values()))
        for finding in found[0].findings:
            seen = [each.found for diagnosis in found for each in diagnosis.findings if each.task == finding.task]
            damaged[finding.task] = float(np.mean(seen))
        lines.append("Damages seen: " + ", ".join(f"{task} in {fraction:.0%}" for task, fraction in damaged.items()))
    damaged.pop("rotation", None)  # is no damage
    if errors:
        lines.append(f"{len(errors)} of {len(sample)} images that were looked at cannot be read, {min(errors)} first")
    lines += lines_of(read_findings(), len(train), damaged)
    print("\n".join(lines), flush=True)
    return lines
