"""Write the tables of docs/reliability.md from `benchmarks/results/fuzz.json`.

python benchmarks/reliability.py --collect FILE...   # results of `python -m tests.fuzz --json` and `tests.fuzz.kills`
python benchmarks/reliability.py                     # writes the page's tables
python benchmarks/reliability.py --check             # exit code 1 if the page says something else
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "reliability.md", ROOT / "benchmarks" / "results" / "fuzz.json"
BEGIN, END = "<!-- made by benchmarks/reliability.py -->", "<!-- end -->"
PACKAGES = ("torch", "lightning", "pillow", "onnxruntime", "gradio", "ray")
OUTCOMES = ("clean", "one line", "traceback", "hang", "over 1 GB", "code ran", "let in", "lost")
LABELS = {
    "pictures": "pictures",
    "safetensors": "safetensors and exported folders",
    "onnx": "ONNX files",
    "masks": "index of masks",
    "study": "folders of studies",
    "definition": "definitions of studies",
    "cache": "caches",
    "pairs": "pairs",
    "results": "results of evaluations",
    "checkpoint": "checkpoints",
    "line": "command lines",
    "config": "configurations",
    "doors": "foreign code, paths and links",
    "places": "full disk, no permission, two at once",
    "requests": "requests to the page",
}
KILLED = ("kills", "finished", "equal", "dead_ends", "leftovers", "lost")


def collect(files: list[Path]) -> dict[str, Any]:
    """Return one record of the counts in several files, with the machine and the versions."""
    record: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip(),
        "families": {},
        "kills": {},
    }
    for file in files:
        for name, result in json.loads(file.read_text()).items():
            part = record["families" if "counts" in result else "kills"]
            part[name] = _sum(part[name], result) if name in part else result
    return record


def _sum(first: Any, second: Any) -> Any:
    """Return the counts of two parts of a campaign together."""
    if isinstance(first, dict):
        peak = max(first.get("megabytes", 0), second.get("megabytes", 0))
        whole = {**first, **{key: _sum(first[key], value) if key in first else value for key, value in second.items()}}
        return whole | ({"megabytes": peak} if peak else {})
    return first if isinstance(first, str) else first + second


def section(record: dict[str, Any]) -> str:
    """Return the text between the two marks."""
    families = record["families"]
    lines = ["| | cases | " + " | ".join(OUTCOMES) + " |", "|---" + "|---:" * (1 + len(OUTCOMES)) + "|"]
    total = dict.fromkeys(OUTCOMES, 0)
    for name, label in LABELS.items():
        if name in families:
            counts = families[name]["counts"]
            total = {outcome: total[outcome] + counts[outcome] for outcome in OUTCOMES}
            lines.append(f"| {label} | {families[name]['cases']:,} | " + " | ".join(map(str, counts.values())) + " |")
    cases = sum(result["cases"] for result in families.values())
    lines.append(f"| all | {cases:,} | " + " | ".join(map(str, total.values())) + " |")
    lines += ["", "| killed | kills | finished | equal | dead ends | leftovers | lost |", "|---" + "|---:" * 6 + "|"]
    for name, result in record["kills"].items():
        lines.append(f"| {name} | " + " | ".join(str(result[key]) for key in KILLED) + " |")
    faults = [(name, key, entry) for name, result in families.items() for key, entry in result["faults"].items()]
    if faults:
        lines += ["", "Faults that are left:", ""]
        lines += [f"- {name}: {key} ({entry['times']}): `{entry['command']}`" for name, key, entry in faults]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines += [
        "",
        f"Commit {record['commit']}; {record['cores']} shared CPU cores, Python {record['python']}, {versions}.",
    ]
    return "\n".join([BEGIN, "", *lines, "", END])


def main() -> None:
    """Collect results, write the page's tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.collect:
        RESULTS.write_text(json.dumps(collect(options.collect), indent=1) + "\n")
    text = PAGE.read_text()
    new = text.split(BEGIN)[0] + section(json.loads(RESULTS.read_text())) + text.split(END)[1]
    if options.check and text != new:
        sys.exit("docs/reliability.md does not say what benchmarks/results/fuzz.json holds")
    if not options.check:
        PAGE.write_text(new)


if __name__ == "__main__":
    main()
