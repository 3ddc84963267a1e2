import pytest
import torch
import torch.nn.functional as F

from wssl_pl.errors import WSSLError
from wssl_pl.networks import UNetDecoder, UNetEncoder
from wssl_pl.networks.blocks import BLOCKS, GatedUnit


def test_gated_unit_by_hand():
    unit = GatedUnit(1, 1)
    unit.conv.weight.data.zero_()
    unit.conv.weight.data[0, 0, 1, 1], unit.conv.bias.data = 3.0, torch.tensor([0.0, -1.0])
    image = torch.tensor([[[[0.5, -2.0]]]])
    expected = F.elu(3.0 * image) * torch.sigmoid(torch.tensor(-1.0)) * GatedUnit.SCALE
    torch.testing.assert_close(unit(image), expected)


def test_residual_stage_by_hand():
    stage = UNetEncoder(2, block="residual").stages[0]
    image = torch.randn(1, 3, 4, 4)
    expected = (stage.second(stage.first(image)) + stage.shortcut(image)) / 2.0**0.5
    pooled, skip = stage(image)
    torch.testing.assert_close(skip, expected)
    torch.testing.assert_close(pooled, F.max_pool2d(expected, 2))


@pytest.mark.parametrize("block", BLOCKS)
def test_signal_keeps_its_size(block):
    encoder = UNetEncoder(16, block=block)
    features, skips = encoder(torch.rand(4, 3, 64, 64) - 0.5)
    assert 0.05 < features.std() < 8
    assert 0.05 < UNetDecoder(encoder.out_channels, block=block)(features, skips).std() < 20


@pytest.mark.parametrize("block", BLOCKS)
def test_an_encoder_has_16_layers_that_freeze(block):
    encoder = UNetEncoder(2, block=block)
    encoder.freeze(16)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    encoder.freeze(3)  # the input and the first stage's two convolutions
    trained = {name.split(".")[1] for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained == {"1", "2", "3", "4"}


def test_plain_weights_are_drawn_as_ever():
    torch.manual_seed(3)
    decoder = UNetDecoder(UNetEncoder(2).out_channels)
    # As drawn before there were other blocks; the order of the layers decides it.
    names = [name.split(".")[2] for name, _ in decoder.stages.named_parameters(prefix="stages")]
    assert list(dict.fromkeys(names)) == ["up", "first", "second"]


def test_unknown_block():
    with pytest.raises(WSSLError, match="block=dense: is not one of plain, residual, gated"):
        UNetEncoder(2, block="dense")
