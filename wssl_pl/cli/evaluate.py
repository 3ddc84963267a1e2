"""`wssl evaluate`."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import PositiveInt

from wssl_pl.cli.arguments import call, read_line
from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.options import AnyModelFile, Measuring
from wssl_pl.cli.output import own_folder, remove_files
from wssl_pl.errors import WSSLError

if TYPE_CHECKING:
    from wssl_pl.evaluation.compare import Comparison
    from wssl_pl.evaluation.results import Result

RESULT_FILES = ("summary.json", "per_image.parquet", "report.md", "report.html", "metrics.json")
COMPARISON_FILES = ("comparison.md", "comparison.json", "comparison.html", "comparison.png")


def evaluate(args: Sequence[str]) -> "Result | Comparison":
    """Run `wssl evaluate` and return the result, or with `--compare` the comparison.

    Args:
        args: the command line after the command.

    Raises:
        WSSLError: something in it cannot be used as given.
    """
    comparing = read_line(args).get("compare") is not None
    result: Result | Comparison = call(compare_results if comparing else evaluate_pairs, "evaluate", args)
    return result


def evaluate_pairs(
    *,
    pairs: Path,
    out: Path,
    mask: Literal["hole", "known"] | None = None,
    method: str | None = None,
    predictions: Path | None = None,
    allow_missing: bool = False,
    best_of: PositiveInt | None = None,
    nearest_of: PositiveInt | None = None,
    limit: PositiveInt | None = None,
    overwrite: bool = False,
    model: AnyModelFile,
    measuring: Measuring,
) -> "Result":
    """Measure a model, a classical method or another program's images on fixed pairs.

    Example:
        wssl evaluate pairs=PAIRS out=RESULT ckpt=best.ckpt
        wssl evaluate pairs=PAIRS out=TELEA method=telea
        wssl evaluate --compare RESULT TELEA

    Args:
        pairs: a folder made by `wssl pairs`
        out: the folder of the results
        mask: of an ONNX file of another project: where its mask is 1; default: by its inputs
        method: mean, telea, navier_stokes, biharmonic, fsr_fast or fsr_best
        predictions: a folder of images named as the pairs
        allow_missing: measure the predictions that there are
        best_of: of a PIC model: of so many samples that which its discriminator scores best; default: one sample
        nearest_of: of a PIC model: of so many samples that which is nearest to the truth, an oracle
        limit: only the first so many pairs
        overwrite: replace results that exist
        model: the model file
        measuring: how they are measured
    """
    sources = {"ckpt": model.ckpt, "method": method, "predictions": predictions}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise WSSLError(
            None, None, "evaluate takes one of ckpt=, method= and predictions=", f"got {' and '.join(given)}"
        )
    for name, value in (("best_of", best_of), ("nearest_of", nearest_of)):
        if value is not None and (method is not None or predictions is not None or (best_of and nearest_of)):
            raise WSSLError(name, value, "needs ckpt=, and nothing else that is measured", "omit it")
    without_model = {"mask": mask, "range": model.range, "size": model.size, "encoder": model.encoder}
    without_model["tasks"] = model.tasks
    without_model["precision"] = None if measuring.precision == Measuring.precision else measuring.precision
    for name, value in without_model.items():
        if value is not None and (method is not None or predictions is not None):
            raise WSSLError(name, value, "is for models, and none is measured", "omit it")
    if allow_missing and predictions is None:
        raise WSSLError("allow_missing", True, "is for predictions=", "omit it")
    from wssl_pl.evaluation.evaluate import evaluate as measure
    from wssl_pl.evaluation.files import check_output
    from wssl_pl.evaluation.methods import Classical, Method, Model, Samples
    from wssl_pl.evaluation.pages import markdown
    from wssl_pl.evaluation.pairs import Pairs
    from wssl_pl.evaluation.predictions import Predictions
    from wssl_pl.evaluation.processes import connected
    from wssl_pl.evaluation.report import excluded, metric_rows, write_report

    silence_messages()
    check_output(out, pairs, *([] if predictions is None else [predictions]))
    with connected() as (rank, processes), nullcontext() if rank else own_folder(out, overwrite, RESULT_FILES):
        settings = replace(measuring.settings(limit), rank=rank, processes=processes)
        model.import_own()
        opened = Pairs.open(pairs)
        measured: Method
        if method is not None:
            measured = Classical(method)
        elif predictions is not None:
            names = [pair.name for pair in opened.pairs]
            measured = Predictions(predictions, names[:limit], names, allow_missing)
        elif best_of or nearest_of:
            truth = opened if nearest_of else None
            measured = Samples(model.ckpt, best_of or nearest_of or 1, truth, settings.device, measuring.precision)
        else:
            convention = {"mask": mask, "range": model.range, "size": model.size}
            measured = Model(model.ckpt, settings.device, measuring.precision, **convention)
        result = measure(opened, measured, settings)
        if rank:
            return result
        remove_files(out, RESULT_FILES)
        write_report(result, out, opened, measured, settings.device)
    print(markdown(metric_rows(result)))
    for note in [*result.notes, *excluded(result)]:
        print(note)
    print(f"Report {out / 'report.html'}", flush=True)
    return result


def compare_results(
    compare: list[str],
    *,
    rank_by: str | None = None,
    reference: Literal["first", "best"] = "first",
    out: Path | None = None,
    overwrite: bool = False,
) -> "Comparison":
    """Rank results of the same pairs, and compare them image by image.

    Example:
        wssl evaluate --compare RESULT OTHER ANOTHER rank_by=lpips_composite out=COMPARISON

    Args:
        compare: two or more result folders
        rank_by: metric of the leaderboard; default: psnr_composite, or psnr where there is no composite
        reference: the result that the others are compared with
        out: folder for the comparison; default: it is only printed
        overwrite: replace a comparison that exists
    """
    from wssl_pl.evaluation.compare import compare as compare_folders
    from wssl_pl.evaluation.report import comparison_page, write_comparison

    with nullcontext() if out is None else own_folder(out, overwrite, COMPARISON_FILES):
        result = compare_folders(compare, rank_by=rank_by, reference=reference)
        print(comparison_page(result), flush=True)
        if out is not None:
            remove_files(out, COMPARISON_FILES)
            write_comparison(result, out)
    return result
