"""Fixtures that every part of the tests uses."""

import os
from pathlib import Path

import pytest
import torch

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


# Several test processes share the cores: threads of each would only wait for those of the others.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("real") and not REAL_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason="the real faces and masks are not on this machine"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def real_data() -> Path:
    """The folder of real faces and masks, beside the repository."""
    return REAL_DATA


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def _cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache-home")


@pytest.fixture(autouse=True)
def _cache_home(_cache_folder, monkeypatch):
    """Nothing that a test keeps between runs goes to the user's own cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache_folder))
