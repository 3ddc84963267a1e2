"""The measurements of `gpu.py` as Markdown tables."""

from collections.abc import Sequence
from typing import Any


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers to three or four digits, nothing for None."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def percent(value: float | None) -> str:
    """`0.123` as `12 %`."""
    return "" if value is None else f"{100 * value:.0f} %"


def as_markdown(data: dict[str, Any]) -> str:
    """All parts that there are, each under a heading."""
    about, settings = data["machine"], data["settings"]
    parts = data["parts"]
    versions = ", ".join(f"{key} {about[key]}" for key in ("driver", "cuda", "cudnn", "torch", "lightning", "python"))
    text = [
        f"# Training speed on {about['device']}",
        f"{about['date']}; {versions}; precision {about['precision']}. Width {settings['width']}, "
        f"{settings['size']} px, channels_last, cuDNN benchmark {settings['cudnn_benchmark']}, "
        f"compile mode {settings['compile_mode']}.",
    ]
    if "flops_per_image" in data:
        counted = ", ".join(f"{stage} {flops / 1e9:.3g}" for stage, flops in data["flops_per_image"].items())
        text.append(f"GFLOP per training image, counted: {counted}. Spread: largest less smallest, over the median.")
    for part, (title, make) in SECTIONS.items():
        if part in parts:
            text += [f"## {title}", make(parts)]
    if data["not_measured"]:
        text += ["## Not measured for lack of time", ", ".join(data["not_measured"])]
    return "\n\n".join(text) + "\n"


def ceilings(parts: dict[str, Any]) -> str:
    """Part a."""
    rows: list[Sequence[Any]] = []
    for name, record in parts["a"].items():
        if "error" in record:
            rows.append((name, record["error"], None))
        elif "gb_per_s" in record:
            rows.append((f"copy, {record['megabytes']} MB", f"{record['gb_per_s']:,.0f} GB/s", None))
        else:
            what = f"{record['side']}³" if "side" in record else f"batch {record['batch']}"
            rows.append((f"{name}, {what}", f"{record['tflops']:.3g} TFLOP/s", record.get("images_per_s")))
    shapes = [
        (stage, shape["shape"], shape["times"], shape["ms"], shape["tflops"])
        for stage in ("pretext", "downstream")
        for shape in parts["a"].get(f"convolutions_{stage}", {}).get("shapes", [])
    ]
    return "\n\n".join(
        [
            table(("ceiling", "rate", "images/s if nothing else took time"), rows),
            table(("stage", "convolution", "times", "ms", "TFLOP/s"), shapes),
        ]
    )


def steps(parts: dict[str, Any]) -> str:
    """Parts b and d."""
    rows = []
    known = parts.get("a", {})
    for record in parts["b"].values():
        rate = record.get("tflops")
        over = [known.get(name, {}).get("tflops") for name in (f"convolutions_{record['stage']}", "matmul")]
        rows.append(
            (
                record["stage"], record["kind"], record["variant"], record["batch"],
                record.get("error") or record.get("images_per_s"), percent(record.get("spread")), rate,
                *(percent(rate / ceiling) if rate and ceiling else None for ceiling in over),
                record.get("peak_gib"), record.get("first_call_s"),
            )
        )  # fmt: skip
    heads = (
        "stage", "kind", "variant", "batch", "images/s", "spread", "TFLOP/s", "of convolutions", "of matmul",
        "peak GiB", "first call s",
    )  # fmt: skip
    return table(heads, rows)


def loops(parts: dict[str, Any]) -> str:
    """Part c."""
    rows = [
        (
            record["stage"], record["variant"], record["batch"], record.get("error") or record.get("images_per_s"),
            percent(record["spread"]) if record["spread"] != [] else None, record["step_images_per_s"],
            record.get("loop/step"), record.get("peak_gib"),
        )
        for record in parts["c"].values()
    ]  # fmt: skip
    heads = ("stage", "variant", "batch", "loop images/s", "spread", "step images/s", "loop/step", "peak GiB")
    return table(heads, rows)


def kernels(parts: dict[str, Any]) -> str:
    """Part e."""
    rows = [
        (case, kernel["name"].replace("|", "/"), kernel["calls"], kernel["ms"], percent(kernel["share"]))
        for case, record in parts["e"].items()
        for kernel in record.get("kernels", [])
    ]
    return table(("step", "kernel", "calls", "ms per step", "share"), rows)


def curves(parts: dict[str, Any]) -> str:
    """Part f."""
    rows = [
        (
            stage,
            *(figures["end"][name] for name in ("float32", "bf16", "seed")),
            figures["bf16_gap"],
            figures["seed_gap"],
        )
        for stage, figures in parts["f"].items()
    ]
    heads = ("stage", "float32", "bf16", "float32, other seed", "mean gap of bf16", "mean gap of the seed")
    return table(heads, rows) + "\n\nLosses are means over the last quarter of the steps; gaps are relative to float32."


SECTIONS = {
    "a": ("Ceilings", ceilings),
    "b": ("Steps, and peak memory", steps),
    "c": ("The Lightning loop on images in memory", loops),
    "e": ("The ten most expensive kernels", kernels),
    "f": ("Float32 against bfloat16", curves),
}
