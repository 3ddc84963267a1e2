"""Pages as jinja2 templates, Markdown beside its image files or one HTML file that holds everything.

A package with templates of its own extends the base: `{% extends "base.html.j2" %}`, rendered by
`render("study.html.j2", "wssl_pl.study", **context)`.
"""

import base64
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from wssl_pl.evaluation.metrics import LABELS, digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "supported": "#1a7f37",
    "refuted": "#b3261e",
    "contradictory": "#8a5a00",
    "partly supported": "#4c7d1f",
    "partly refuted": "#a0522d",
    "not shown": "#555555",
    "not decided": "#8a8a8a",
    "not converged": "#b3261e",
}
"""The colour of a state, in a drawing and where it is written in bold on an HTML page."""

DIGITS = {metric: digits(metric) for metric in (*LABELS, "val/psnr")}

Rows = Sequence[Sequence[str]]


def number(value: float | None, metric: str) -> str:
    """Return a metric's value as the report shows it."""
    return "-" if value is None else f"{value:.{DIGITS[metric]}f}"


def signed(value: float, metric: str) -> str:
    """Return a difference with its sign, never -0.00."""
    return f"{round(value, DIGITS[metric]) + 0.0:+.{DIGITS[metric]}f}"


def span(low: float, high: float, metric: str) -> str:
    """Return an interval in brackets."""
    return f"[{signed(low, metric)}, {signed(high, metric)}]"


def probability(p: float) -> str:
    """Return a p-value as the report shows it."""
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"


def render(template: str, package: str = "wssl_pl.evaluation", **context: Any) -> str:
    """Return the page that a template `NAME.md.j2` or `NAME.html.j2` gives; values are escaped in HTML.

    Args:
        template: the name of its file in the folder `templates`.
        package: the package it belongs to; the base templates are those of `wssl_pl.evaluation`.
        context: its variables.
    """
    return _environment(package).get_template(template).render(**context)


@cache
def _environment(package: str) -> jinja2.Environment:
    packages = dict.fromkeys([package, "wssl_pl.evaluation"])
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in packages]),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"markdown": markdown, "inline": inline, "data_uri": data_uri}
    return environment


def markdown(rows: Rows, words: Sequence[int] = (0,)) -> str:
    """Return a Markdown table, its header first; the columns in `words` are aligned to the left."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    rule = "|" + "".join("---|" if column in words else "---:|" for column in range(len(rows[0])))
    return "\n".join([lines[0], rule, *lines[1:]])


def inline(text: str) -> Markup:
    """Return HTML of text with `**bold**` and code as in Markdown; a state in bold has its colour."""

    def bold(match: re.Match[str]) -> str:
        colour = COLOURS.get(match[1])
        style = f" style='color:{colour}'" if colour else ""
        return f"<strong{style}>{match[1]}</strong>"

    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*(.+?)\*\*", bold, html))  # the text was escaped


def data_uri(png: bytes) -> str:
    """Return a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def plain_frame(axes: "Axes") -> None:
    """Hide the upper and the right border."""
    axes.spines[["top", "right"]].set_visible(False)
