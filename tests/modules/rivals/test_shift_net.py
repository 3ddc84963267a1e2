import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam

from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import WSSLError
from wssl_pl.modules.rivals import shift_net
from wssl_pl.modules.rivals.shift_net import (
    PatchGAN,
    ShiftDecoder,
    ShiftEncoder,
    ShiftNetModule,
    coarse_hole,
    guidance_loss,
    shift,
)

SIZE = 32
SMALL = {"width": 2, "downs": 5}
# The table of the paper at 256 px: channels in and out, and the side after the layer.
DOWN = [(4, 64, 128), (64, 128, 64), (128, 256, 32), (256, 512, 16), (512, 512, 8), (512, 512, 4)]
DOWN += [(512, 512, 2), (512, 512, 1)]
UP = [(512, 512, 2), (1024, 512, 4), (1024, 512, 8), (1024, 512, 16), (1024, 256, 32), (768, 128, 64)]
UP += [(256, 64, 128), (128, 3, 256)]


@pytest.fixture
def logged(monkeypatch):
    """Modules log into a dictionary instead of a trainer."""
    values = {}
    monkeypatch.setattr(ShiftNetModule, "log", lambda self, name, value, **kwargs: values.__setitem__(name, value))
    return values


def batch(count=2, size=SIZE, ratio=0.4):
    """Return random images, with holes of whole 8x8 blocks."""
    coarse = (torch.rand(count, 1, -(-size // 8), -(-size // 8)) < ratio).float()
    mask = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :size, :size]
    return {"image": torch.rand(count, 3, size, size), "mask": mask}


def table(network, *inputs):
    """Return channels in and out, and the side after each convolution."""
    found = []
    for layer in network.layers:
        layer.register_forward_hook(lambda layer, _, output: found.append((*channels(layer), output.shape[-1])))
    return network(*inputs), found


def channels(layer):
    return layer.in_channels, layer.out_channels


def weights(rows, kernel=16):
    """Return how many weights and biases the convolutions of a table have."""
    return sum(kernel * below * here + here for below, here, _ in rows)


def test_the_table_at_256_px():
    with torch.device("meta"):
        encoder = ShiftEncoder(64, downs=8)
        decoder = ShiftDecoder(encoder.widths)
        skips, found = table(encoder, torch.rand(2, 4, 256, 256))
        assert found == DOWN
        (image, decoded), found = table(decoder, skips, torch.zeros(2, 1, 32, 32, dtype=torch.bool))
    assert found == UP
    assert image.shape == (2, 3, 256, 256)
    assert decoded.shape == skips[2].shape == (2, 256, 32, 32)
    # A scale and an offset for each map that is normalised: none of the first, the innermost and the last layer.
    count = sum(parameter.numel() for network in (encoder, decoder) for parameter in network.parameters())
    assert count == weights(DOWN) + weights(UP) + 2 * (128 + 256 + 4 * 512) + 2 * (4 * 512 + 256 + 128 + 64) == 54944771


SIDES = {224: [112, 56, 28, 14, 7, 4, 2], 128: [64, 32, 16, 8, 4, 2, 1], 32: [16, 8, 4, 2, 1, 2, 1]}


@pytest.mark.parametrize("size", SIDES)
def test_seven_layers(size):
    with torch.device("meta"):
        encoder = ShiftEncoder(64, downs=7)
        skips = encoder(torch.rand(2, 4, size, size))
        image, decoded = ShiftDecoder(encoder.widths)(skips, torch.zeros(2, 1, size // 8, size // 8).bool())
    assert [skip.shape[-1] for skip in skips] == SIDES[size]
    assert image.shape[-1] == size
    assert decoded.shape[-1] == size // 8


def test_the_layers_by_hand():
    encoder = ShiftEncoder(2, downs=4).double()
    decoder = ShiftDecoder(encoder.widths).double()
    for network in (encoder, decoder):
        for layer in network.layers:
            assert not layer.bias.any()
            torch.nn.init.normal_(layer.weight)
            torch.nn.init.normal_(layer.bias)
    inputs, hole = torch.randn(2, 4, 32, 32).double(), torch.rand(2, 1, 4, 4) < 0.5

    def normed(x):
        deviation = x.var((2, 3), keepdim=True, correction=0).add(1e-5).sqrt()
        return (x - x.mean((2, 3), keepdim=True)) / deviation

    def leaky(x):
        return torch.where(x > 0, x, 0.2 * x)

    down = [lambda x, layer=layer: F.conv2d(x, layer.weight, layer.bias, 2, 1) for layer in encoder.layers]
    up = [lambda x, layer=layer: F.conv_transpose2d(x, layer.weight, layer.bias, 2, 1) for layer in decoder.layers]
    e1 = down[0](inputs)
    e2 = normed(down[1](leaky(e1)))
    e3 = normed(down[2](leaky(e2)))
    e4 = down[3](leaky(e3))
    for found, expected in zip(encoder(inputs), (e1, e2, e3, e4), strict=True):
        torch.testing.assert_close(found, expected)
    d1 = normed(up[0](e4.relu()))
    d2 = normed(up[1](torch.cat([d1.relu(), e3.relu(), shift(d1.relu(), e3.relu(), hole)], dim=1)))
    d3 = normed(up[2](torch.cat([d2, e2], dim=1).relu()))
    image, decoded = decoder([e1, e2, e3, e4], hole)
    torch.testing.assert_close(decoded, d1)
    torch.testing.assert_close(image, up[3](torch.cat([d3, e1], dim=1).relu()).float().tanh())


def test_weights_are_small_at_first():
    network = ShiftEncoder(16, downs=5)
    assert network.layers[-1].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(network.layers[-1].weight.mean().item()) < 1e-3


def looped(decoded, encoded, hole):
    """Return the shift by a loop over all positions."""
    output = torch.zeros_like(encoded)
    for number in range(len(hole)):
        known = [tuple(position) for position in (~hole[number, 0]).nonzero().tolist()]
        for y, x in hole[number, 0].nonzero().tolist() if known else []:
            query = decoded[number, :, y, x]
            cosines = [
                query @ encoded[number, :, v, u] / (query.norm() * encoded[number, :, v, u].norm()) for v, u in known
            ]
            v, u = known[int(torch.stack(cosines).argmax())]
            output[number, :, y, x] = encoded[number, :, v, u]
    return output


def features(count=4, height=5, width=4):
    """Return features of decoder and encoder, and holes: one that is everything, and one that is nothing."""
    decoded, encoded = torch.rand(2, count, 6, height, width, dtype=torch.float64)
    hole = torch.rand(count, 1, height, width) < 0.4
    hole[1], hole[2] = True, False
    return decoded, encoded, hole


def test_the_shift_is_that_of_a_loop():
    decoded, encoded, hole = features()
    found = shift(decoded, encoded, hole)
    assert torch.equal(found, looped(decoded, encoded, hole))
    assert found[0].any()
    assert found[3].any()
    assert not found[1:3].any()  # nothing is known, or nothing is a hole


def test_the_shift_of_one_image_does_not_depend_on_the_others():
    inputs = features()
    for number, expected in enumerate(shift(*inputs)):
        single = shift(*(part[number : number + 1] for part in inputs))
        assert torch.equal(single[0], expected)


def test_the_gradient_reaches_what_is_copied():
    decoded, encoded, hole = features()
    decoded.requires_grad_()
    found, expected = encoded.clone().requires_grad_(), encoded.clone().requires_grad_()
    factors = torch.rand_like(encoded)
    (shift(decoded, found, hole) * factors).sum().backward()
    (looped(decoded.detach(), expected, hole) * factors).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)
    assert not found.grad[hole.expand_as(encoded)].any()
    assert found.grad[0].any()
    assert decoded.grad is None


def test_the_shift_compares_in_float32_under_autocast():
    decoded, encoded, hole = (part.bfloat16() if part.is_floating_point() else part for part in features())
    with torch.autocast("cpu", torch.bfloat16):
        found = shift(decoded, encoded, hole)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, looped(decoded.float(), encoded.float(), hole).bfloat16())


def test_features_of_zero_are_no_trouble():
    zeros = torch.zeros(1, 2, 2, 2, requires_grad=True)
    shift(zeros, zeros, torch.eye(2).bool()[None, None]).sum().backward()
    assert zeros.grad.isfinite().all()


def halved(share):
    """Return the means over 4x4 windows with a stride of 2, by a loop; of what is beyond the border nothing."""
    height, width = share.shape
    return torch.tensor(
        [
            [share[max(y - 1, 0) : y + 3, max(x - 1, 0) : x + 3].mean() for x in range(0, width, 2)]
            for y in range(0, height, 2)
        ]
    )


def test_the_coarse_hole_by_a_loop():
    masks = (torch.rand(3, 1, 32, 48) < 0.3).float()
    for mask, hole in zip(masks, coarse_hole(masks), strict=True):
        assert torch.equal(hole[0], halved(halved(halved(mask[0]))) > 5 / 16)
    assert 0 < coarse_hole(masks).float().mean() < 1


@pytest.mark.parametrize("size", [8, 16, 32])
def test_the_coarse_hole_of_nothing_and_everything(size):
    mask = torch.ones(1, 1, size, size + 8)
    assert coarse_hole(mask).all()
    assert not coarse_hole(0 * mask).any()


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (33, 47), (64, 65)])
def test_any_size(size):
    module = ShiftNetModule(width=2).eval()
    images, masks = torch.rand(3, 3, *size), (torch.rand(3, 1, *size) < 0.4).float()
    masks[1], masks[2] = 1.0, 0.0
    with torch.no_grad():
        output = module(images, masks)
        others = module(torch.where(masks > 0.5, 0.3, images), masks)
        singles = torch.cat([module(images[number, None], masks[number, None]) for number in range(3)])
    assert output.shape == images.shape
    assert output.dtype == torch.float32
    assert 0 <= output.min() <= output.max() <= 1
    assert torch.equal(output, others)  # what is in the hole has no influence
    torch.testing.assert_close(output, singles)


@pytest.mark.parametrize(("fill", "grey"), [("mean", None), (0.0, -1.0)])
def test_the_input(fill, grey):
    data = batch()
    image, mask = data["image"], data["mask"]
    inputs = ShiftNetModule(**SMALL, fill=fill).inputs(image, mask)
    known = image[0][:, mask[0, 0] == 0]
    expected = 2 * known.mean(dim=1) - 1 if grey is None else torch.full((3,), grey)
    hidden = inputs[0, :3, mask[0, 0] == 1]
    torch.testing.assert_close(hidden, expected[:, None].expand_as(hidden))
    torch.testing.assert_close(inputs[0, :3, mask[0, 0] == 0], 2 * known - 1)
    assert torch.equal(inputs[:, 3:], 1 - mask)


def test_the_discriminator():
    network = PatchGAN(64)
    rows = [(3, 64, 32), (64, 128, 16), (128, 256, 8), (256, 512, 7), (512, 1, 6)]
    assert [(*channels(layer), side) for layer, (*_, side) in zip(network.layers, rows, strict=True)] == rows
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == weights(rows) + 2 * (128 + 256 + 512) == 2766529 + 0
    network = PatchGAN(2)
    images = torch.rand(2, 3, 64, 64)
    plain = copy.deepcopy(network)
    features = 2 * images - 1
    sides = []
    for number, (layer, norm) in enumerate(zip(plain.layers, plain.norms, strict=True)):
        features = norm(layer(F.leaky_relu(features, 0.2) if number else features))
        sides.append(features.shape[-1])
    assert sides == [side for *_, side in rows]
    torch.testing.assert_close(network(images, images[:, :1]), features)
    assert network(torch.rand(1, 3, 24, 24), images[:1, :1]).shape == (1, 1, 1, 1)
    # The largest singular value of each layer is about 1.
    layer = spectral_norm(torch.nn.Conv2d(3, 2, 4), n_power_iterations=50)
    layer.parametrizations.weight.original.data.copy_(network.layers[0].parametrizations.weight.original)
    for _ in range(50):
        weight = network.layers[0].weight
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1.0, abs=1e-3)


def test_the_guidance_by_hand():
    decoded, target, hole = features()
    squares = [
        (decoded[number, channel, y, x] - target[number, channel, y, x]) ** 2
        for number, _, y, x in hole.nonzero().tolist()
        for channel in range(6)
    ]
    torch.testing.assert_close(guidance_loss(decoded, target, hole).double(), torch.stack(squares).mean())
    assert guidance_loss(decoded, target, hole & False) == 0.0


def test_the_loss_by_hand(logged):
    module = ShiftNetModule(**SMALL)
    data = batch()
    image, mask = data["image"], data["mask"]
    loss = module.training_step(data, 0)
    with torch.no_grad():
        prediction = module(image, mask)
        hole = coarse_hole(mask)
        decoded = module.reconstruct(image, mask)[1]
        complete = torch.cat([2 * image - 1, torch.ones_like(mask)], dim=1)
        target = module.encoding(complete)[2]
    assert set(logged) == {
        f"train/{name}"
        for name in ("loss", "l1", "guidance", "adversarial", "discriminator", "score_real", "score_fake")
    }
    l1 = 2 * (prediction - image).abs().mean()  # in [-1, 1]
    difference = (decoded - target).square().mean(dim=1, keepdim=True)[hole].mean()
    torch.testing.assert_close(logged["train/l1"], l1)
    torch.testing.assert_close(logged["train/guidance"], difference)
    torch.testing.assert_close(loss.detach(), 100 * l1 + difference + 0.2 * logged["train/adversarial"].detach())
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())


def test_both_sides_of_the_adversarial_loss(logged):
    module = ShiftNetModule(**SMALL, l1=0.0, guidance=0.0)
    module.adversary = module.make_adversary(module.make_discriminator(), module.device)
    network, data = copy.deepcopy(module.adversary.network), batch()
    image, mask = data["image"], data["mask"]
    with torch.no_grad():
        prediction = module(image, mask)
        fake = network(prediction, mask).sigmoid()
        both = network(torch.cat([image, prediction]), torch.cat([mask, mask])).sigmoid()
    loss = module.training_step(data, 0)
    torch.testing.assert_close(logged["train/adversarial"].detach(), -fake.log().mean())
    torch.testing.assert_close(loss, 0.2 * logged["train/adversarial"])
    expected = -both[:2].log().mean() - (1 - both[2:]).log().mean()
    torch.testing.assert_close(logged["train/discriminator"], expected)
    options = module.adversary.optimizer.param_groups[0]
    assert options["betas"] == (0.5, 0.999)
    assert module.discriminator_lr == 2e-4
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, Adam)
    assert {name: optimizer.defaults[name] for name in ("lr", "betas")} == {"lr": 2e-4, "betas": (0.5, 0.999)}


def test_a_factor_of_0_turns_a_part_off(logged, monkeypatch):
    module = ShiftNetModule(**SMALL, guidance=0.0, adversarial=0.0)
    monkeypatch.setattr(shift_net, "guidance_loss", None)
    passes = []
    module.encoding.register_forward_hook(lambda *_: passes.append(1))
    module.training_step(batch(), 0)
    assert set(logged) == {"train/loss", "train/l1"}
    assert len(passes) == 1
    assert module.adversary is None


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_training_with_images_without_hole_and_all_hole(fit, precision, monkeypatch):
    holes = iter([0.0, 1.0] * 3)
    complete = WSSLDataModule.on_after_batch_transfer

    def changed(self, *args):
        made = complete(self, *args)
        made["mask"][: len(made["mask"]) // 2] = next(holes, 0.0)
        return made

    monkeypatch.setattr(WSSLDataModule, "on_after_batch_transfer", changed)
    module = ShiftNetModule(**SMALL, ema=0.9)
    trainer = fit(module, precision=precision, accumulate_grad_batches=2, gradient_clip_val=1.0)
    assert trainer.global_step == module.adversary.steps - 1 == 2
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    assert {"train/guidance", "train/grad_norm_discriminator", "val/ssim"} <= set(trainer.callback_metrics)


def test_a_few_steps_lower_the_loss(logged):
    module = ShiftNetModule(width=8, downs=5, lr=2e-3)
    data = WSSLDataModule(images="synthetic", masks="synthetic", image_size=SIZE, resize=36, batch_size=8, limit=8)
    data.setup("fit")
    made = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    optimizer, values = module.configure_optimizers(), []
    for _ in range(30):
        module.training_step(made, 0).backward()
        module.adversary.step(2e-4)
        optimizer.step()
        optimizer.zero_grad()
        values.append([logged[f"train/{name}"].item() for name in ("l1", "guidance")])
    assert values[-1][0] < 0.5 * values[0][0]
    assert values[-1][1] < 0.8 * values[0][1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width=0: must be a positive number"),
        ({"downs": 3}, "downs=3: must be at least 4"),
        ({"fill": 2.0}, "fill=2.0: must be a value between 0 and 1"),
        ({"l1": -1.0}, "l1=-1.0: must be a number, 0 or more"),
        ({"guidance": float("nan")}, "guidance=nan: must be a number, 0 or more"),
        ({"l1": 0.0, "adversarial": 0.0}, "l1=0.0: no loss is left"),
        ({"style": 10.0}, "style=10.0: needs features"),
        ({"features": "vgg16"}, "features=vgg16: nothing uses them"),
        ({"adversarial": 0.0, "discriminator_width": 8}, "discriminator_width=8: there is no discriminator"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(WSSLError, match=message):
        ShiftNetModule(**SMALL | settings)


def test_images_too_small_for_the_discriminator():
    data = SimpleNamespace(image_size=23)
    with pytest.raises(WSSLError, match=r"image_size=23: stage=shift_net needs at least 24 pixels"):
        ShiftNetModule(**SMALL).check_data(data)
    ShiftNetModule(**SMALL, adversarial=0.0).check_data(data)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        PatchGAN(2)(torch.rand(1, 3, 23, 23), torch.zeros(1, 1, 23, 23))
