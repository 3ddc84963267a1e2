import numpy as np
import pytest
import torch
from PIL import Image

from wssl_pl.errors import DataError
from wssl_pl.evaluation.predictions import Predictions, read_prediction

NAMES = ["00000", "00001", "00002"]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        Image.new("RGB", (16, 16), (50 * number, 10, 20)).save(tmp_path / f"{name}.png")
    return tmp_path


def open_all(folder, **kwargs):
    return Predictions(folder, NAMES, NAMES, **kwargs)


def test_reads_by_name(folder):
    found = open_all(folder)(["00002", "00000"], torch.zeros(2, 3, 16, 16), torch.zeros(2, 1, 16, 16))
    assert found.shape == (2, 3, 16, 16)
    assert found[:, 0, 0, 0].tolist() == pytest.approx([100 / 255, 0.0])


def test_missing_extra_and_misnamed_are_listed_and_refused(folder):
    (folder / "00001.png").rename(folder / "1.png")
    with pytest.raises(DataError, match="1 missing: 00001; 1 extra or misnamed: 1: allow_missing=true"):
        open_all(folder)
    allowed = open_all(folder, allow_missing=True)
    assert [allowed.has(name) for name in NAMES] == [True, False, True]
    assert "1 missing: 00001" in allowed.notes[0]


def test_what_lies_beyond_the_limit_is_not_extra(folder):
    assert Predictions(folder, NAMES[:1], NAMES).notes == []


def test_no_match_at_all_is_refused_even_if_missing_ones_are_allowed(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "face.png")
    with pytest.raises(DataError, match="no image has the name of a pair"):
        open_all(tmp_path, allow_missing=True)
    with pytest.raises(DataError, match="is not a folder"):
        open_all(tmp_path / "nowhere")


def test_a_name_given_twice(folder):
    Image.new("RGB", (16, 16)).save(folder / "00001.jpg")
    with pytest.raises(DataError, match="names twice: 00001"):
        open_all(folder)


def test_lossy_files_are_told(folder):
    (folder / "00001.png").unlink()
    Image.new("RGB", (16, 16)).save(folder / "00001.jpg")
    assert open_all(folder).notes == ["1 predictions are not PNG: their compression is measured too"]


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("RGB", (17, 16)), "is 17 x 16 px, the pair is 16 x 16"),
        (Image.new("L", (16, 16)), "is grey, the pairs are RGB"),
        (Image.new("RGBA", (16, 16)), "of mode RGBA"),
        (Image.new("P", (16, 16)), "of mode P"),
        (Image.fromarray(np.zeros((16, 16), np.uint16)), "more than 8 bits"),
    ],
)
def test_other_kinds_of_images_are_refused(tmp_path, picture, message):
    picture.save(tmp_path / "a.png")
    with pytest.raises(DataError, match=message):
        read_prediction(tmp_path / "a.png", (16, 16))


def test_16_bit_rgb_is_refused_though_pillow_reads_it_as_8_bit(tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((16, 16, 3), 40000, np.uint16))
    with pytest.raises(DataError, match="more than 8 bits"):
        read_prediction(tmp_path / "a.png", (16, 16))


def test_a_damaged_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"a.png: cannot be read"):
        read_prediction(tmp_path / "a.png", (16, 16))


def test_a_pattern_names_the_results(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}_output.png")
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}_mask.png")
    for pattern in ("*_output.png", "*_output"):
        assert sorted(Predictions(tmp_path / pattern, ["a", "b"], ["a", "b"]).files) == ["a", "b"]
    with pytest.raises(DataError, match=r"more than one \*"):
        Predictions(tmp_path / "*_*.png", ["a"], ["a"])
    with pytest.raises(DataError, match="holds no file"):
        Predictions(tmp_path / "*_result.png", ["a"], ["a"])
