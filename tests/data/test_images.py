from pathlib import Path

import numpy as np
import pytest

from tests.data.fakes import image_tree
from wssl_pl.data.files import list_images
from wssl_pl.data.images import ArrayImages, FileImages


def test_files_and_the_array_of_them_read_alike(tmp_path: Path) -> None:
    files = FileImages(list_images(image_tree(tmp_path, {"": 6}), "data.images"), 32)
    array = ArrayImages(np.concatenate([files.read(np.array([index]))[0] for index in range(6)]))
    assert len(files) == len(array) == 6
    wanted = np.array([5, 0, 3, 0])
    images, failures = files.read(wanted)
    assert images.shape == (4, 32, 32, 3)
    assert not failures
    np.testing.assert_array_equal(images, array.read(wanted)[0])
    assert len(np.unique(array.array.reshape(6, -1), axis=0)) == 6


@pytest.mark.parametrize("damaged", [["0"], ["1", "3"], ["0", "1", "2", "3"]])
def test_a_file_that_cannot_be_read_has_no_row(tmp_path: Path, damaged: list[str]) -> None:
    paths = list_images(image_tree(tmp_path, {"": 4}), "data.images")
    whole, _ = FileImages(paths, 32).read(np.arange(4))
    for name in damaged:
        (tmp_path / f"{name}.png").write_bytes(b"")
    images, failures = FileImages(paths, 32).read(np.arange(4))
    assert [str(position) for position, _ in failures] == damaged
    assert all(f"{name}.png" in message for name, (_, message) in zip(damaged, failures, strict=True))
    np.testing.assert_array_equal(images, np.delete(whole, [int(name) for name in damaged], axis=0))
