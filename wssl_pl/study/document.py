"""A page as a list of blocks, written as Markdown beside its pictures or as one HTML file that holds everything."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wssl_pl.evaluation.report import STYLE, Cells, data_uri, markdown

STATES = {
    "supported": "#1a7f37",
    "refuted": "#b3261e",
    "contradictory": "#8a5a00",
    "partly supported": "#4c7d1f",
    "partly refuted": "#a0522d",
    "not shown": "#555555",
    "not decided": "#8a8a8a",
    "not converged": "#b3261e",
}
"""Words of a verdict and the colour that the HTML page gives them where they stand in bold."""

EXTRA_STYLE = """
h2 { margin-top: 2em; border-bottom: 2px solid #eee; padding-bottom: .2em; } h3 { margin-top: 1.6em; }
body { max-width: 96em; } h1 ~ ul, p { max-width: 80em; } table { font-size: 13.5px; }
th, td { padding: .25em .55em; } td.left, th.left { text-align: left; }
td.left { font-weight: 400; white-space: normal; } td.left:first-child { font-weight: 600; min-width: 15em; }
li { margin: .35em 0; } figure { margin: 1em 0; } code { background: #f4f4f4; padding: 0 .25em; }
"""


@dataclass
class Heading:
    """A title; level 1 is the page's."""

    text: str
    level: int = 2


@dataclass
class Text:
    """A paragraph; `**bold**` and `code` as in Markdown."""

    text: str


@dataclass
class Items:
    """A list of lines."""

    lines: Sequence[str]


@dataclass
class Grid:
    """A table of header and rows, whose columns named in `words` hold words and not numbers."""

    cells: Cells
    words: Sequence[int] = (0,)


@dataclass
class Picture:
    """A picture of the report's folder, with what it shows."""

    file: str
    caption: str


Block = Heading | Text | Items | Grid | Picture


def as_markdown(blocks: Sequence[Block], folder: str = "") -> str:
    """The page as Markdown.

    Args:
        blocks: of the page.
        folder: where its pictures lie, relative to it.
    """
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            lines += ["#" * block.level + " " + block.text, ""]
        elif isinstance(block, Text):
            lines += [block.text, ""]
        elif isinstance(block, Items):
            lines += [*[f"- {line}" for line in block.lines], ""]
        elif isinstance(block, Grid):
            cells = [[cell.replace("|", "\\|") for cell in row] for row in block.cells]
            header, rule, *rows = markdown(cells)
            rule = "|" + "".join("---|" if n in block.words else "---:|" for n in range(len(cells[0])))
            lines += [header, rule, *rows, ""]
        else:
            lines += [f"![{block.caption}]({folder}{block.file})", "", f"*{block.caption}*", ""]
    return "\n".join(lines).rstrip() + "\n"


def as_html(blocks: Sequence[Block], pictures: Mapping[str, bytes]) -> str:
    """The page as one HTML file: pictures inside as base64, nothing fetched from elsewhere.

    Args:
        blocks: of the page.
        pictures: PNG bytes by file name.
    """
    title = next((block.text for block in blocks if isinstance(block, Heading)), "report")
    out = [f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"]
    out.append(f"<style>{STYLE}{EXTRA_STYLE}</style></head><body>")
    for block in blocks:
        if isinstance(block, Heading):
            out.append(f"<h{block.level}>{_inline(block.text)}</h{block.level}>")
        elif isinstance(block, Text):
            out.append(f"<p>{_inline(block.text)}</p>")
        elif isinstance(block, Items):
            out.append("<ul>" + "".join(f"<li>{_inline(line)}</li>" for line in block.lines) + "</ul>")
        elif isinstance(block, Grid):
            out.append(_table(block))
        else:
            caption = html.escape(block.caption)
            out.append(f"<figure><img alt='{caption}' src='{data_uri(pictures[block.file])}'>")
            out.append(f"<figcaption>{caption}</figcaption></figure>")
    return "\n".join([*out, "</body></html>\n"])


def _table(grid: Grid) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [" class='left'" if number in grid.words else "" for number in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{k}>{_inline(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True)) + "</tr>"

    body = "".join(row(cells, "td") for cells in grid.cells[1:])
    return f"<table><thead>{row(grid.cells[0], 'th')}</thead><tbody>{body}</tbody></table>"


def _inline(text: str) -> str:
    """Bold and code as in Markdown, everything else as it stands; a verdict in bold has its colour."""

    def bold(match: re.Match[str]) -> str:
        colour = STATES.get(match[1])
        return f"<strong style='color:{colour}'>{match[1]}</strong>" if colour else f"<strong>{match[1]}</strong>"

    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return re.sub(r"\*\*(.+?)\*\*", bold, text)
