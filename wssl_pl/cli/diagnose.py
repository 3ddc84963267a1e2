"""`wssl diagnose`."""

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from wssl_pl.cli.messages import pillow_limit_lifted
from wssl_pl.cli.options import import_own
from wssl_pl.errors import SomeFailed, WSSLError

if TYPE_CHECKING:
    from wssl_pl.inference.diagnosis import Diagnosis


def diagnose(
    photo: list[Path],
    *,
    ckpt: Path | None = None,
    json: bool = False,
    device: str = "auto",
    tasks: list[str] | None = None,
    encoder: str | None = None,
) -> "dict[str, Diagnosis]":
    """Report what was done to photos, as the heads of a model see it: turned, faded, blurred, with probabilities.

    Example:
        wssl diagnose photo.jpg ckpt=runs/pretext/<run>/best.ckpt

    Args:
        photo: image files
        ckpt: a pretext checkpoint, or a model that was trained with task_loss: .ckpt, .safetensors or exported folder
        json: print JSON, for scripts
        device: auto, cpu, cuda, cuda:N or mps
        tasks: class paths of your own tasks, if the model has some; they are imported
        encoder: class path of your own encoder, if the model has one; it is imported

    Returns:
        the diagnoses by photo.

    Raises:
        SomeFailed: some of several photos could not be read; the others are reported.
    """
    from wssl_pl.models import HEADS, open_heads

    if ckpt is None:
        raise WSSLError("ckpt", None, "is required, the shipped model has no heads", HEADS)
    import_own(encoder, tasks)
    missing = [path for path in photo if not path.exists()]
    if missing:
        raise WSSLError("photo", missing[0], "does not exist")
    folders = [path for path in photo if path.is_dir()]
    if folders:
        raise WSSLError("photo", folders[0], "is a folder", f"name its photos: {folders[0]}/*.jpg")

    from wssl_pl.inference.diagnosis import Diagnoser

    diagnoser = Diagnoser(open_heads(ckpt, device))
    found, failed = {}, []
    for path in photo:
        try:
            with pillow_limit_lifted():
                found[str(path)] = diagnoser.read(path)
        except WSSLError as error:
            if len(photo) == 1:
                raise
            failed.append(str(error))
            continue
        if not json:
            _print(path, found[str(path)])
    if json:
        print(dumps({name: asdict(diagnosis) for name, diagnosis in found.items()}, indent=2), flush=True)
    elif found and not diagnoser.heads.calibrated:
        print("Note: the model file holds no calibration, so that the probabilities are too sure", flush=True)
    if failed:
        lines = [f"{len(failed)} photos were not read:", *(f"  {line}" for line in failed)]
        raise SomeFailed(None, None, "\n".join(lines))
    return found


def _print(path: Path, diagnosis: "Diagnosis") -> None:
    side = diagnosis.side
    print(f"{path} (its middle {side} x {side} px, at a short side of {diagnosis.reduced_to} px)")
    for finding in diagnosis.findings:
        print(f"  {finding.text:<32} {finding.probability:4.0%}", flush=True)
