"""The examples in docstrings are run."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Found as text, so that looking for examples imports nothing, neither Gradio nor Ray.
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(ROOT.joinpath("wssl_pl").rglob("*.py"))
    if ">>> " in path.read_text()
]
# Modules that need an extra.
EXTRAS = {"wssl_pl.export.hub": "huggingface_hub"}


def test_there_are_examples():
    assert "wssl_pl.networks.unet" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of(name):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0, "there is an example that doctest does not find"
    assert result.failed == 0, "see the captured output"
