"""What `import wssl_pl` offers, and what it costs."""

import importlib
import subprocess
import sys

import pytest

import wssl_pl

NAMES = ["InpaintModule", "Inpainter", "PretextModule", "WSSLDataModule"]


def test_importing_the_package_does_not_import_pytorch():
    code = "import sys, wssl_pl; print(sorted({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_the_class_of_its_package(name):
    public = getattr(wssl_pl, name)
    package = ".".join(public.__module__.split(".")[:2])
    assert getattr(importlib.import_module(package), name) is public


def test_the_public_names_are_listed():
    assert sorted(wssl_pl.__all__) == sorted([*NAMES, "__version__"])
    assert set(wssl_pl.__all__) <= set(dir(wssl_pl))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Inpaint'"):
        _ = wssl_pl.Inpaint
