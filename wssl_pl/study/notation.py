"""How the report writes numbers."""

from collections.abc import Mapping
from typing import Any


def digits_of(figure: str) -> int:
    """PSNR with two digits, the rest with four."""
    return 2 if figure.removeprefix("val/").startswith("psnr") else 4


def signed(value: float, figure: str) -> str:
    """A difference with its sign, never -0.00."""
    return f"{round(value, digits_of(figure)) + 0.0:+.{digits_of(figure)}f}"


def span(entry: Mapping[str, Any], figure: str, which: str = "") -> str:
    """An interval in brackets; `which` is `bootstrap_` for the bootstrap's."""
    return f"[{signed(entry[f'{which}low'], figure)}, {signed(entry[f'{which}high'], figure)}]"


def probability(p: float) -> str:
    """A p-value as it is written."""
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"


def mean_and_spread(entry: Mapping[str, Any], figure: str) -> str:
    """`mean ± sd`, the mean alone with one seed, a dash without any."""
    if entry["mean"] is None:
        return "-"
    digits = digits_of(figure)
    return f"{entry['mean']:.{digits}f}" + ("" if entry["sd"] is None else f" ± {entry['sd']:.{digits}f}")
