import itertools

import pytest
import torch

from wssl_pl.networks import PatchDiscriminator


@pytest.mark.parametrize(("size", "patches"), [((32, 32), (1, 1)), ((65, 128), (2, 2))])
def test_shapes_and_parameters(size, patches):
    network = PatchDiscriminator(width=2)
    scores = network(torch.rand(3, 3, *size), torch.zeros(3, 1, *size))
    assert scores.shape == (3, 8, *patches)
    widths = [4, 2, 4, 8, 8, 8, 8]
    expected = sum(25 * below * here + here for below, here in itertools.pairwise(widths))
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_every_layer_stretches_by_at_most_1():
    network = PatchDiscriminator(width=4)
    for _ in range(30):
        network(torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32))
    for layer in network.layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1.0, abs=0.02)


def test_layer_by_layer():
    network = PatchDiscriminator(width=2).eval()
    images, masks = torch.rand(2, 3, 40, 64), (torch.rand(2, 1, 40, 64) < 0.5).float()
    x = torch.cat([images * 2 - 1, masks], dim=1)
    for number, layer in enumerate(network.layers):
        x = layer(x if number == 0 else torch.where(x > 0, x, 0.2 * x))
    torch.testing.assert_close(network(images, masks), x)


def test_the_norm_is_not_rounded_under_autocast():
    network, args = PatchDiscriminator(width=2), (torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32))
    same = PatchDiscriminator(width=2)
    same.load_state_dict(network.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        assert network(*args).dtype == torch.bfloat16
    same(*args)
    for found, expected in zip(network.state_dict().values(), same.state_dict().values(), strict=True):
        assert torch.equal(found, expected)
