"""`wssl test`: the metrics of a finished model on the test split.

A downstream model is measured by the one evaluator, a pretext model as its own validation measures it.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning import Trainer

from wssl_pl.cli.evaluate import add_device, add_measuring, make_settings
from wssl_pl.cli.grammar import read_words
from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.options import asks_help, find_device, new_parser, parse, refuse_positional
from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import UsageError
from wssl_pl.modules import PretextModule, read_checkpoint


def make_parser(checkpoint: dict[str, Any] | None) -> ArgumentParser:
    """Return the parser of `test`; the data's options default to what the model was trained with."""
    parser = new_parser("test", "Metrics of a finished model on the test split.")
    parser.add_argument(
        "--ckpt", type=str | None, default=None, help="the checkpoint of a downstream or pretext model (best.ckpt)"
    )
    if checkpoint and checkpoint["stage"] == "pretext":
        parser.add_argument("--out", type=str | None, default=None, help="folder for metrics.json")
        add_device(parser)
    else:
        parser.add_argument("--out", type=str | None, default=None, help="folder for metrics.json and report")
        add_measuring(parser)
    parser.add_class_arguments(WSSLDataModule, "data")
    if checkpoint:
        trained_with = checkpoint.get("datamodule_hyper_parameters", {})
        parser.set_defaults({f"data.{name}": value for name, value in trained_with.items()})
    return parser


def run(args: Sequence[str]) -> dict[str, float]:
    """Run `wssl test` with the arguments after the verb.

    Returns:
        the metrics by name: `test/psnr` and so on of a downstream model, `test/accuracy/<task>` and so on of a pretext
        model.

    Raises:
        UsageError: something in the arguments cannot be used as given.
    """
    words = read_words(args)
    refuse_positional(words)
    path = words.get("ckpt")
    if path is None and not asks_help(words):
        raise UsageError("test needs ckpt=: a finished model (runs/<stage>/<run>/best.ckpt)")
    checkpoint = read_checkpoint(path) if path is not None else None
    parser = make_parser(checkpoint)
    config = parse(parser, words)
    assert checkpoint is not None, "help ends the program"
    datamodule = parser.instantiate_classes(config).data
    silence_messages()
    device = find_device(config.accelerator)
    if checkpoint["stage"] == "pretext":
        figures = measure_pretext(config, datamodule, device, checkpoint)
    else:
        figures = measure_downstream(config, datamodule, device)
    for name, value in figures.items():
        print(f"{name:<22} {value:.4f}", flush=True)
    if config.out is not None:
        folder = Path(config.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps({"ckpt": str(path), **figures}, indent=2) + "\n")
        report = folder / "report.html"
        print(f"Report {report}" if report.exists() else f"Metrics {folder / 'metrics.json'}", flush=True)
    return figures


def measure_downstream(config: Any, datamodule: WSSLDataModule, device: torch.device) -> dict[str, float]:
    """Return the evaluator's means on the test split, paired as by `wssl pairs` in a folder that is removed again."""
    settings = make_settings(config, device)

    from wssl_pl.evaluation.evaluate import evaluate
    from wssl_pl.evaluation.methods import Model
    from wssl_pl.evaluation.pairs import write_pairs
    from wssl_pl.evaluation.report import write_report

    method = Model(config.ckpt, device, config.precision)
    with tempfile.TemporaryDirectory() as temporary:
        pairs = write_pairs(datamodule, "test", Path(temporary) / "pairs")
        pairs.label = "made for this test"
        result = evaluate(pairs, method, settings)
        if config.out is not None:
            write_report(result, Path(config.out), pairs, method, device)
    return {f"test/{name}": mean for name, mean in result.means.items()}


def measure_pretext(
    config: Any, datamodule: WSSLDataModule, device: torch.device, checkpoint: dict[str, Any]
) -> dict[str, float]:
    """Return the metrics of every task on the test split."""
    from wssl_pl.evaluation.methods import check_precision

    check_precision(config.precision)
    overrides: dict[str, Any] = {"compile": False, "probe_steps": 0}
    if checkpoint["hyper_parameters"].get("weighting") == "upgrad":
        overrides["weighting"] = "fixed"  # of no effect here, and TorchJD need not be installed
    module = PretextModule.load_from_checkpoint(config.ckpt, **overrides)
    trainer = Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=1,
        precision=config.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    (figures,) = trainer.test(module, datamodule=datamodule, verbose=False)
    return {name: figures[name] for name in sorted(figures)}
