"""The arrows between the packages run one way."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "wssl_pl"
# Circles that are left. A new one is a failure, and so is one of these that is gone: delete its line.
KNOWN_CIRCLES: set = set()
FOUNDATION = {"networks", "losses", "metrics", "tasks", "data", "synthetic"}
ORDER = ["callbacks", "modules", "models", "evaluation", "study", "inference", "export", "app", "cli"]


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


def modules():
    """Return the path of every module by its name, `wssl_pl.losses` for `losses/__init__.py`."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def runtime_nodes(node):
    """Yield the nodes below one, without those of `if TYPE_CHECKING:`, which no program executes."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from runtime_nodes(child)


def imported_modules(source, known):
    """Return the modules of the package that a source imports, at its top or inside functions."""
    found = set()
    for node in runtime_nodes(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def circles(graph):
    """Return the sets of modules that import each other, directly or over others."""
    reached = {}
    for name in graph:
        waiting, reached[name] = [name], set()
        while waiting:
            new = graph[waiting.pop()] - reached[name]
            reached[name] |= new
            waiting.extend(new)
    return {frozenset(other for other in reached[name] if name in reached[other]) for name in graph} - {frozenset()}


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if part(path) not in ("__init__", "__main__")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_down_the_list(path):
    own = part(path)
    for name in imports(path):
        other = name.split(".")[1] if "." in name else ""
        if other in ("", own, "errors", "devices", "plugins", "files", "drawing", "records", "stages", "provenance"):
            continue
        assert other != "cli", f"nobody imports cli, but {path.name} does"
        if own in FOUNDATION:
            # Of each other's parts only the public names, and never a LightningModule.
            assert other in FOUNDATION
            assert name.count(".") == 1 or name == "wssl_pl.metrics.ssim", f"{path.name} imports {name}"
        elif own in ORDER and other in ORDER:
            assert ORDER.index(other) < ORDER.index(own), f"{own} imports {other}"


def test_no_modules_import_each_other():
    paths = modules()
    graph = {name: imported_modules(path.read_text(), set(paths)) - {name} for name, path in paths.items()}
    found = {frozenset(name.removeprefix("wssl_pl.") for name in circle) for circle in circles(graph)}
    assert found == KNOWN_CIRCLES


def test_a_circle_through_a_function_is_found():
    known = {"wssl_pl.a", "wssl_pl.b", "wssl_pl.c"}
    a = imported_modules("def f():\n    from wssl_pl.b import g\n", known)
    b = imported_modules("if TYPE_CHECKING:\n    from wssl_pl.c import C\nfrom wssl_pl import a\n", known)
    assert circles({"wssl_pl.a": a, "wssl_pl.b": b, "wssl_pl.c": set()}) == {frozenset({"wssl_pl.a", "wssl_pl.b"})}
    assert b == {"wssl_pl.a"}


def test_every_file_can_be_read_in_one_sitting():
    long = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > 500} == {}
