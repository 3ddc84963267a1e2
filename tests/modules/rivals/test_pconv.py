import pytest
import torch
from torch import nn

from wssl_pl.errors import WSSLError
from wssl_pl.modules.rivals.pconv import PartialConv, PConvUNet, total_variation


def random_mask(*shape, known=0.4):
    return (torch.rand(*shape) < known).float()


def by_definition(conv, features, known):
    """Return W (X * M) sum(1) / sum(M) + b window by window, with a mask of as many channels as the features."""
    pad, kernel, stride = conv.padding[0], conv.kernel_size[0], conv.stride[0]
    features, known = (nn.functional.pad(each, [pad] * 4) for each in (features * known, known))
    batch, _, height, width = features.shape
    rows, columns = range(0, height - kernel + 1, stride), range(0, width - kernel + 1, stride)
    output = features.new_zeros(batch, conv.out_channels, len(rows), len(columns))
    new = features.new_zeros(batch, 1, len(rows), len(columns))
    for image in range(batch):
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                window = (image, slice(None), slice(top, top + kernel), slice(left, left + kernel))
                total = known[window].sum()
                if total > 0:
                    products = (conv.weight * features[window]).sum(dim=(1, 2, 3))
                    output[image, :, i, j] = products * (known[window].numel() / total) + conv.bias
                    new[image, 0, i, j] = 1
    return output, new


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (5, 2), (3, 2), (3, 1)])
@pytest.mark.parametrize("parts", [(3,), (4, 2)])
def test_the_convolution_is_the_paper_s(kernel, stride, parts):
    conv = PartialConv(sum(parts), 4, kernel, stride).double()
    torch.nn.init.normal_(conv.bias)
    inputs = [(torch.randn(2, count, 11, 8).double(), random_mask(2, 1, 11, 8, known=0.1)) for count in parts]
    inputs[0][1][0, :, 4:] = 0  # nothing is known in some windows
    for _, known in inputs[1:]:
        known[0, :, 5:] = 0
    output, new = conv(*[(features, known.double()) for features, known in inputs])
    whole = torch.cat([features for features, _ in inputs], dim=1)
    masks = torch.cat([known.double().expand_as(features) for features, known in inputs], dim=1)
    expected, expected_new = by_definition(conv, whole, masks)
    torch.testing.assert_close(output, expected)
    assert torch.equal(new, expected_new)
    assert 0 < new.mean() < 1
    assert new[0].mean() < new[1].mean()


def test_a_window_by_hand():
    conv = PartialConv(2, 1, kernel=3)
    nn.init.constant_(conv.weight, 0.5)
    nn.init.constant_(conv.bias, 1.0)
    features, known = torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 3, 3)
    features[0, :, 0, 0], features[0, :, 2, 1] = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 6.0])
    features[0, :, 1, 1] = 100.0  # not known
    known[0, 0, 0, 0] = known[0, 0, 2, 1] = 1
    output, new = conv((features, known))
    # 0.5 (1 + 3 + 2 + 6) = 6; 18 values in the window, of which 4 are known: 6 x 18 / 4 + 1.
    assert output[0, 0, 1, 1].item() == pytest.approx(28.0)
    # In the corner the first of them alone: 0.5 (1 + 3) x 18 / 2 + 1; there the padding is not known either.
    assert output[0, 0, 0, 0].item() == pytest.approx(19.0)
    # Top right, nothing is known.
    assert output[0, 0, 0, 2] == new[0, 0, 0, 2] == 0
    assert new.sum() == 8


SHAPES = [  # (input maps, output maps, side of the kernel, side of the output of 256 px) by RIVALS.md's table
    (3, 64, 7, 128), (64, 128, 5, 64), (128, 256, 5, 32), (256, 512, 3, 16), (512, 512, 3, 8), (512, 512, 3, 4),
    (512, 512, 3, 2), (1024, 512, 3, 4), (1024, 512, 3, 8), (1024, 512, 3, 16), (768, 256, 3, 32), (384, 128, 3, 64),
    (192, 64, 3, 128), (67, 3, 3, 256),
]  # fmt: skip


def test_layers_and_parameters():
    with torch.device("meta"):
        network = PConvUNet()
        found = []
        for layer in network.modules():
            if isinstance(layer, PartialConv):
                layer.register_forward_hook(
                    lambda conv, _, output: found.append(
                        (conv.in_channels, conv.out_channels, conv.kernel_size[0], output[0].shape[-1])
                    )
                )
        output, known = network(torch.empty(1, 3, 256, 256), torch.empty(1, 1, 256, 256))
    assert found == SHAPES
    assert output.shape == (1, 3, 256, 256)
    assert known.shape == (1, 1, 256, 256)
    norms = [layer.num_features for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms == [128, 256, 512, 512, 512, 512, 512, 512, 512, 256, 128, 64]  # neither the first nor the last
    counted = sum(below * here * side**2 + here for below, here, side, _ in SHAPES) + 2 * sum(norms)
    assert sum(parameter.numel() for parameter in network.parameters()) == counted == 25_784_276
    slopes = [unit.slope for unit in [*network.encoder, *network.decoder]]
    assert slopes == [0.0] * 7 + [0.2] * 6
    assert network.norms() == [unit.norm for unit in network.encoder[1:]]


def test_the_decoder_takes_the_encoder_s_features_with_their_masks():
    network, parts = PConvUNet(width=2, downs=2), []
    for layer in (*network.encoder, *network.decoder, network.last):
        layer.register_forward_hook(lambda _, inputs, output: parts.append((inputs, output)))
    images, known = torch.rand(1, 3, 5, 7), random_mask(1, 1, 5, 7, known=0.2)
    network(images, known)
    (first, second, up, last) = parts
    for (below, skip), made, taken in ((up[0], second[1], first[1]), (last[0], up[1], (images, known))):
        assert torch.equal(skip[0], taken[0])
        assert torch.equal(skip[1], taken[1])
        for doubled, small in zip(below, made, strict=True):
            twice = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            assert torch.equal(doubled, twice[..., : skip[0].shape[2], : skip[0].shape[3]])


@pytest.mark.parametrize("size", [(1, 1), (3, 64), (33, 40)])
def test_any_size(size):
    network = PConvUNet(width=2, downs=7).eval()
    output, known = network(torch.rand(2, 3, *size), torch.ones(2, 1, *size))
    assert output.shape == (2, 3, *size)
    assert known.all()


@pytest.mark.parametrize("setting", ["width", "downs"])
def test_a_network_of_nothing_is_one_line(setting):
    with pytest.raises(WSSLError, match=f"{setting}=0: must be at least 1"):
        PConvUNet(**{"width": 2, setting: 0})


def test_total_variation_by_hand():
    image = torch.arange(20.0).reshape(1, 1, 4, 5).square().repeat(2, 3, 1, 1)
    image[0] = 1e3 * torch.rand(3, 4, 5)  # without a hole
    mask = torch.zeros(2, 1, 4, 5)
    mask[1, 0, 3, 0] = 1  # dilated: rows 2 and 3, columns 0 and 1
    values = {(row, column): (5 * row + column) ** 2 for row in (2, 3) for column in (0, 1)}
    expected = sum(abs(values[row, 1] - values[row, 0]) for row in (2, 3))
    expected += sum(abs(values[3, column] - values[2, column]) for column in (0, 1))
    assert total_variation(image, mask).item() == pytest.approx(3 * expected / image.numel())
    assert total_variation(image, torch.zeros_like(mask)) == 0
