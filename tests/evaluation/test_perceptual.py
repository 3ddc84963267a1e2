import hashlib
import math
import shutil

import pytest
import torch
import torchvision
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.evaluate import Settings, evaluate
from wssl_pl.evaluation.perceptual import FID, LPIPS, frechet_distance, kernel_distance
from wssl_pl.evaluation.report import facts, metric_rows
from wssl_pl.evaluation.results import read_result
from wssl_pl.modules.checkpoint import read_tensors

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Weights of the right format, drawn at random, without the layers that LPIPS does not use."""
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).features.state_dict(prefix="features."), path)
    return path


@pytest.fixture
def alexnet(drawn, tmp_path):
    return shutil.copy(drawn, tmp_path / "alexnet.pth")


def test_lpips_from_a_file_is_that_of_torchmetrics(alexnet, monkeypatch):
    lpips = LPIPS(alexnet, CPU)
    a, b = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    with_these = torchvision.models.alexnet(weights=None)
    with_these.load_state_dict(torch.load(alexnet, weights_only=True), strict=False)
    monkeypatch.setattr(torchvision.models, "alexnet", lambda **kwargs: with_these)
    expected = learned_perceptual_image_patch_similarity(a, b, "alex", normalize=True, reduction="none")
    assert lpips(a, b).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert lpips(a, a).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.slow
def test_lpips_knows_vgg_by_its_shapes(tmp_path):
    torch.save(torchvision.models.vgg16(weights=None).features.state_dict(prefix="features."), tmp_path / "vgg.pth")
    assert LPIPS(tmp_path / "vgg.pth", CPU).weights.network == "vgg"


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("alexnet_features.pth", [0.0739679, 0.0124364, 0.4586658]),
        ("vgg16_features.pth", [0.2327331, 0.0454814, 0.5742926]),
    ],
)  # fmt: skip
def test_lpips_of_its_authors(real_data, file, expected):
    """The values of the package `lpips` 0.1.4, its authors' program, with the same weights and images."""
    x = torch.linspace(0, 1, 64)
    waves = [(torch.sin(f * x[:, None]) * torch.cos(g * x) + 1) / 2 for f, g in ((9, 20), (31, 7), (14, 45))]
    image = torch.stack(waves)[None]
    others = torch.cat([image.flip(-1), (image * 8).round() / 8, image.mean(1, keepdim=True).expand_as(image)])
    if not (path := real_data.parent / "weights" / file).is_file():
        pytest.skip(f"there is no {path}")
    lpips = LPIPS(path, CPU)
    assert lpips(others, image.expand_as(others)).tolist() == pytest.approx(expected, abs=2e-5)


def test_a_found_file_that_cannot_be_used_is_a_line(pairs, noisy, tmp_path, monkeypatch):
    (tmp_path / "alexnet.pth").touch()
    monkeypatch.setenv("WSSL_WEIGHTS", str(tmp_path))
    notes = evaluate(pairs, noisy, Settings(limit=1)).notes
    assert (
        f"LPIPS not measured: lpips_weights={tmp_path}/alexnet.pth: does not hold plain weights that load safely"
        in notes
    )
    assert "LPIPS not measured: lpips_weights=none" in evaluate(pairs, noisy, Settings(1, lpips_weights="none")).notes


def test_lpips_in_a_result(pairs, noisy, alexnet, tmp_path, monkeypatch):
    monkeypatch.setenv("WSSL_WEIGHTS", str(tmp_path))
    result = evaluate(pairs, noisy, Settings(limit=4))
    entry = result.estimates["all"]["lpips"]
    assert entry.mean > 0
    assert entry.undefined == 0
    assert not any(note.startswith("LPIPS") for note in result.notes)
    result.save(tmp_path / "out")
    used = read_result(tmp_path / "out").weights["lpips"]
    assert (used.file, used.network) == ("alexnet.pth", "alex")
    assert used.sha256 == hashlib.sha256(alexnet.read_bytes()).hexdigest()
    assert f"LPIPS: network alex of alexnet.pth, SHA-256 {used.sha256[:16]}" in facts(result)


def test_images_that_are_too_small_for_lpips(alexnet):
    lpips = LPIPS(alexnet, CPU)
    assert lpips(*torch.rand(2, 1, 3, 31, 40)).isfinite().all()
    assert lpips(*torch.rand(2, 2, 3, 30, 40)).isnan().tolist() == [True, True]


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
    # Of mean 0 and covariance 1, then of mean 2 and covariance 4, in each of two independent directions.
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * 0.75**0.5
    assert frechet_distance(square, 2.0 * square + 2.0) == pytest.approx(2 * (4 + 1), abs=1e-4)
    assert math.isnan(frechet_distance(square[:1], square[:1]))


def test_kernel_distance_by_hand_and_by_torchmetrics():
    from torchmetrics.image.kid import poly_kernel, poly_mmd

    # Kernels of the rows 1 and 2 with each other, then of 0 and 3, then across without (1, 0) and (2, 3).
    ours, theirs = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    assert kernel_distance(ours, theirs) == pytest.approx((2 * 3**3 + 2 * 1 - 2 * (4**3 + 1)) / 2)
    first, second = torch.randn(2, 30, 16, dtype=torch.float64)
    # The library also counts an image beside the output for it.
    across = poly_kernel(first, second)
    every, others = across.mean(), (across.sum() - across.diag().sum()) / (30 * 29)
    expected = poly_mmd(first, second) + 2 * (every - others)
    assert kernel_distance(first, second, chunk=7) == pytest.approx(expected.item(), abs=1e-12)
    assert kernel_distance(first, first) == 0.0
    assert math.isnan(kernel_distance(first[:1], first[:1]))


def test_kernel_distance_is_unbiased_for_pairs():
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        both = torch.randn(2, 6, 4, generator=generator)
        # Of the same distribution, and dependent on each other.
        found.append(kernel_distance(both[0], (both[0] + both[1]) / 2**0.5))
    found = torch.tensor(found)
    assert abs(found.mean()) < 3 * found.std() / 20


@pytest.mark.slow
def test_fid_and_kid_from_a_file(pairs, noisy, tmp_path):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.save(inception_state(module), tmp_path / "weights-inception-2015-12-05-6726825d.pth")
    file = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    fid = FID(file, CPU, features=64)
    image = torch.rand(4, 3, 64, 64)
    fid.update(image=image, prediction=image * 0.5, composite=image)
    found = fid.compute()
    assert found["fid"] > 0.0
    assert found["fid_composite"] == pytest.approx(0.0, abs=1e-3)
    assert found["kid_composite"] == 0.0
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(WSSLError, match="does not fit"):
        FID(tmp_path / "other.pth", CPU)
    result = evaluate(pairs, noisy, Settings(limit=3, inception_weights=str(file)))
    assert result.fid["fid"] > 0.0
    assert result.fid["kid"] > 0.0
    assert result.weights["fid"].network == "inception"
    assert "FID of 3 images is biased upwards" in result.notes[-2]
    assert [row[0] for row in metric_rows(result)][-4:] == ["FID ↓", "FID composite ↓", "KID ↓", "KID composite ↓"]


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


def test_inception_sees_images_of_8_bits():
    seen = []
    metric = object.__new__(FID)
    metric.features = {}
    metric.network = lambda images: seen.append(images) or images.flatten(1).float()
    metric.update(image=torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255]).view(1, 1, 2, 2))
    assert seen[0].dtype == torch.uint8
    assert seen[0].flatten().tolist() == [0, 0, 1, 255]
