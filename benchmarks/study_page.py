"""Writes a page of the documentation from the reports of studies: verdicts first, then tables and figures.

    python train.py study report runs/study/controls
    python benchmarks/study_page.py runs/study/controls --words docs/study/words.md --out docs/study.md \
        --figures docs/study/

Takes folders of studies, of reports, or `report.json` files. Every number and every picture is the report's; what
people make of them stands in the file of `--words`, first on the page. Pictures of test images (Figure 3) are left
out: they may not be redistributed.
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wssl_pl.study import content
from wssl_pl.study.document import Block, Heading, Items, Picture, Text, as_markdown
from wssl_pl.study.summary import VERSION

FACES = "figure3.png"
# A folder of somebody's machine, as in the reason why a run failed.
FOLDERS = re.compile(r"(?<![\w.:/])/(?:[\w.@+-]+/)+")


def find_report(given: Path) -> Path:
    """The `report.json` that a folder of a study or of a report means."""
    for path in (given, given / "report" / "report.json", given / "report.json"):
        if path.is_file():
            return path
    sys.exit(f"{given} holds no report.json: make one with `python train.py study report {given}`")


def read_report(path: Path, figures: Path) -> dict[str, Any]:
    """A report's numbers; its pictures, but for faces, are copied to `figures`, named after the study."""
    summary = json.loads(path.read_text())
    if summary.get("version") != VERSION:
        sys.exit(f"{path} is of another version: make the report anew with `python train.py study report`")
    kept = {}
    for name, caption in summary["pictures"].items():
        if not name.endswith(FACES):
            kept[name] = caption
            figures.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path.parent / name, figures / picture_name(summary, name))
    values: dict[str, Any] = summary | {"pictures": kept, "notes": []}
    return values


def picture_name(summary: dict[str, Any], name: str) -> str:
    """A picture's name beside those of other studies."""
    return f"{summary['name'].replace('+', '_')}_{name}"


def page(summaries: Sequence[dict[str, Any]], title: str, words: str = "") -> list[Block]:
    """The page: what every study says, how to read it, and then all tables and figures."""
    blocks: list[Block] = [Heading(title, 1)]
    blocks += [Text(paragraph) for paragraph in words.strip().split("\n\n") if paragraph]
    for summary in summaries:
        blocks += named(summary, [Heading("What came out best"), *content.order(summary)])
    for summary in summaries:
        blocks += named(summary, [*content.verdicts(summary), Text("The study:"), *content.facts(summary)])
    blocks += content.how_to_read(summaries[0])
    for summary in summaries:
        parts = [content.section_tables, content.curves, content.not_run, content.search]
        for part in parts:
            blocks += named(summary, part(summary))
    return [*blocks, *made_by(summaries)]


def named(summary: dict[str, Any], blocks: Sequence[Block]) -> list[Block]:
    """The blocks of one study, whose name stands in its main headings."""
    found: list[Block] = []
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            block = Heading(f"{block.text}: {summary['name']}")
        elif isinstance(block, Picture):
            block = Picture(picture_name(summary, block.file), block.caption)
        found.append(block)
    return found


def made_by(summaries: Sequence[dict[str, Any]]) -> list[Block]:
    """Machines, versions and commands."""
    lines = []
    for summary in summaries:
        for machine in summary["machines"]:
            versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "numpy"))
            lines.append(f"{summary['name']}: {machine['device']}, {machine['cores']} cores; {versions}")
    folders = {summary["name"]: f"runs/study/{summary['name'].replace('+', '_')}" for summary in summaries}
    commands = [f"`python train.py study {name.replace('+', ' ')} out={folders[name]}`" for name in folders]
    commands += [f"`python train.py study report {folder}`" for folder in folders.values()]
    commands.append(f"`python benchmarks/study_page.py {' '.join(folders.values())} --words docs/study/words.md`")
    about = "Commands, each study with the seeds, steps and options that its list above names:"
    return [Heading("Machines, versions, commands"), Items(lines), Text(about), Items(commands)]


def main() -> None:
    """Reads the reports and writes page and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/study.md"))
    parser.add_argument("--figures", type=Path, default=Path("docs/study"))
    parser.add_argument("--words", type=Path, help="a text that comes first, paragraphs apart by an empty line")
    parser.add_argument("--title", default="What the studies say")
    args = parser.parse_args()
    summaries = [read_report(find_report(given), args.figures) for given in args.studies]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(os.path.relpath(args.figures, args.out.parent)).as_posix()
    words = args.words.read_text() if args.words else ""
    text = as_markdown(page(summaries, args.title, words), f"{folder}/")
    args.out.write_text(FOLDERS.sub("", text))


if __name__ == "__main__":
    main()
