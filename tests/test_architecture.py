"""The arrows between the packages run one way."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "wssl_pl"
FOUNDATION = {"networks", "losses", "metrics", "tasks", "data"}
ORDER = ["callbacks", "modules", "evaluation", "study", "inpaint", "export", "app", "cli"]


def imports(path):
    """Modules of the project that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("wssl_pl"):
            names = [node.module] if node.module != "wssl_pl" else [f"wssl_pl.{name.name}" for name in node.names]
            yield from names
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("wssl_pl"))


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if part(path) not in ("__init__", "__main__")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_down_the_list(path):
    own = part(path)
    for name in imports(path):
        other = name.split(".")[1] if "." in name else ""
        if other in ("", own, "errors", "devices"):
            continue
        assert other != "cli", f"nobody imports cli, but {path.name} does"
        if own in FOUNDATION:
            # Of each other's parts only the public names, and never a LightningModule.
            assert other in FOUNDATION
            assert name.count(".") == 1 or name == "wssl_pl.metrics.ssim", f"{path.name} imports {name}"
        elif own in ORDER and other in ORDER:
            assert ORDER.index(other) < ORDER.index(own), f"{own} imports {other}"


def test_every_file_can_be_read_in_one_sitting():
    long = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > 350} == {}
