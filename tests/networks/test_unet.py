import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wssl_pl.networks import TaskHead, UNetDecoder, UNetEncoder, crop_to, pad_to_multiple
from wssl_pl.networks.blocks import normalisation


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_size_of_the_paper():
    encoder = UNetEncoder(64)
    decoder = UNetDecoder(encoder.out_channels)
    assert round(parameters(encoder) / 1e6, 1) == 18.8
    assert round(parameters(decoder) / 1e6, 1) == 44.7


def test_cost_of_the_paper():
    with torch.device("meta"):
        encoder, image = UNetEncoder(64), torch.rand(1, 3, 224, 224)
        decoder = UNetDecoder(encoder.out_channels)
        with FlopCounterMode(display=False) as counter:
            encoded = encoder(image)
        assert round(counter.get_total_flops() / 1e9) == 26
        with FlopCounterMode(display=False) as counter:
            decoder(*encoded)
        assert round(counter.get_total_flops() / 1e9) == 59


def test_shapes():
    encoder = UNetEncoder(8)
    decoder = UNetDecoder(encoder.out_channels)
    features, skips = encoder(torch.rand(2, 3, 64, 96))
    assert features.shape == (2, 128, 2, 3)
    assert [tuple(skip.shape[1:]) for skip in skips] == [
        (8, 64, 96), (16, 32, 48), (32, 16, 24), (64, 8, 12), (128, 4, 6)
    ]  # fmt: skip
    assert decoder(features, skips).shape == (2, 3, 64, 96)
    assert TaskHead(128, 4)(features).shape == (2, 4)


def test_a_head_whose_units_are_all_negative_still_learns():
    head = TaskHead(16, 4)
    torch.nn.init.constant_(head.layers[0].bias, -100.0)
    features = torch.rand(8, 16, 2, 2, requires_grad=True)
    torch.nn.functional.cross_entropy(head(features), torch.arange(8) % 4).backward()
    assert features.grad.abs().max() > 0
    assert head.layers[0].weight.grad.abs().max() > 0
    x = torch.tensor([-2.0, 0.0, 3.0])
    assert torch.allclose(head.layers[1](x), torch.tensor([-0.2, 0.0, 3.0]))
    assert head.layers[1](x.bfloat16()).dtype == torch.bfloat16


def test_signal_keeps_its_size_through_the_plain_convolutions():
    # With PyTorch's default initialisation it shrinks by orders of magnitude, and no head learns.
    features, _ = UNetEncoder(16)(torch.rand(4, 3, 64, 64) - 0.5)
    assert 0.05 < features.std() < 5


def test_initialisation_is_he_normal_with_zero_bias():
    for layer in [*UNetEncoder(16).modules(), *UNetDecoder(UNetEncoder(16).out_channels).modules()]:
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 2000:
            fan_in = layer.weight[0].numel()
            assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert not layer.bias.any()


@pytest.mark.parametrize("norm", ["none", "batch", "group", "instance"])
def test_norms(norm):
    encoder = UNetEncoder(8, norm)
    decoder = UNetDecoder(encoder.out_channels, norm)
    assert decoder(*encoder(torch.rand(2, 3, 64, 64))).shape == (2, 3, 64, 64)


def trained_layers(encoder):
    """Numbers, in Keras's count, of the layers whose parameters are all trained."""
    numbers = []
    for number, layer in enumerate(encoder.layers(), start=1):
        flags = {parameter.requires_grad for parameter in layer.parameters()}
        assert len(flags) <= 1
        if flags == {True}:
            numbers.append(number)
    return numbers


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [
        (0, [2, 3, 5, 6, 8, 9, 11, 12, 14, 15]),
        (1, [2, 3, 5, 6, 8, 9, 11, 12, 14, 15]),
        (4, [5, 6, 8, 9, 11, 12, 14, 15]),
        (5, [6, 8, 9, 11, 12, 14, 15]),
        (13, [14, 15]),
        (16, []),
    ],
)
def test_freezing_counts_as_keras_does(freeze, trained):
    encoder = UNetEncoder(8)
    encoder.freeze(freeze)
    assert trained_layers(encoder) == trained
    encoder.freeze(0)
    assert len(trained_layers(encoder)) == 10


@pytest.mark.parametrize("layers", [-1, 17])
def test_freezing_outside_the_encoder_is_refused(layers):
    with pytest.raises(ValueError, match="between 0 and 16"):
        UNetEncoder(8).freeze(layers)


def test_frozen_part_builds_no_graph():
    encoder = UNetEncoder(8)
    encoder.freeze(7)
    features, skips = encoder(torch.rand(1, 3, 32, 32))
    assert [skip.grad_fn is None for skip in skips] == [True, True, False, False, False]
    encoder.freeze()
    features, skips = encoder(torch.rand(1, 3, 32, 32))
    assert features.grad_fn is None
    assert all(skip.grad_fn is None for skip in skips)


def test_frozen_statistics_stand_still_in_training_mode():
    encoder = UNetEncoder(8, "batch")
    encoder.freeze(7)
    encoder.train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder(torch.rand(4, 3, 32, 32))
    moved = {key.split(".")[1] for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"2", "3", "4"}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (31, 33), (64, 64), (17, 200), (224, 225)])
def test_padding_comes_off_again(height, width):
    image = torch.rand(1, 3, height, width)
    padded = pad_to_multiple(image)
    assert padded.shape[-2] % 32 == padded.shape[-1] % 32 == 0
    assert padded.shape[-2] - height < 32
    assert torch.equal(crop_to(padded, height, width), image)


def test_padding_leaves_a_size_that_fits_alone():
    image = torch.rand(1, 3, 64, 32)
    assert pad_to_multiple(image) is image


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 2), (3, 1), (4, 4), (8, 8), (12, 4), (24, 8), (64, 8)])
def test_group_normalisation_has_8_groups_or_as_many_as_divide_the_channels(channels, groups):
    assert normalisation("group", channels).num_groups == groups


@pytest.mark.parametrize("width", [1, 3, 6, 12, 20])
def test_group_normalisation_works_with_any_width(width):
    encoder = UNetEncoder(width, "group")
    decoder = UNetDecoder(encoder.out_channels, "group")
    assert decoder(*encoder(torch.rand(1, 3, 64, 64))).isfinite().all()
