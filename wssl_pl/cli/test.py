"""`wssl test`: the figures of a finished downstream model on the test split."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from lightning import Trainer

from wssl_pl.cli.grammar import check_known, read_words
from wssl_pl.cli.train import complete_lists, first_lines, quieten
from wssl_pl.data import WSSLDataModule
from wssl_pl.devices import choose_precision
from wssl_pl.errors import UsageError
from wssl_pl.modules import InpaintModule, read_checkpoint


def make_parser(checkpoint: dict[str, Any] | None) -> ArgumentParser:
    """The options of `test`; those of the data default to what the model was trained with."""
    parser = ArgumentParser(
        prog="train.py test",
        description="Figures of a finished downstream model on the test split.",
        exit_on_error=False,
        default_env=True,
        env_prefix="WSSL",
    )
    parser.add_argument("--ckpt", type=str | None, default=None, help="the downstream checkpoint (best.ckpt)")
    parser.add_argument("--out", type=str | None, default=None, help="folder for metrics.json")
    parser.add_argument("--accelerator", type=str, default="auto", help="auto, cpu, gpu")
    parser.add_argument("--precision", type=str | None, default=None, help="as in training if left out")
    parser.add_class_arguments(WSSLDataModule, "data")
    if checkpoint:
        trained_with = checkpoint.get("datamodule_hyper_parameters", {})
        parser.set_defaults({f"data.{name}": value for name, value in trained_with.items()})
    return parser


def run(args: Sequence[str]) -> dict[str, float]:
    """Runs `wssl test` with the arguments after the verb and returns the figures by name.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    words = read_words(args)
    if words.positional:
        raise UsageError(f"unexpected {words.positional[0]!r}: options are written key=value or --key=value")
    path = words.get("ckpt")
    asks_help = any(key in ("help", "h") for key, _ in words.options)
    if path is None and not asks_help:
        raise UsageError("test needs ckpt=: a finished downstream model (runs/downstream/<time>/best.ckpt)")
    checkpoint = read_checkpoint(path, stage="downstream") if path is not None else None
    parser = make_parser(checkpoint)
    actions = {option.removeprefix("--"): action for action in parser._actions for option in action.option_strings}
    check_known(words, actions)
    complete_lists(words, actions)
    try:
        config = parser.parse_args(words.arguments())
    except ArgumentError as error:
        raise UsageError(first_lines(str(error))) from None
    datamodule = parser.instantiate_classes(config).data
    quieten()
    precision: Any
    precision, reason = choose_precision(config.accelerator)
    precision = config.precision or precision
    print(f"Precision {precision}: {reason}", flush=True)
    module = InpaintModule.load_from_checkpoint(str(path), map_location="cpu", weights_only=True)
    trainer = Trainer(
        accelerator=config.accelerator, devices=1, precision=precision, logger=False, use_distributed_sampler=False
    )
    (figures,) = trainer.test(module, datamodule=datamodule, verbose=False)
    for name, value in figures.items():
        print(f"{name:<22} {value:.4f}")
    if config.out is not None:
        folder = Path(config.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps({"ckpt": str(path), **figures}, indent=2) + "\n")
    return dict(figures)
