"""The version, the citation file, the change log and the requirements agree."""

import re
from pathlib import Path

import yaml

import wssl_pl

ROOT = Path(__file__).parents[1]


def release_problems(version: str, changelog: str, citation: dict) -> list[str]:
    """Return what contradicts itself.

    Between releases the version ends with `.dev0` and the change log begins with [Unreleased]. A release has a dated
    section, the same number everywhere, and its date in the citation file.
    """
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changelog, flags=re.MULTILINE)
    problems = []
    if citation["version"] != version:
        problems.append(f"CITATION.cff has version {citation['version']}, the package {version}")
    newest, date = headings[0]
    if newest == "Unreleased":
        if not version.endswith(".dev0"):
            problems.append(f"CHANGELOG.md begins with [Unreleased], but version {version} does not end with .dev0")
        if "date-released" in citation:
            problems.append("CITATION.cff has a date-released between releases")
    else:
        if newest != version:
            problems.append(f"CHANGELOG.md begins with {newest}, the version is {version}")
        if not date or str(citation.get("date-released")) != date:
            problems.append(f"CHANGELOG.md has the date {date}, CITATION.cff {citation.get('date-released')}")
    return problems


def test_version_citation_and_changelog_agree():
    citation = yaml.safe_load(ROOT.joinpath("CITATION.cff").read_text())
    assert release_problems(wssl_pl.__version__, ROOT.joinpath("CHANGELOG.md").read_text(), citation) == []


def test_a_contradiction_is_found():
    unreleased, released = "# Changelog\n\n## [Unreleased]\n", "# Changelog\n\n## [0.2.0] - 2026-01-31\n"
    assert release_problems("0.2.0.dev0", unreleased, {"version": "0.2.0.dev0"}) == []
    assert release_problems("0.2.0", released, {"version": "0.2.0", "date-released": "2026-01-31"}) == []
    assert release_problems("0.2.0", unreleased, {"version": "0.2.0"}) != []
    assert release_problems("0.2.0", released, {"version": "0.2.0"}) != []
    assert release_problems("0.2.0", released, {"version": "0.1.0", "date-released": "2026-01-31"}) != []
    assert release_problems("0.2.1", released, {"version": "0.2.1", "date-released": "2026-01-31"}) != []


def test_the_version_is_written_in_one_place():
    setup = ROOT.joinpath("setup.cfg").read_text()
    assert "version = attr: wssl_pl.__version__" in setup
    assert setup.count(wssl_pl.__version__) == 0


def test_the_licence_of_the_weights_is_said_beside_that_of_the_code():
    setup = ROOT.joinpath("setup.cfg").read_text()
    (expression,) = re.findall(r"^license_expression = (.*)$", setup, flags=re.MULTILINE)
    code, _, weights = expression.partition(" AND ")
    assert code == "Apache-2.0"
    assert weights.startswith("LicenseRef-")
    assert "NonCommercial" in weights
    # The licence file is beside the weights and in the wheel; the README, the long description, links to it.
    (path,) = (file.parent / "LICENSE" for file in ROOT.joinpath("wssl_pl").rglob("*.safetensors"))
    licence = path.relative_to(ROOT).as_posix()
    assert "non-commercial research purposes only" in " ".join(path.read_text().split())
    assert licence in setup
    readme = ROOT.joinpath("README.md").read_text()
    assert licence in readme
    assert "non-commercial research only" in readme
