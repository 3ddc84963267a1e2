"""Copies the reports of studies to `benchmarks/results/study/`, without what may not be redistributed.

    wssl study report runs/study/controls
    python benchmarks/study_page.py runs/study/controls

Takes folders of studies or of reports. Left out are images of the test set (Figure 3) and folders of the machine.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "study"
FACES = "figure3.png"
# A folder of somebody's machine, as in the reason why a run failed.
FOLDERS = re.compile(r"(?<![\w.:/])/(?:[\w.@+-]+/)+")
FIGURE = re.compile(r"!\[[^\]]*\]\(([^)]*)\)\n\n\*[^\n]*\*\n\n?")


def copy_report(given: Path, out: Path) -> Path:
    """Copy `report.md` of a study with its figures, named after the study, and return the page."""
    folder = next((path for path in (given / "report", given) if (path / "report.md").is_file()), None)
    if folder is None:
        sys.exit(f"{given} holds no report.md: make one with `wssl study report {given}`")
    text = (folder / "report.md").read_text()
    name = text.splitlines()[0].removeprefix("# Study ").replace("+", "_")
    out.mkdir(parents=True, exist_ok=True)

    def figure(match: re.Match[str]) -> str:
        file = match[1]
        if file.endswith(FACES):
            return ""
        shutil.copyfile(folder / file, out / f"{name}_{file}")
        return match[0].replace(f"({file})", f"({name}_{file})")

    page = out / f"{name}.md"
    page.write_text(FOLDERS.sub("", FIGURE.sub(figure, text)))
    return page


def main() -> None:
    """Copy the reports of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    for study in args.studies:
        print(copy_report(study, args.out))


if __name__ == "__main__":
    main()
