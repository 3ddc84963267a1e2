import pytest
import torch

from wssl_pl.metrics import InpaintingMetrics, composite, image_metrics, psnr, ssim


@pytest.fixture
def batch():
    mask = (torch.rand(6, 1, 32, 32) < 0.4).float()
    return torch.rand(6, 3, 32, 32), torch.rand(6, 3, 32, 32), mask


def test_composite_takes_known_pixels_from_the_image_bit_by_bit(batch):
    prediction, image, mask = batch
    filled = composite(prediction, image, mask)
    hole = mask.bool().expand_as(image)
    assert torch.equal(filled[~hole], image[~hole])
    assert torch.equal(filled[hole], prediction[hole])


def test_raw_and_composited_metrics_are_means_over_images_in_uneven_batches(batch):
    prediction, image, mask = batch
    metrics = InpaintingMetrics()
    for part in (slice(0, 4), slice(4, 6)):
        metrics.update(image_metrics(prediction[part], image[part], mask[part]))
    found = metrics.compute()
    filled = composite(prediction, image, mask)
    assert found["psnr"].item() == pytest.approx(psnr(prediction, image).mean().item(), abs=1e-5)
    assert found["ssim"].item() == pytest.approx(ssim(prediction, image).mean().item(), abs=1e-5)
    assert found["psnr_composite"].item() == pytest.approx(psnr(filled, image).mean().item(), abs=1e-5)
    assert found["ssim_composite"].item() == pytest.approx(ssim(filled, image).mean().item(), abs=1e-5)
    # Random noise everywhere against noise in 40 %: the composite must be the better one by far.
    assert found["psnr_composite"] > found["psnr"] + 3


def test_an_infinite_psnr_is_kept_out_of_the_mean(batch):
    prediction, image, mask = batch
    prediction = prediction.clone()
    prediction[0] = image[0]
    metrics = InpaintingMetrics()
    metrics.update(image_metrics(prediction, image, mask))
    assert metrics.compute()["psnr"].item() == pytest.approx(psnr(prediction[1:], image[1:]).mean().item(), abs=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_prediction_that_is_not_finite_shows_in_every_mean(batch, bad):
    prediction, image, mask = batch
    prediction = prediction.clone()
    prediction[1] = bad
    metrics = InpaintingMetrics()
    for part in (slice(0, 1), slice(1, 6)):
        metrics.update(image_metrics(prediction[part], image[part], mask[part]))
    assert all(mean.isnan() for mean in metrics.compute().values())


def test_psnr_is_infinite_when_all_images_equal_their_targets(batch):
    _, image, mask = batch
    metrics = InpaintingMetrics()
    metrics.update(image_metrics(image, image, mask))
    found = metrics.compute()
    assert found["psnr"].item() == float("inf")
    assert found["ssim"].item() == pytest.approx(1.0, abs=1e-6)
