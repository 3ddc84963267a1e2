"""`wssl test`: a downstream model is measured by the evaluator, a pretext model as its own validation measures it."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning import Trainer

from wssl_pl.cli.arguments import call, read_line, value_of
from wssl_pl.cli.evaluate import RESULT_FILES, Accelerator, Precision, find_device
from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.output import check_folder
from wssl_pl.cli.own_encoder import import_encoder
from wssl_pl.data import WSSLDataModule
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
    ckpt = value_of(read_line(args), "ckpt")
    checkpoint = read_checkpoint(ckpt) if ckpt is not None else {}
    trained_with = checkpoint.get("datamodule_hyper_parameters", {})
    # `split_rule` was `split` in version 0.1.
    defaults = {f"data.{'split_rule' if name == 'split' else name}": value for name, value in trained_with.items()}
    command = measure_pretext if checkpoint.get("stage") == "pretext" else measure_downstream
    metrics: dict[str, float] = call(command, "test", args, defaults)
    return metrics


def measure_downstream(
    *,
    ckpt: Path,
    encoder: str | None = None,
    out: Path | None = None,
    batch_size: PositiveInt = 16,
    lpips_weights: str | None = None,
    inception_weights: str | None = None,
    seed: NonNegativeInt = 0,
    accelerator: Accelerator = "auto",
    precision: Precision = "32-true",
    overwrite: bool = False,
    data: WSSLDataModule,
) -> dict[str, float]:
    """Measure a finished model of either stage on the test split of the data that it was trained with.

    Example:
        wssl test ckpt=runs/downstream/<run>/best.ckpt out=RESULT

    Args:
        ckpt: the checkpoint of a downstream or pretext model, runs/<stage>/<run>/best.ckpt
        encoder: class path of your own encoder, if the model has one; it is imported
        out: folder for metrics.json and the report; default: the metrics are only printed
        batch_size: pairs in memory at once
        lpips_weights: torchvision's AlexNet or VGG16 weights; default: no LPIPS
        inception_weights: torch-fidelity's Inception weights; default: no FID
        seed: seed of the bootstrap intervals
        accelerator: where the model runs
        precision: the model's
        overwrite: replace results that exist
        data: the images and masks
    """
    _check_out(out, overwrite)
    import_encoder(encoder)
    device = find_device(accelerator)

    from wssl_pl.evaluation.evaluate import Settings, evaluate
    from wssl_pl.evaluation.methods import Model
    from wssl_pl.evaluation.pairs import write_pairs
    from wssl_pl.evaluation.report import write_report

    settings = Settings(None, batch_size, device, lpips_weights, inception_weights, seed)
    method = Model(str(ckpt), device, precision)
    with tempfile.TemporaryDirectory() as temporary:
        pairs = write_pairs(data, "test", Path(temporary) / "pairs")
        pairs.label = "made for this test"
        result = evaluate(pairs, method, settings)
        if out is not None:
            write_report(result, out, pairs, method, device)
    metrics = {f"test/{name}": mean for name, mean in result.means.items()}
    _print_metrics(metrics, ckpt, out)
    return metrics


def measure_pretext(
    *,
    ckpt: Path,
    encoder: str | None = None,
    out: Path | None = None,
    accelerator: Accelerator = "auto",
    precision: Precision = "32-true",
    overwrite: bool = False,
    data: WSSLDataModule,
) -> dict[str, float]:
    """Measure a pretext model on the test split: the loss, and the accuracy or R² of every task.

    Args:
        ckpt: the checkpoint, runs/pretext/<run>/best.ckpt
        encoder: class path of your own encoder, if the model has one; it is imported
        out: folder for metrics.json; default: the metrics are only printed
        accelerator: where the model runs
        precision: the model's
        overwrite: replace metrics.json if it exists
        data: the images
    """
    _check_out(out, overwrite)
    import_encoder(encoder)
    device = find_device(accelerator)
    overrides: dict[str, Any] = {"compile": False, "probe_steps": 0}
    if read_checkpoint(ckpt)["hyper_parameters"].get("weighting") == "upgrad":
        overrides["weighting"] = "fixed"  # of no effect here, and TorchJD need not be installed
    module = PretextModule.load_from_checkpoint(ckpt, **overrides)
    trainer = Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    (measured,) = trainer.test(module, datamodule=data, verbose=False)
    metrics = {name: measured[name] for name in sorted(measured)}
    _print_metrics(metrics, ckpt, out)
    return metrics


def _check_out(out: Path | None, overwrite: bool) -> None:
    silence_messages()
    if out is not None:
        check_folder(out, overwrite, RESULT_FILES)


def _print_metrics(metrics: Mapping[str, float], ckpt: Path, out: Path | None) -> None:
    for name, value in metrics.items():
        print(f"{name:<22} {value:.4f}", flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps({"ckpt": str(ckpt), **metrics}, indent=2) + "\n")
        report = out / "report.html"
        print(f"Report {report}" if report.exists() else f"Metrics {out / 'metrics.json'}", flush=True)
