"""A small pairs folder of the synthetic dataset."""

import shutil

import pytest
from small_data import Noisy, sample_data

from wssl_pl.evaluation.pairs import Pairs, write_pairs


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    return write_pairs(sample_data(), "test", tmp_path_factory.mktemp("pairs") / "pairs").folder


@pytest.fixture
def pairs(made_once, tmp_path):
    """Eight pairs of 48 px in a folder of the test's own."""
    return Pairs.open(shutil.copytree(made_once, tmp_path / "pairs"))


@pytest.fixture(scope="session")
def damaged_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "damaged"
    return write_pairs(sample_data(), "test", folder, restore=["sharpness", "saturation"]).folder


@pytest.fixture
def damaged(damaged_once, tmp_path):
    """The same pairs with damaged inputs."""
    return Pairs.open(shutil.copytree(damaged_once, tmp_path / "damaged"))


@pytest.fixture
def noisy():
    return Noisy()
