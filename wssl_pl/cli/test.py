"""`wssl test`: the figures of a finished downstream model on the test split, by the one evaluator."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from wssl_pl.cli.evaluate import add_measuring, make_settings
from wssl_pl.cli.grammar import read_words
from wssl_pl.cli.options import asks_help, find_device, new_parser, parse, refuse_positional
from wssl_pl.cli.train import quieten
from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import UsageError
from wssl_pl.modules import read_checkpoint


def make_parser(checkpoint: dict[str, Any] | None) -> ArgumentParser:
    """The options of `test`; those of the data default to what the model was trained with."""
    parser = new_parser("test", "Figures of a finished downstream model on the test split.")
    parser.add_argument("--ckpt", type=str | None, default=None, help="the downstream checkpoint (best.ckpt)")
    parser.add_argument("--out", type=str | None, default=None, help="folder for figures and report")
    add_measuring(parser)
    parser.add_class_arguments(WSSLDataModule, "data")
    if checkpoint:
        trained_with = checkpoint.get("datamodule_hyper_parameters", {})
        parser.set_defaults({f"data.{name}": value for name, value in trained_with.items()})
    return parser


def run(args: Sequence[str]) -> dict[str, float]:
    """Runs `wssl test` with the arguments after the verb and returns the means by name, `test/psnr` and so on.

    The test split is paired as by `wssl pairs`, in a folder that is removed again.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    words = read_words(args)
    refuse_positional(words)
    path = words.get("ckpt")
    if path is None and not asks_help(words):
        raise UsageError("test needs ckpt=: a finished downstream model (runs/downstream/<time>/best.ckpt)")
    checkpoint = read_checkpoint(path, stage="downstream") if path is not None else None
    parser = make_parser(checkpoint)
    config = parse(parser, words)
    datamodule = parser.instantiate_classes(config).data
    quieten()
    device = find_device(config.accelerator)
    settings = make_settings(config, device)

    from wssl_pl.evaluation.evaluate import evaluate
    from wssl_pl.evaluation.methods import Model
    from wssl_pl.evaluation.pairs import write_pairs

    method = Model(str(path), device, config.precision)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(config.out or temporary)
        pairs = write_pairs(datamodule, "test", Path(temporary) / "pairs")
        pairs.label = "made for this test"
        summary = evaluate(pairs, method, folder, settings)
    entries = summary["figures"]["all"] | {name: {"mean": value} for name, value in (summary["fid"] or {}).items()}
    figures = {f"test/{name}": entry["mean"] for name, entry in entries.items() if entry["mean"] is not None}
    for name, value in figures.items():
        print(f"{name:<22} {value:.4f}")
    if config.out is not None:
        (folder / "metrics.json").write_text(json.dumps({"ckpt": str(path), **figures}, indent=2) + "\n")
        print(f"Report {folder / 'report.html'}", flush=True)
    return figures
