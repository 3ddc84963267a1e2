"""A page as a list of blocks, written as Markdown beside its pictures or as one HTML file that holds everything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wssl_pl.evaluation.pages import Rows, markdown, render


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

    cells: Rows
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
            lines += [markdown(block.cells, block.words), ""]
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
    return render("document.html.j2", "wssl_pl.study", title=title, blocks=blocks, pictures=pictures)
