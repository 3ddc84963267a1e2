import math

import pytest
import torch
import torchvision
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.evaluate import Settings, evaluate
from wssl_pl.evaluation.perceptual import FID, LPIPS
from wssl_pl.evaluation.report import metric_rows
from wssl_pl.modules.checkpoint import read_tensors

CPU = torch.device("cpu")


@pytest.fixture
def alexnet(tmp_path):
    """Weights of the right format, drawn at random."""
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    return tmp_path / "alexnet.pth"


def test_lpips_from_a_file_is_that_of_torchmetrics(alexnet, monkeypatch):
    lpips = LPIPS(alexnet, CPU)
    a, b = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    with_these = torchvision.models.alexnet(weights=None)
    with_these.load_state_dict(torch.load(alexnet, weights_only=True))
    monkeypatch.setattr(torchvision.models, "alexnet", lambda **kwargs: with_these)
    expected = learned_perceptual_image_patch_similarity(a, b, "alex", normalize=True, reduction="none")
    assert lpips(a, b).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert lpips(a, a).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.slow
def test_lpips_knows_vgg_by_its_shapes(tmp_path):
    torch.save(torchvision.models.vgg16(weights=None).features.state_dict(prefix="features."), tmp_path / "vgg.pth")
    assert LPIPS(tmp_path / "vgg.pth", CPU).net == "vgg"


def test_lpips_in_a_result(pairs, noisy, alexnet):
    result = evaluate(pairs, noisy, Settings(lpips_weights=str(alexnet), limit=4))
    entry = result.estimates["all"]["lpips"]
    assert entry.mean > 0
    assert entry.undefined == 0
    assert not any(note.startswith("LPIPS") for note in result.notes)


def test_weights_that_are_none(tmp_path, alexnet):
    class Hostile:
        def __reduce__(self):
            return ((tmp_path / "was_run").touch, ())

    torch.save({"features.0.weight": Hostile()}, tmp_path / "hostile.pth")
    for name, message in (("nowhere.pth", "does not exist"), ("hostile.pth", "load safely")):
        with pytest.raises(WSSLError, match=message):
            LPIPS(tmp_path / name, CPU)
        with pytest.raises(WSSLError, match=message):
            FID(tmp_path / name, CPU)
    assert not (tmp_path / "was_run").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WSSLError, match="tensors by name"):
        read_tensors(tmp_path / "list.pth", "lpips_weights")
    torch.save({"features.0.weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(WSSLError, match="AlexNet or VGG16"):
        LPIPS(tmp_path / "other.pth", CPU)
    state = torch.load(alexnet, weights_only=True)
    del state["features.3.weight"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(WSSLError, match=r"lacks features.3.weight"):
        LPIPS(tmp_path / "cut.pth", CPU)


def test_frechet_distance_of_two_shifted_normals():
    from torchmetrics.image.fid import _compute_fid

    eye = torch.eye(4, dtype=torch.float64)
    assert _compute_fid(torch.zeros(4), eye, torch.full((4,), 2.0), 4 * eye).item() == pytest.approx(16 + 4)


@pytest.mark.slow
def test_fid_from_a_file(pairs, noisy, tmp_path):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    state = inception_state(module)
    torch.save(state, tmp_path / "inception.pth")
    fid = FID(tmp_path / "inception.pth", CPU, features=64)
    image = torch.rand(4, 3, 64, 64)
    fid.update((image * 0.5), image, image)
    found = fid.compute()
    assert found["fid"] > 0.0
    assert found["fid_composite"] == pytest.approx(0.0, abs=1e-3)
    one = FID(tmp_path / "inception.pth", CPU, features=64)
    one.update(image[:1], image[:1], image[:1])
    assert math.isnan(one.compute()["fid"])
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(WSSLError, match="does not fit"):
        FID(tmp_path / "other.pth", CPU)
    result = evaluate(pairs, noisy, Settings(inception_weights=str(tmp_path / "inception.pth")))
    assert result.fid["fid"] > 0.0
    assert any(row[0].startswith("FID composite") for row in metric_rows(result))


def inception_state(module):
    """Weights as the library's file holds them, drawn at random: it takes them from a file alone."""
    seen = {}

    class Recording(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, state, *args, **kwargs):
            seen.update({key: value.clone() for key, value in self.state_dict().items()})

    from unittest.mock import patch

    with patch.object(module.torch, "load", return_value={}):
        Recording("inception-v3-compat", ["64"], "none")
    return seen
