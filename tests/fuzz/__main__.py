"""Run the campaign: `python -m tests.fuzz --cases 5000 --seed 1 --only pictures,onnx`."""

import argparse
import gc
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before PyTorch is imported: a process with threads cannot be forked safely
os.environ["MPLBACKEND"] = "Agg"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from tests.fuzz import doors, files, pictures, places, requests, runner, seeds  # noqa: E402
from tests.fuzz.runner import (  # noqa: E402
    FAULTS,
    OUTCOMES,
    FaultCounts,
    MakeCase,
    Verdict,
    in_child,
    run_batch,
    run_case,
    snapshot,
)

# Families, with their cases in a campaign of full size.
FAMILIES: dict[str, tuple[MakeCase | None, int]] = {
    "pictures": (pictures.make_case, 5200),
    **files.FAMILIES,
    "doors": (doors.make_case, 200),
    "places": (places.make_case, 300),
    "requests": (None, 4500),  # in batches, see `requests.run_batch`
}
IMPORTS = (
    "wssl_pl.cli.train", "wssl_pl.cli.data", "wssl_pl.cli.pairs", "wssl_pl.cli.evaluate", "wssl_pl.cli.export",
    "wssl_pl.cli.study", "wssl_pl.cli.inpaint", "wssl_pl.cli.test", "wssl_pl.cli.runs", "wssl_pl.inference.folder",
    "wssl_pl.evaluation.report", "wssl_pl.evaluation.evaluate", "wssl_pl.evaluation.methods",
    "wssl_pl.evaluation.compare", "wssl_pl.evaluation.predictions", "wssl_pl.study.report", "wssl_pl.study.cost",
    "wssl_pl.data.prepare", "wssl_pl.models.weights", "wssl_pl.models.onnx", "wssl_pl.export.weights",
    "wssl_pl.export.card", "wssl_pl.app.work", "onnxruntime", "onnx", "matplotlib.pyplot",
    "pandas", "pyarrow.parquet", "tensorboard",
)  # fmt: skip


def main() -> int:
    """Run the campaign, print its table, and return 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=sum(count for _, count in FAMILIES.values()))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(FAMILIES), help="families, with commas")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each family")
    parser.add_argument("--json", type=Path, help="file for the counts, written as they come")
    parser.add_argument("--work", type=Path, help="folder to work in, which stays (default: a temporary one)")
    parser.add_argument(
        "--limit", type=float, default=60.0, help="seconds of a case; a hang is tried again with thrice"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print the output of each fault, and of each case of 5 seconds or more"
    )
    options = parser.parse_args()
    runner.limit_s = options.limit
    names = options.only.split(",")
    total = sum(FAMILIES[name][1] for name in names)
    counts = {name: max(1, round(options.cases * FAMILIES[name][1] / total)) for name in names}
    with tempfile.TemporaryDirectory(prefix="wssl-fuzz-") as temporary:
        work = options.work or Path(temporary)
        results = campaign(work.resolve(), counts, options.seed, options.first, options.json, options.verbose)
    print(table(results))
    for name, result in results.items():
        for signature, entry in result.faults.items():
            print(f"{name}: {signature} ({entry['times']} times; {entry['words']})\n    {entry['command']}")
    return int(any(result.counts[fault] for result in results.values() for fault in FAULTS))


def campaign(
    work: Path, counts: dict[str, int], seed: int, first: int, out: Path | None, verbose: bool
) -> dict[str, FaultCounts]:
    """Run the cases of each family, and return the counts by family."""
    for module in IMPORTS:
        importlib.import_module(module)
    gc.freeze()  # a forked process does not copy what it only looks through
    base = work / "seeds"
    if not base.exists():
        base.mkdir(parents=True)
        in_child(quietly(lambda: seeds.make(base), work / "seeds.log"))
    before = snapshot(base)
    results = {}
    for name, count in counts.items():
        result = results[name] = FaultCounts()
        start = time.monotonic()
        for number, verdict in enumerate(verdicts(name, range(first, first + count), seed, base, work), 1):
            result.add(verdict)
            if verbose and (verdict.seconds > 5 or set(verdict.outcomes) & set(FAULTS)):
                print(f"--- {verdict}\n{(work / 'control' / 'output').read_text(errors='replace')[-3000:]}", flush=True)
            if out and (number % 50 == 0 or number == count):
                out.write_text(json.dumps({name: asdict(result) for name, result in results.items()}, indent=1))
        print(f"{name}: {count} cases in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    after = snapshot(base)
    if changed := [name for name, was in before.items() if after.get(name) != was]:
        raise SystemExit(f"the seed files were changed: {changed}")
    return results


def verdicts(name: str, numbers: range, seed: int, base: Path, work: Path) -> Iterator[Verdict]:
    """Yield what comes of the cases of a family."""
    make = FAMILIES[name][0]
    if make is not None:
        for number in numbers:
            yield run_case(name, make, seed, number, base, work)
        return
    for start in range(numbers.start, numbers.stop, requests.BATCH):
        batch = list(range(start, min(start + requests.BATCH, numbers.stop)))
        yield from run_batch(requests.run_batch, name, seed, batch, base, work)


def quietly(run: Callable[[], None], log: Path) -> Callable[[], None]:
    """Return a function that runs another with its output in a file."""

    def quiet() -> None:
        output = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        run()

    return quiet


def table(results: dict[str, FaultCounts]) -> str:
    """Return the counts as a table in Markdown."""
    lines = ["| what | cases | " + " | ".join(OUTCOMES) + " |", "|---" * (2 + len(OUTCOMES)) + "|"]
    for name, result in results.items():
        lines.append(f"| {name} | {result.cases} | " + " | ".join(str(result.counts[o]) for o in OUTCOMES) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # nothing is unloaded, which a frozen process reports as leaks
