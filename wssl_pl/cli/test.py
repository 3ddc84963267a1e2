"""`wssl test`: a downstream model is measured by the evaluator, a pretext model as its own validation measures it."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lightning import Trainer

from wssl_pl.cli.arguments import call, read_line
from wssl_pl.cli.configuration import value_of
from wssl_pl.cli.evaluate import RESULT_FILES
from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.options import Computing, Measuring, import_own
from wssl_pl.cli.output import own_folder, remove_files
from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import WSSLError
from wssl_pl.files import write_json, writing
from wssl_pl.modules import PretextModule, read_checkpoint


def test(args: Sequence[str]) -> dict[str, float]:
    """Run `wssl test`; the options of the data default to what the model was trained with.

    Args:
        args: the command line after the command.

    Returns:
        the metrics by name: `test/psnr` and so on of a downstream model, `test/accuracy/<task>` and so on of a pretext
        model.

    Raises:
        WSSLError: something in the command line cannot be used as given.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        reason = "wssl test is one process"
        raise WSSLError(None, None, reason, "several share the pairs of `wssl evaluate`, which `wssl pairs` writes")
    ckpt = value_of(read_line(args), "ckpt")
    checkpoint = read_checkpoint(ckpt, mmap=True) if ckpt is not None else {}
    trained_with = checkpoint.get("datamodule_hyper_parameters", {})
    defaults = {f"data.{name}": value for name, value in trained_with.items()}
    command = measure_pretext if checkpoint.get("stage") == "pretext" else measure_downstream
    metrics: dict[str, float] = call(command, "test", args, defaults)
    return metrics


def measure_downstream(
    *,
    ckpt: Path,
    encoder: str | None = None,
    tasks: list[str] | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    measuring: Measuring,
    data: WSSLDataModule,
) -> dict[str, float]:
    """Measure a finished model of either stage on the test split of the data that it was trained with.

    Example:
        wssl test ckpt=runs/downstream/<run>/best.ckpt out=RESULT

    Args:
        ckpt: the checkpoint of a downstream or pretext model, runs/<stage>/<run>/best.ckpt
        encoder: class path of your own encoder, if the model has one; it is imported
        tasks: class paths of your own tasks, if the model has some; they are imported
        out: folder for metrics.json and the report; default: the metrics are only printed
        overwrite: replace results that exist
        measuring: how they are measured
        data: the images and masks
    """
    from wssl_pl.evaluation.evaluate import evaluate
    from wssl_pl.evaluation.methods import Model
    from wssl_pl.evaluation.pairs import write_pairs
    from wssl_pl.evaluation.report import write_report

    with _owned(out, overwrite):
        import_own(encoder, tasks)
        settings = measuring.settings()
        method = Model(str(ckpt), settings.device, measuring.precision)
        with tempfile.TemporaryDirectory() as temporary:
            trained = method.predictor.info.hyper_parameters
            damages = {"restore": trained.get("restore"), "undamaged": trained.get("undamaged", 0.0)}
            pairs = write_pairs(data, "test", Path(temporary) / "pairs", **damages)
            pairs.label = "made for this test"
            result = evaluate(pairs, method, settings)
            if out is not None:
                remove_files(out, RESULT_FILES)
                write_report(result, out, pairs, method, settings.device)
        metrics = {f"test/{name}": mean for name, mean in result.means.items()}
        _print_metrics(metrics, ckpt, out)
    return metrics


def measure_pretext(
    *,
    ckpt: Path,
    encoder: str | None = None,
    tasks: list[str] | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    computing: Computing,
    data: WSSLDataModule,
) -> dict[str, float]:
    """Measure a pretext model on the test split: the loss, and the accuracy or R² of every task.

    Args:
        ckpt: the checkpoint, runs/pretext/<run>/best.ckpt
        encoder: class path of your own encoder, if the model has one; it is imported
        tasks: class paths of your own tasks, if the model has some; they are imported
        out: folder for metrics.json; default: the metrics are only printed
        overwrite: replace metrics.json if it exists
        computing: where and how the model computes
        data: the images
    """
    with _owned(out, overwrite):
        import_own(encoder, tasks)
        overrides: dict[str, Any] = {"compile": False, "probe_steps": 0}
        if read_checkpoint(ckpt, mmap=True)["hyper_parameters"].get("weighting") == "upgrad":
            overrides["weighting"] = "fixed"  # of no effect here, and TorchJD need not be installed
        module = PretextModule.load_from_checkpoint(ckpt, **overrides)
        trainer = Trainer(
            accelerator="cpu" if computing.device().type == "cpu" else "gpu",
            devices=1,
            precision=computing.precision,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        (measured,) = trainer.test(module, datamodule=data, verbose=False)
        metrics = {name: measured[name] for name in sorted(measured)}
        if out is not None:
            remove_files(out, RESULT_FILES)
        _print_metrics(metrics, ckpt, out)
    return metrics


def _owned(out: Path | None, overwrite: bool) -> AbstractContextManager[None]:
    silence_messages()
    return nullcontext() if out is None else own_folder(out, overwrite, RESULT_FILES)


def _print_metrics(metrics: Mapping[str, float], ckpt: Path, out: Path | None) -> None:
    for name, value in metrics.items():
        print(f"{name:<22} {value:.4f}", flush=True)
    if out is not None:
        with writing("out", out):
            write_json(out / "metrics.json", {"ckpt": str(ckpt), **metrics})
        report = out / "report.html"
        print(f"Report {report}" if report.exists() else f"Metrics {out / 'metrics.json'}", flush=True)
