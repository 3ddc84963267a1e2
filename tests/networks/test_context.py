import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wssl_pl.errors import WSSLError
from wssl_pl.networks import make_contexts
from wssl_pl.networks.context import CONTEXTS, FourierUnit, image_of, spectrum

KINDS = CONTEXTS[1:]
CHANNELS = (2, 4, 8, 16, 32, 32)  # of an encoder of width 2


def make(kind, channels=32):
    """Return a block whose projection is not zero, as after a training."""
    (block,) = make_contexts(kind, (channels,) * 6)
    torch.nn.init.normal_(block.project.weight, std=0.1)
    return block


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (8, 8), (16, 9)])
def test_spectrum_is_that_of_torch_fft(size):
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    real, imaginary = spectrum(images)
    expected = torch.fft.rfft2(images, norm="ortho")
    torch.testing.assert_close(torch.complex(real, imaginary), expected)
    torch.testing.assert_close(image_of(real, imaginary, size[1]), images)
    # A spectrum that belongs to no image too: irfft2 ignores what contradicts itself.
    noise = torch.randn_like(expected)
    torch.testing.assert_close(
        image_of(noise.real, noise.imag, size[1]), torch.fft.irfft2(noise, s=size, norm="ortho"), atol=1e-12, rtol=0
    )


def test_spectrum_keeps_float32s_digits_at_the_largest_size():
    images = torch.randn(1, 1, 64, 512)
    real, imaginary = spectrum(images)
    exact = torch.fft.rfft2(images.double(), norm="ortho")
    assert (torch.complex(real, imaginary) - exact).abs().max() < 1e-5


def test_fourier_unit_multiplies_the_spectrum():
    unit = FourierUnit(1)
    # Twice the real part and nothing of the imaginary one, of an image whose spectrum is real and not negative.
    torch.nn.init.zeros_(unit.mix.bias)
    unit.mix.weight.data = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).reshape(2, 2, 1, 1)
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, 0] = 1.0
    torch.testing.assert_close(unit(image), 2.0 * image)


def test_fourier_unit_stays_in_float32_under_autocast():
    unit, features = FourierUnit(4), torch.randn(1, 4, 8, 8)
    exact = unit(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(unit(features), exact)


@pytest.mark.parametrize("kind", KINDS)
def test_block_returns_its_input_at_first_and_trains(kind):
    (block,) = make_contexts(kind, CHANNELS)
    features = torch.randn(2, 32, 3, 5)
    assert torch.equal(block(features), features)
    block(features).square().mean().backward()
    assert block.project.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_takes_part(kind):
    block = make(kind)
    block(torch.randn(2, 32, 6, 6)).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in block.parameters())


@pytest.mark.parametrize(("kind", "reach"), [("dilated", 8), ("fourier", 15), ("attention", 15)])
def test_one_position_reaches_the_whole_image(kind, reach):
    block = make(kind).double()
    features = torch.randn(1, 32, 16, 16, dtype=torch.float64)
    changed = features.clone()
    changed[..., 0, 0] += 1.0
    moved = (block(changed) - block(features)).abs().amax(dim=(0, 1)) > 1e-12
    rows, columns = torch.nonzero(moved, as_tuple=True)
    assert (int(rows.max()), int(columns.max())) == (reach, reach)
    if kind != "dilated":
        assert moved.float().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [2, 7, 32, 72])
def test_any_number_of_maps(kind, channels):
    assert make(kind, channels)(torch.randn(1, channels, 4, 3)).shape == (1, channels, 4, 3)


def test_levels_begin_with_the_coarsest():
    blocks = make_contexts("dilated", (2, 4, 8, 16, 32, 64), levels=3)
    assert [block.project.out_channels for block in blocks] == [64, 32, 16]
    assert len(make_contexts("none", CHANNELS)) == 0


@pytest.mark.parametrize(
    ("name", "levels", "message"), [("wide", 1, "context=wide"), ("fourier", 4, "levels=4"), ("none", 2, "levels=2")]
)
def test_wrong_settings(name, levels, message):
    with pytest.raises(WSSLError, match=message):
        make_contexts(name, CHANNELS, levels)


def test_cost_is_small_beside_the_decoder():
    with torch.device("meta"):
        (block,) = make_contexts("fourier", (16, 32, 64, 128, 256, 256))
        with FlopCounterMode(display=False) as counter:
            block(torch.rand(1, 256, 4, 4))
    # Multiplications and additions: 3x3 and 1x1 convolutions, the spectrum's 1x1 one, and the transforms.
    convolutions = 2 * 16 * (9 * 256 * 128 + 256 * 128 + 256 * 256)
    spectral = 2 * 4 * 3 * 256 * 256
    transforms = counter.get_total_flops() - convolutions - spectral
    assert 0 < transforms < 0.05 * convolutions
