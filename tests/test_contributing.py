"""What contributors and CI rely on: pins, hooks, workflows, templates, and tests that stay inside the repository."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
YAML = [ROOT / ".pre-commit-config.yaml", *sorted(ROOT.joinpath(".github").rglob("*.yml"))]
PAGES = ["README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "data/README.md", "benchmarks/README.md",
         *sorted(str(path.relative_to(ROOT)) for path in ROOT.joinpath("docs").glob("*.md"))]  # fmt: skip


def pins(name):
    """Return the pinned versions of a requirements file by package."""
    lines = [line.partition("#")[0].strip() for line in ROOT.joinpath(name).read_text().splitlines()]
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_files_can_be_read(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_hooks_have_the_pinned_versions():
    hooks = yaml.safe_load(YAML[0].read_text())["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff", "ruff-format", "mypy"}
    for hook in hooks:
        for requirement in hook.get("additional_dependencies", []):
            name, version = requirement.split("==")
            assert pins("requirements-quick.txt")[name] == version


def test_a_package_is_pinned_once():
    files = [path.name for path in ROOT.glob("requirements*.txt")]
    names = [name for file in files for name in pins(file)]
    assert sorted(names) == sorted(set(names))


def test_the_workflow_runs_what_is_there():
    jobs = yaml.safe_load(ROOT.joinpath(".github/workflows/ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert "make quick" in commands
    assert ".ci/run" in commands
    assert ROOT.joinpath(".ci/run").stat().st_mode & 0o111
    assert jobs["full"]["strategy"]["matrix"]["python-version"] == ["3.11", "3.12"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    folder = ROOT.joinpath(page).parent
    links = re.findall(r"\]\(((?!https?:|mailto:)[^)#\s]+)(?:#[^)]*)?\)", ROOT.joinpath(page).read_text())
    assert [link for link in links if not folder.joinpath(link).exists()] == []


def test_targets_of_the_pages_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", ROOT.joinpath("Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)(?=`|\s*#|\s*$)", ROOT.joinpath(page).read_text(), re.MULTILINE))
        assert named <= targets, page


def test_only_one_place_names_a_folder_outside_the_repository():
    outside = re.compile(r"parents\[[3-9]\]|\"shared\"|shared/")
    found = [path.name for path in ROOT.joinpath("tests").rglob("*.py") if outside.search(path.read_text())]
    assert sorted(found) == ["conftest.py", Path(__file__).name]
    assert "WSSL_TEST_DATA" in ROOT.joinpath("CONTRIBUTING.md").read_text()


def test_every_page_is_in_the_navigation_of_the_site():
    settings = yaml.load(ROOT.joinpath("mkdocs.yml").read_text(), yaml.BaseLoader)

    def pages(entries):
        for entry in entries:
            value = next(iter(entry.values()))
            yield from pages(value) if isinstance(value, list) else [value]

    docs = ROOT / "docs"
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    assert set(pages(settings["nav"])) == {page for page in there if not page.startswith("study/")}


def test_warnings_of_the_site_are_errors():
    (recipe,) = (line for line in ROOT.joinpath("Makefile").read_text().splitlines() if "mkdocs build" in line)
    assert "--strict" in recipe
    assert "--quiet" not in recipe, "MkDocs does not count warnings that it does not print"
