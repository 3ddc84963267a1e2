"""Write the README's tables of results from the files in `benchmarks/results`.

python benchmarks/readme_table.py            # after curves.py and classical.py --ckpt ...
python benchmarks/readme_table.py --check    # exit code 1 if the README says something else
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: written by benchmarks/readme_table.py -->", "<!-- end of results -->"
PROTOCOL = "QD-style masks of 30-50 %"
NAMES = {
    "mean": "filling with the mean",
    "telea": "OpenCV's Telea",
    "biharmonic": "biharmonic",
    "frozen": "pretext, encoder frozen",
    "scratch": "from scratch, same downstream steps",
}
SIZE = 128
STAGES = ("pretext", "downstream")


def load(name: str) -> Any:
    """One of the result files."""
    return json.loads((RESULTS / name).read_text())


def table_lines() -> list[str]:
    """One row per method, on the same test pairs."""
    measured = load("classical.json")
    methods = measured["protocols"].get(PROTOCOL, {}).get("methods", {})
    if measured["size"] != SIZE or not NAMES.keys() <= methods.keys():
        sys.exit(f"classical.json does not hold {', '.join(NAMES)} at {SIZE} px, under {PROTOCOL}")
    summary = load("mini_curves.json")["summary"]
    pretext = load("mini_pretext.json")["summary"]["pretext"]
    lines = [
        "| on the same 400 test pairs | PSNR raw | SSIM raw | PSNR composite | SSIM composite | steps | minutes |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for key, name in NAMES.items():
        figures = methods[key]["figures"]["all"]
        cells = [f"{figures[tag]['mean']:.{digits}f}" for tag, digits in TAGS]
        run = summary.get(key)
        spent = [f"{run['steps']:,}", f"{run['seconds'] / 60:.0f}"] if run else ["", ""]
        if key == "frozen":
            spent = [f"{pretext['steps']:,} + {spent[0]}", f"{pretext['seconds'] / 60:.0f} + {spent[1]}"]
        lines.append("| " + " | ".join([name, *cells, *spent]) + " |")
    return [*lines, ""]


TAGS = (("psnr", 2), ("ssim", 4), ("psnr_composite", 2), ("ssim_composite", 4))


def speed_lines() -> list[str]:
    """Ratios measured within one run each, and the program that measured them."""
    train, cache, cpu, ssim, data = (
        load(f"{name}.json") for name in ("train_step", "train_step_cache", "cpu", "ssim", "data")
    )
    chosen = f"{cpu['chosen']['precision']}, {cpu['chosen']['threads']} threads"
    lines = ["| speed, as a ratio within one run | pretext | downstream |", "|---|---:|---:|"]
    for name, ratio in (
        ("Lightning loop from the cache / bare network step", {s: cache[s]["loop/bare"] for s in STAGES}),
        ("Lightning loop from image files / bare network step", {s: train[s]["loop/bare"] for s in STAGES}),
        (f"{chosen} / float32 on one thread", {s: cpu[s][chosen]["ratio"] for s in STAGES}),
    ):
        lines.append(f"| {name} | {ratio['pretext']:.2f} | {ratio['downstream']:.2f} |")
    lines += ["", "| speed, as a ratio within one run | |", "|---|---:|"]
    for name, value in (
        ("SSIM as a loss / Kornia's", ssim["contiguous"]["ratio"]["median"]),
        ("SSIM as a loss / Kornia's, channels_last", ssim["channels_last"]["ratio"]["median"]),
        ("`prepare` / a loop of Pillow on the same cores", data["ratios"]["prepare / Pillow loop on the same cores"]),
        ("crops from the cache / decoding", data["ratios"]["crops from the cache / decoding with Pillow"]),
    ):
        lines.append(f"| {name} | {value:.1f} |")
    return [*lines, ""]


def section() -> str:
    """The text between the two marks."""
    machine = load("classical.json")["machine"]
    lines = [
        BEGIN,
        "",
        *table_lines(),
        f"CelebA-HQ-mini (3,600 / 200 / 400 faces), {SIZE} px, width 16, batch 16, masks of 30-50 %, one seed; "
        "pretext: saturation 0.3 + sharpness 0.7. Not the paper's 30,000 images.",
        "",
        f"Measured on {machine['cores']} shared CPU cores, torch {machine['torch']}. Commands: "
        "[benchmarks/README.md](benchmarks/README.md). Speed: "
        "[benchmarks/results/speed.md](benchmarks/results/speed.md).",
        "",
        END,
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the README's section and `speed.md`, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    speed = RESULTS / "speed.md"
    for path, new in ((readme, before + section() + after), (speed, "\n".join(["# Speed", "", *speed_lines()]))):
        if args.check and (not path.exists() or path.read_text() != new):
            sys.exit(f"{path.relative_to(ROOT)} does not say what benchmarks/results holds")
        if not args.check:
            path.write_text(new)


if __name__ == "__main__":
    main()
