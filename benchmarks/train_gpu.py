"""Trains the paper's best setting and a control from scratch at the same total of steps, in calls of limited length.

    python benchmarks/train_gpu.py --images data/celeba_hq --masks data/qd_imd --out runs/train_gpu

Three runs: `pretext` (saturation 0.3, sharpness 0.7; 40 epochs), `downstream` on its frozen encoder (20 epochs), and
`scratch`, the same network with nothing frozen (60 epochs). A call stops after `--budget-s` with a checkpoint between
two batches; the same command resumes it, and trains nothing when all is done. Other settings need another `--out`. Then
the two models are tested: `results.json`, `results.md` and `images_<run>.png`, which shows the synthetic dataset and no
image of the data set; for the same reason the runs write no images for TensorBoard, but `curve.jsonl`.

More options of `train.py` may follow, e.g. `--model.compile=true --trainer.benchmark=true`. From a checkout that is
not installed: `PYTHONPATH=. python benchmarks/train_gpu.py`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_tables import table
from lightning.pytorch.callbacks import Callback
from steps import ImagesInMemory, machine
from torchvision.utils import save_image

from wssl_pl.callbacks import can_stop, image_grid, is_last_epoch
from wssl_pl.cli import run as run_command
from wssl_pl.cli.train import train as train_command
from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import WSSLError
from wssl_pl.modules import InpaintModule, read_checkpoint

IMAGES = 6
PIECE = 15 * 2**20
SETTINGS = "settings.json"
EPOCHS = {"pretext": 40, "downstream": 20}
RUNS = {
    "pretext": ["stage=pretext", "tasks=saturation,sharpness", "weights=0.3,0.7"],
    "downstream": ["stage=downstream", "ckpt={out}/pretext/best.ckpt", "freeze_layers=16"],
    "scratch": ["stage=downstream", "ckpt=none", "freeze_layers=0"],
}
TESTED = ("downstream", "scratch")


class OutOfTime(Exception):
    """The call's time is up, and the run's `last.ckpt` is written."""


class Clock(Callback):
    """Stops a run when time is up, and keeps the time that it took over all calls.

    Args:
        folder: the run's folder; `time.json` in it has the seconds trained so far.
        deadline: of `time.monotonic()`.
    """

    def __init__(self, folder: Path, deadline: float) -> None:
        self.folder, self.deadline = folder, deadline
        self.path = folder / "time.json"
        self.begun = time.monotonic()
        self.before = json.loads(self.path.read_text()) if self.path.exists() else {"seconds": 0.0, "calls": 0}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Stop between two batches, where the state is complete and the resumed run is exact."""
        if can_stop(trainer):
            self._stop_in_time(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """After the last epoch there is nothing to stop."""
        if not is_last_epoch(trainer):
            self._stop_in_time(trainer)

    def _stop_in_time(self, trainer: Any) -> None:
        if time.monotonic() >= self.deadline:
            trainer.save_checkpoint(self.folder / "last.ckpt")
            self.write(False)
            raise OutOfTime

    def write(self, finished: bool) -> None:
        """Adds this call's time to that of the earlier ones."""
        seconds = self.before["seconds"] + time.monotonic() - self.begun
        figures = {"seconds": seconds, "calls": self.before["calls"] + 1, "finished": finished}
        self.path.write_text(json.dumps(figures) + "\n")


class Curve(Callback):
    """One line per epoch in `curve.jsonl`: epoch, step, and the figures of validation."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "curve.jsonl"

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Adds the line."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        line = json.dumps({"epoch": trainer.current_epoch, "step": trainer.global_step, **figures})
        with self.path.open("a") as file:
            file.write(line + "\n")


def train(name: str, args: argparse.Namespace, more: Sequence[str], deadline: float) -> None:
    """Trains a run from its beginning or from where it stopped.

    Raises:
        OutOfTime: it is not finished.
    """
    folder = args.out / name
    clock = Clock(folder, deadline)
    if clock.before.get("finished"):
        return
    if time.monotonic() >= deadline:
        raise OutOfTime
    resume = ["resume=last"] if (folder / "last.ckpt").exists() else []
    if not resume:
        # Of a call that ended before its first checkpoint.
        for path in (folder / "config.yaml", folder / "curve.jsonl"):
            path.unlink(missing_ok=True)
    train_command(
        [
            *(word.format(out=args.out) for word in RUNS[name]), *resume, f"--run.dir={folder}",
            f"--trainer.max_epochs={epochs_of(name, args.epochs_scale)}", "--trainer.logger=false",
            *([] if name == "downstream" else [f"--model.width={args.width}"]), *data_options(args), *more,
        ],
        extra_callbacks=[clock, Curve(folder), *([ImagesInMemory()] if args.in_memory else [])],
    )  # fmt: skip
    clock.write(True)


def epochs_of(name: str, scale: float) -> int:
    """Epochs of a run; the control has those of the other two together."""
    if name == "scratch":
        return sum(epochs_of(other, scale) for other in EPOCHS)
    return max(1, round(EPOCHS[name] * scale))


def data_options(args: argparse.Namespace) -> list[str]:
    """The options of the data, for training and for testing."""
    options = {
        "images": args.images, "masks": args.masks, "image_size": args.size, "resize": args.resize,
        "batch_size": args.batch, "limit": args.limit, "hole": args.hole,
    }  # fmt: skip
    return [f"--data.{name}={value}" for name, value in options.items() if value is not None]


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of the finished models on the test split, with the time that training took."""
    runs = {}
    for name in TESTED:
        ckpt = args.out / name / "best.ckpt"
        # Without `out=`: the evaluator's report shows images of the data set, which are kept nowhere here.
        figures = run_command(["test", f"ckpt={ckpt}", *data_options(args)])
        last = read_checkpoint(args.out / name / "last.ckpt")
        runs[name] = {**figures, "steps": last["global_step"], "epochs": last["epoch"] + 1, **time_of(args.out / name)}
        draw(ckpt, args.out / f"images_{name}.png", args.size, args.resize)
    last = read_checkpoint(args.out / "pretext" / "last.ckpt")
    curve = [json.loads(line) for line in (args.out / "pretext" / "curve.jsonl").read_text().splitlines()]
    accuracy = {key: value for key, value in curve[-1].items() if key.startswith(("val/accuracy/", "val/score"))}
    pretext = {**accuracy, "steps": last["global_step"], "epochs": last["epoch"] + 1, **time_of(args.out / "pretext")}
    settings = json.loads((args.out / SETTINGS).read_text())
    return {"machine": machine(), "settings": settings, "pretext": pretext, "runs": runs}


def check_settings(args: argparse.Namespace, more: Sequence[str]) -> None:
    """Record the settings of the runs, or compare them with those recorded.

    Raises:
        WSSLError: the folder has runs with other settings.
    """
    free = ("out", "budget_s", "in_memory", "export_dir")  # these do not change a result
    settings = {name: value for name, value in vars(args).items() if name not in free} | {"more": list(more)}
    path = args.out / SETTINGS
    if path.exists():
        for name, value in json.loads(path.read_text()).items():
            if settings[name] != value:
                raise WSSLError(name, settings[name], f"the runs in {args.out} have {value}", "name another --out")
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=1) + "\n")


def time_of(folder: Path) -> dict[str, Any]:
    """Seconds over all calls, and the number of calls."""
    figures = json.loads((folder / "time.json").read_text())
    return {"seconds": figures["seconds"], "calls": figures["calls"]}


def draw(ckpt: Path, path: Path, size: int, resize: int) -> None:
    """Draw what the model makes of the synthetic dataset: masked input, prediction, composite, ground truth."""
    data = WSSLDataModule("synthetic", "synthetic", image_size=size, resize=resize, batch_size=IMAGES, limit=IMAGES)
    data.setup("test")
    batch = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    module = InpaintModule.load_from_checkpoint(str(ckpt), map_location="cpu", weights_only=True).eval()
    with torch.no_grad():
        output = module(batch["image"], batch["mask"])
    save_image(image_grid(batch["image"], batch["mask"], output), path)


def as_markdown(results: dict[str, Any]) -> str:
    """The tables of `results.md`."""
    about, settings, pretext = results["machine"], results["settings"], results["pretext"]
    names = {"psnr": 2, "ssim": 4, "psnr_composite": 2, "ssim_composite": 4}
    rows = [
        (
            run, *(f"{figures[f'test/{name}']:.{digits}f}" for name, digits in names.items()),
            figures["epochs"], figures["steps"], round(figures["seconds"]),
        )
        for run, figures in results["runs"].items()
    ]  # fmt: skip
    heads = ("run", "PSNR", "SSIM", "PSNR composite", "SSIM composite", "epochs", "steps", "seconds")
    scores = ", ".join(f"{name.removeprefix('val/')} {value:.3f}" for name, value in pretext.items() if "val/" in name)
    return "\n\n".join(
        [
            "# The paper's best setting, and scratch at the same total of steps",
            f"{about['device']}, {about['date']}, torch {about['torch']}, precision {about['precision']}; width "
            f"{settings['width']}, {settings['size']} px, batch {settings['batch']}. The test split; PSNR in decibel.",
            table(heads, rows),
            f"Pretext: {pretext['epochs']} epochs, {pretext['steps']} steps, {pretext['seconds']:.0f} s; {scores}. Its "
            "steps and those of `downstream` make the total. Seconds include validation and starting.",
        ]
    ) + "\n"  # fmt: skip


def export(args: argparse.Namespace) -> None:
    """Writes the best weights in half precision, without the optimiser, in pieces of 15 MiB; `cat` joins them."""
    args.export_dir.mkdir(parents=True, exist_ok=True)
    whole = args.export_dir / "whole.tmp"
    for name in RUNS:
        checkpoint = read_checkpoint(args.out / name / "best.ckpt")
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: v.half() if v.is_floating_point() else v for key, v in state.items()}
        kept = ("state_dict", "hyper_parameters", "datamodule_hyper_parameters", "stage", "format")
        torch.save({key: checkpoint[key] for key in kept if key in checkpoint}, whole)
        content = whole.read_bytes()
        for number, start in enumerate(range(0, len(content), PIECE)):
            (args.export_dir / f"{name}.ckpt.{number:02d}").write_bytes(content[start : start + PIECE])
    whole.unlink()


def main(argv: list[str] | None = None) -> bool:
    """One call; returns whether everything is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--images", required=True, help="folder of images, or `synthetic`")
    parser.add_argument("--masks", required=True, help="folder of masks, or `synthetic`")
    parser.add_argument("--hole", choices=["black", "white"], help="which brightness is the hole in the masks")
    parser.add_argument("--out", type=Path, default=Path("runs/train_gpu"))
    parser.add_argument("--budget-s", type=float, default=520.0, help="seconds of training in this call")
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="factor on 40, 20 and 60 epochs")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--limit", type=int, help="use the first so many images of each split")
    parser.add_argument("--in-memory", action="store_true", help="decode the training images once, into memory")
    parser.add_argument("--export-dir", type=Path, help="at the end, leave the weights there in pieces of 15 MiB")
    args, more = parser.parse_known_args(argv)
    try:
        check_settings(args, more)
    except WSSLError as error:
        parser.error(str(error))
    deadline = time.monotonic() + args.budget_s
    try:
        for name in RUNS:
            train(name, args, more, deadline)
            print(f"{name}: finished", flush=True)
    except OutOfTime:
        print(f"Time is up; the same command resumes the runs in {args.out}", flush=True)
        return False
    results = evaluate(args)
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.out / "results.md").write_text(as_markdown(results))
    print(as_markdown(results))
    if args.export_dir:
        export(args)
    return True


if __name__ == "__main__":
    main()
