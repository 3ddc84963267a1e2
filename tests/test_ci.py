"""The scripts around the tests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def install_browser(tmp_path):
    """Runs `.ci/browser` where these commands are all there is; each is given as the body of a shell script."""

    def run(system="ID=debian\n", **commands):
        folder = tmp_path / "bin"
        folder.mkdir()
        for tool in ("env", "bash", "grep", "tail", "mktemp", "rm"):
            (folder / tool).symlink_to(shutil.which(tool))
        for name, body in commands.items():
            (folder / name.replace("_", "-")).write_text(f"#!{folder}/bash\n{body}\n")
            (folder / name.replace("_", "-")).chmod(0o755)
        (tmp_path / "os-release").write_text(system)
        environment = {"PATH": str(folder), "TMPDIR": str(tmp_path), "OS_RELEASE": str(tmp_path / "os-release")}
        done = subprocess.run(
            [str(ROOT / ".ci" / "browser")], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


ROOT_USER = "echo 0"
APT = 'echo "$@" >> "$TMPDIR/calls"'


def test_chromium_is_installed_by_root_on_debian(install_browser, tmp_path):
    said = install_browser(id=ROOT_USER, apt_get=APT)
    assert said.startswith("Installed")
    update, install = (tmp_path / "calls").read_text().splitlines()
    assert update.endswith("update")
    assert install.endswith("install -y --no-install-recommends chromium")


def test_a_browser_that_is_there_is_taken(install_browser, tmp_path):
    assert install_browser(id=ROOT_USER, apt_get=APT, chromium="true") == ""
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("system", "commands", "reason"),
    [
        ("ID=debian\n", {"id": "echo 1000", "apt_get": APT}, "not root"),
        ("ID=fedora\n", {"id": ROOT_USER}, "there is no apt-get"),
        ("ID=ubuntu\n", {"id": ROOT_USER, "apt_get": APT}, "this is not Debian"),
        ("ID=debian\n", {"id": ROOT_USER, "apt_get": "echo E: no network; exit 100"}, "E: no network"),
    ],
)
def test_without_a_browser_the_reason_is_shown(install_browser, system, commands, reason):
    said = install_browser(system, **commands)
    assert said.startswith("No Chromium: ")
    assert reason in said
    assert said.endswith("The browser test is skipped.\n")


def test_make_test_shows_what_is_skipped(tmp_path):
    """With the project's own settings of pytest and the options of the Makefile."""
    recipe = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "pytest" in line)
    options = recipe.partition("-m pytest ")[2].split()
    assert "-q" in options
    test = tmp_path / "test_skipped.py"
    test.write_text("import pytest\n@pytest.mark.skip(reason='no browser here')\ndef test_it(): pass\n")
    command = ["pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    python = [sys.executable, "-m"]
    done = subprocess.run([*python, *command, str(test)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "SKIPPED" in done.stdout
    assert "no browser here" in done.stdout
