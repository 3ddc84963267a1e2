"""Writes the README's table of figures on real faces from the files in `benchmarks/results`.

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
    "scratch": "from scratch, same steps",
}
NEAR_CHANCE = 0.3  # for four levels, where guessing gives 0.25


def load(name: str) -> Any:
    """One of the result files."""
    return json.loads((RESULTS / name).read_text())


def pretext_lines() -> list[str]:
    """Accuracy of each head at the epoch that was kept, the best by their mean."""
    found = load("mini_pretext.json")
    (run,) = found["curves"].values()
    (summary,) = found["summary"].values()
    heads = {tag.rpartition("/")[2]: curve for tag, curve in run.items() if tag.startswith("val/accuracy/")}
    best = max(range(len(run["val/accuracy"])), key=lambda epoch: run["val/accuracy"][epoch][1])
    said = []
    for name, curve in heads.items():
        accuracy = curve[best][1]
        said.append(f"{name} {accuracy:.2f}" + (" (near chance)" if accuracy < NEAR_CHANCE else ""))
    step = run["val/accuracy"][best][0]
    minutes = summary["seconds"] / 60
    return [
        f"Pretext validation accuracy (chance 0.25) after {step:,} steps: {', '.join(said)}; "
        f"{summary['steps']:,} steps in {minutes:.0f} min.",
        "",
    ]


def table_lines() -> list[str]:
    """One row per method, on the same test pairs."""
    methods = load("classical.json")["protocols"][PROTOCOL]["methods"]
    summary = load("mini_curves.json")["summary"]
    lines = [
        "| on the same 400 test pairs | PSNR raw | SSIM raw | PSNR composite | SSIM composite | steps | minutes |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for key, name in NAMES.items():
        figures = methods[key]["figures"]["all"]
        cells = [f"{figures[tag]['mean']:.{digits}f}" for tag, digits in TAGS]
        run = summary.get(key)
        spent = [f"{run['steps']:,}", f"{run['seconds'] / 60:.0f}"] if run else ["", ""]
        lines.append("| " + " | ".join([name, *cells, *spent]) + " |")
    return [*lines, ""]


TAGS = (("psnr", 2), ("ssim", 4), ("psnr_composite", 2), ("ssim_composite", 4))


def verdict_lines() -> list[str]:
    """What the figures say, and which of them are not final."""
    figures = load("classical.json")["protocols"][PROTOCOL]["methods"]
    summary = load("mini_curves.json")["summary"]
    gap = {
        tag: figures["scratch"]["figures"]["all"][tag]["mean"] - figures["frozen"]["figures"]["all"][tag]["mean"]
        for tag in ("psnr_composite", "ssim_composite")
    }
    loser, winner = ("frozen encoder", "scratch") if gap["psnr_composite"] > 0 else ("scratch", "frozen encoder")
    said = [
        f"**The {loser} loses to {winner}** by {abs(gap['psnr_composite']):.2f} dB and "
        f"{abs(gap['ssim_composite']):.3f} SSIM (composite) at the same number of downstream steps, one seed each."
    ]
    for name in ("frozen", "scratch"):
        gain = summary[name]["gain_last_fifth_db"]
        state = "converged" if summary[name]["converged"] else "not converged: its figures are a lower bound"
        said.append(f"In its last fifth of steps `{name}` gained {gain:.2f} dB raw validation PSNR ({state}).")
    return [" ".join(said), ""]


def photo_line() -> str:
    """The shipped model beside classical methods, from `inpaint.py`; says so if one of these wins."""
    found = load("inpaint.json")
    pairs, small, large = found["pairs"], found["small"]["seconds"]["ONNX"], found["memory"]["PyTorch"]
    methods = {name: (figures["PSNR"], 1e3 * figures["seconds"]) for name, figures in pairs["methods"].items()}
    (ours, milliseconds), (_, onnx) = methods["Inpainter, PyTorch"], methods["Inpainter, ONNX"]
    others = {"biharmonic": methods["biharmonic"], "OpenCV's Telea": methods["telea"]}
    beside = " and ".join(f"{name} {psnr:.2f} dB ({spent:.0f} ms)" for name, (psnr, spent) in others.items())
    better = [name for name, (psnr, _) in others.items() if psnr > ours]
    faster = [name for name, (_, spent) in others.items() if spent < min(milliseconds, onnx)]
    return (
        f"- **Photos.** On {pairs['count']} of the test pairs the shipped model reaches {ours:.2f} dB (composite; "
        f"{milliseconds:.0f} ms a picture of {pairs['size']} px, {onnx:.0f} ms through ONNX), {beside}. "
        + (f"**Better than the model: {' and '.join(better)}.** " if better else "Neither is better; ")
        + (f"faster: {' and '.join(faster)}. " if faster else "neither is faster. ")
        + f"512 x 512 through ONNX takes {small['median']:.2f} s, {large['megapixels']:.0f} megapixels at width 32 "
        f"take {large['GB']:.1f} GB ([table](benchmarks/results/inpaint.md))."
    )


def training_line() -> str:
    """Ratios of the loop within one run, from `train_step.py`, and what the CPU's choices gain, from `cpu.py`."""
    files, cache, cpu = (load(f"{name}.json") for name in ("train_step", "train_step_cache", "cpu"))
    settings, machine = cache["settings"], cache["machine"]
    said = [
        f"{source} {found['pretext'][ratio]:.2f} (pretext) and {found['downstream'][ratio]:.2f} (downstream) of {what}"
        for ratio, what in (("loop/step", "the step with tasks and loss"), ("loop/bare", "the bare network step"))
        for source, found in (("from the cache", cache), ("from image files", files))
    ]
    chosen = f"{cpu['chosen']['precision']}, {cpu['chosen']['threads']} threads"
    gains = " and ".join(f"{cpu[stage][chosen]['ratio']:.1f} times ({stage})" for stage in ("pretext", "downstream"))
    return (
        f"- **Training loop**, width {settings['width']}, {settings['size']} px, {machine['precision']}, "
        f"{machine['threads']} CPU threads: {'; '.join(said)}. What a CPU chooses by itself ({chosen}) is {gains} as "
        "fast as float32 on one thread."
    )


def ssim_line() -> str:
    """Our SSIM against Kornia's, from `ssim.py` and `cpu.py`."""
    ssim, step = load("ssim.json"), load("cpu.json")["means"]["gain over: SSIM of Kornia"]
    plain, inside = (ssim[layout]["ratio"] for layout in ("contiguous", "channels_last"))
    return (
        "- **SSIM as a loss**, forward and backward, with the values and gradients of Kornia's: "
        f"{plain['median']:.1f} times as fast ({plain['min']:.1f} to {plain['max']:.1f} over the rounds); on "
        f"channels_last images, which are what the training step has, {inside['median']:.1f} times "
        f"({inside['min']:.1f} to {inside['max']:.1f}), because Kornia's is faster there itself; the downstream step "
        f"is {step:.2f} times as fast with it."
    )


def data_line() -> str:
    """What the cache is worth, from `data.py`."""
    data = load("data.json")
    prepare, crops, training, masks = (
        data["ratios"][name]
        for name in (
            "prepare / Pillow loop on the same cores",
            "crops from the cache / decoding with Pillow",
            "training from the cache / from memory",
            "masks measured per core and second",
        )
    )
    return (
        f"- **Data**, {data['images']['count']:,} JPEGs of {data['images']['side']} px: `prepare` is {prepare:.1f} "
        "times as fast as a loop of Pillow's open, convert and resize on the same cores; crops from its cache come "
        f"{crops:.0f} times as fast as by decoding; training from it runs at {training:.2f} of training from memory; "
        f"{masks:.0f} masks are measured per core and second ([table](benchmarks/results/data.md))."
    )


def section() -> str:
    """The text between the two marks."""
    machine = load("classical.json")["machine"]
    lines = [
        BEGIN,
        "",
        "CelebA-HQ-mini (3,600 / 200 / 400 faces), 128 px, width 16, batch 16 (pretext 32), Adam 5e-4 and at the "
        "end along a cosine to 0 (pretext 3e-4), saturation 0.3 + sharpness 0.7, QD-style masks of 30-50 %. Not the "
        "paper's 30,000 images.",
        "",
        *pretext_lines(),
        *table_lines(),
        *verdict_lines(),
        "Speed is compared within one run, in turn:",
        "",
        photo_line(),
        training_line(),
        ssim_line(),
        data_line(),
        "",
        "![Validation curves of both runs](benchmarks/results/mini_curves.png)",
        "",
        f"Measured on {machine['cores']} CPU cores that did other work too (read the minutes to a factor of a few), "
        f"torch {machine['torch']}; commands in [benchmarks/README.md](benchmarks/README.md), intervals and other "
        "masks in [benchmarks/results/classical.md](benchmarks/results/classical.md).",
        "",
        END,
    ]
    return "\n".join(lines)


def main() -> None:
    """Writes the section, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    path = ROOT / "README.md"
    text = path.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    new = before + section() + after
    if args.check:
        sys.exit(0 if new == text else "README.md does not say what benchmarks/results holds")
    path.write_text(new)


if __name__ == "__main__":
    main()
