"""`wssl evaluate`: the figures of a model, a classical method or another program's pictures on fixed pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse import ArgumentParser

from wssl_pl.cli.grammar import Words, read_words
from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.options import check_new_out, find_device, new_parser, parse, refuse_positional
from wssl_pl.errors import UsageError

if TYPE_CHECKING:
    from wssl_pl.evaluation.compare import Comparison
    from wssl_pl.evaluation.evaluate import Settings
    from wssl_pl.evaluation.methods import Method
    from wssl_pl.evaluation.pairs import Pairs
    from wssl_pl.evaluation.results import Result


def add_device(parser: ArgumentParser) -> None:
    """Add the options on where and in which precision a model runs."""
    parser.add_argument("--accelerator", type=str, default="auto", help="auto, cpu, gpu")
    parser.add_argument(
        "--precision", type=str, default="32-true", help="of the model: 32-true, bf16-mixed or 16-mixed"
    )


def add_measuring(parser: ArgumentParser) -> None:
    """Add the options that `evaluate` and `test` share."""
    add_device(parser)
    parser.add_argument("--batch_size", type=int, default=16, help="pairs in memory at once")
    parser.add_argument("--lpips_weights", type=str | None, default=None, help="torchvision's AlexNet or VGG16 weights")
    parser.add_argument("--inception_weights", type=str | None, default=None, help="torch-fidelity's Inception weights")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap intervals")


def make_settings(config: Any, device: torch.device, limit: int | None = None) -> "Settings":
    """How to measure, from the parsed options.

    Raises:
        UsageError: a number is out of range.
    """
    from wssl_pl.evaluation.evaluate import Settings

    for name, value in (("batch_size", config.batch_size), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"{name}={value}: it must be at least 1")
    if config.seed < 0:
        raise UsageError(f"seed={config.seed}: it must not be negative")
    return Settings(limit, config.batch_size, device, config.lpips_weights, config.inception_weights, config.seed)


def run(args: Sequence[str]) -> "Result | Comparison":
    """Runs `wssl evaluate` with the arguments after the verb and returns the result, or the comparison.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    words = read_words(args)
    if words.get("compare") is not None:
        return run_compare(words)
    refuse_positional(words)
    parser = new_parser(
        "evaluate",
        "Measures ckpt=FILE, method=NAME or predictions=DIR on a pairs folder; --compare DIR DIR ... compares results.",
    )
    parser.add_argument("--pairs", type=str | None, default=None, help="a folder made by `wssl pairs`")
    parser.add_argument("--out", type=str | None, default=None, help="folder for figures and report")
    parser.add_argument("--ckpt", type=str | None, default=None, help="a finished downstream model")
    parser.add_argument("--method", type=str | None, default=None, help="mean, telea, navier_stokes or biharmonic")
    parser.add_argument("--predictions", type=str | None, default=None, help="folder of pictures named as the pairs")
    parser.add_argument("--allow_missing", type=bool, default=False, help="measure the predictions that match")
    parser.add_argument("--limit", type=int | None, default=None, help="only the first so many pairs")
    parser.add_argument("--compare", type=str | None, default=None, help="two or more result folders to compare")
    add_measuring(parser)
    config = parse(parser, words)
    given = [name for name in ("ckpt", "method", "predictions") if config[name] is not None]
    if len(given) != 1:
        what = "got " + " and ".join(given) if given else "got none of them"
        raise UsageError(f"evaluate takes one of ckpt=, method= and predictions=; {what}")
    if config.pairs is None:
        raise UsageError("evaluate needs pairs=: a folder made by `wssl pairs`")
    out = check_new_out(config.out, "evaluate")
    silence_messages()
    device = find_device(config.accelerator)
    settings = make_settings(config, device, config.limit)

    from wssl_pl.evaluation.evaluate import evaluate
    from wssl_pl.evaluation.pairs import Pairs
    from wssl_pl.evaluation.report import write_report

    pairs = Pairs.open(config.pairs)
    pairs.check_output(out)
    method = make_method(config, pairs, device)
    result = evaluate(pairs, method, settings)
    write_report(result, out, pairs, method, device)
    tell(result, out)
    return result


def make_method(config: Any, pairs: "Pairs", device: torch.device) -> "Method":
    """What the options ask to be measured."""
    from wssl_pl.evaluation.methods import Classical, Model
    from wssl_pl.evaluation.predictions import Predictions

    if config.ckpt is not None:
        return Model(config.ckpt, device, config.precision)
    if config.method is not None:
        return Classical(config.method)
    names = [pair.name for pair in pairs.pairs]
    return Predictions(config.predictions, names[: config.limit], names, config.allow_missing)


def tell(result: "Result", out: Path) -> None:
    """Prints the table and where the report lies."""
    from wssl_pl.evaluation.pages import markdown
    from wssl_pl.evaluation.report import excluded, metric_rows

    print(markdown(metric_rows(result)))
    for note in [*result.notes, *excluded(result)]:
        print(note)
    print(f"Report {out / 'report.html'}", flush=True)


def run_compare(words: Words) -> "Comparison":
    """`--compare DIR DIR ... [out=DIR]`: prints the comparison and, with `out`, keeps it."""
    first = words.get("compare") or ""
    folders = [part for part in first.strip("[]").split(",") if part and part != "true"] + words.positional
    for key, _ in words.options:
        if key not in ("compare", "out"):
            raise UsageError(f"--compare takes result folders and out=, not {key}=")

    from wssl_pl.evaluation.compare import compare
    from wssl_pl.evaluation.report import comparison_markdown, write_comparison

    result = compare(folders)
    print(comparison_markdown(result), flush=True)
    if words.get("out") is not None:
        write_comparison(result, check_new_out(words.get("out"), "evaluate"))
    return result
