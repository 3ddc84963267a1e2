import pytest
import torch
import torch.nn.functional as F

from wssl_pl.tasks import Rotation, Saturation, best_temperature


def expected_calibration_error(probabilities, target, bins=10):
    """Guo et al. 2017, equation 3."""
    confidence, predicted = probabilities.max(dim=1)
    bin_of, error = (confidence * bins).ceil().clamp(min=1) - 1, 0.0
    for number in range(bins):
        part = bin_of == number
        if part.any():
            right = (predicted == target)[part].float().mean()
            error += part.float().mean() * (right - confidence[part].mean()).abs()
    return float(error)


def test_losses_by_temperature_by_hand():
    output, target = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    losses = Saturation().losses_by_temperature(output, target)
    assert losses.shape == (49,)
    for step, temperature in ((0, 0.25), (16, 1.0), (24, 2.0), (48, 16.0)):
        expected = F.cross_entropy(output / temperature, target, reduction="sum")
        torch.testing.assert_close(losses[step], expected)
    parts = [Rotation().losses_by_temperature(output[part], target[part]) for part in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(sum(parts), losses)  # of batches they are added


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_temperature_of_logits_that_are_too_sure(factor):
    # Labels are drawn with the probabilities of the logits: calibrated, until the logits are multiplied.
    right = 2.0 * torch.randn(4000, 4)
    target = torch.multinomial(right.softmax(dim=1), 1).squeeze(1)
    output = factor * right
    temperature = best_temperature(Saturation().losses_by_temperature(output, target))
    assert temperature == pytest.approx(factor, rel=0.1)
    before, after = (expected_calibration_error((output / t).softmax(dim=1), target) for t in (1.0, temperature))
    assert before > 0.1
    assert after < 0.03


def test_without_numbers_the_temperature_is_1():
    assert best_temperature(torch.full((49,), torch.nan)) == 1.0
