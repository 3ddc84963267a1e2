"""The folder of a study with sections: a study's folder for each, and their names in `sections.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wssl_pl.errors import WSSLError
from wssl_pl.files import owned, write_json, writing
from wssl_pl.records import read_json
from wssl_pl.study.definition import Study
from wssl_pl.study.folder import StudyFolder
from wssl_pl.study.plan import Plan
from wssl_pl.study.reuse import different_rules, reuse

SECTIONS = "sections.json"


def start_sections(out: Path, studies: Mapping[str, Study]) -> list[StudyFolder]:
    """Start studies, each in its section's folder of `out`, and return the folders; `""` is `out` itself.

    Raises:
        WSSLError: as `StudyFolder.start`.
    """
    folders = [StudyFolder(out / section) for section in studies]
    with owned(out):
        if "" not in studies:
            if StudyFolder(out).holds_study():
                raise WSSLError("out", out, "holds a study without sections", "give a new folder")
            known = section_names(out) if (out / SECTIONS).is_file() else []
            with writing("out", out):
                write_json(out / SECTIONS, list(dict.fromkeys([*known, *studies])))
        for folder, study in zip(folders, studies.values(), strict=True):
            folder.start(study)
    return folders


def open_sections(path: str | Path) -> list[StudyFolder]:
    """Return the folders of a study's sections that were started, or of a study without sections its own.

    Raises:
        WSSLError: it holds no study.
    """
    if not (Path(path) / SECTIONS).is_file():
        return [StudyFolder.open(path)]
    found = [StudyFolder(Path(path) / name) for name in section_names(Path(path))]
    return [folder for folder in found if folder.holds_study()] or [StudyFolder.open(path)]


def reuse_sections(folder: StudyFolder, others: Sequence[StudyFolder], plan: Plan) -> int:
    """Link the finished runs that a plan shares with the sections of the same rules, and return how many.

    Raises:
        WSSLError: as `reuse`, where every section has other rules.
    """
    same = [other for other in others if not different_rules(folder, other)]
    return sum(reuse(folder, other, plan) for other in same or others)


def section_names(path: Path) -> list[str]:
    """Return what `sections.json` holds.

    Raises:
        WSSLError: it cannot be read.
    """
    names: list[str] = read_json(path / SECTIONS, list[str], "out", "delete the file, and resume section by section")
    if wrong := [name for name in names if Path(name).name != name]:
        raise WSSLError("out", path / SECTIONS, f"cannot be read ({wrong[0]!r} is no name)", "delete the file")
    return names
