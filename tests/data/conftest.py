from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.fakes import image_tree, mask_tree
from wssl_pl.data import WSSLDataModule


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("data")
    images = image_tree(root / "images", {"train": 22, "val": 7, "test": 5})
    ratios = [0.1 + 0.02 * step for step in range(30)]
    return images, mask_tree(root / "masks", {"train": ratios, "test": ratios[::2]})


@pytest.fixture
def make(folders: tuple[Path, Path]) -> Callable[..., WSSLDataModule]:
    """A data module on small fakes; keyword arguments override."""

    def build(**overrides) -> WSSLDataModule:
        settings = {"image_size": 32, "resize": 40, "batch_size": 4, "num_workers": 0}
        settings |= {"images": str(folders[0]), "masks": str(folders[1])}
        return WSSLDataModule(**(settings | overrides))

    return build
