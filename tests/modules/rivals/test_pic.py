import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader

from wssl_pl.errors import WSSLError
from wssl_pl.modules.checkpoint import read_checkpoint
from wssl_pl.modules.rivals.pic import PICModule, noise, prior_scale, symmetric_kl
from wssl_pl.modules.rivals.pic_networks import (
    GAIN,
    Attention,
    Discriminator,
    Distribution,
    Encoder,
    Generator,
    ResidualBlock,
    SelfAttention,
    ShortLongAttention,
    SpectralConv,
    UpBlock,
    activation,
)

SIZE = 64
SAMPLE_0 = [
    0.215603,
    2.043244,
    -0.640119,
    0.281243,
]  # of shape (2, 1, 2), in every release
PATHS = ("generated", "reconstruction")


def a_batch(count=3, size=SIZE):
    """Return a batch whose masks are random, all hole and no hole."""
    masks = (torch.rand(count, 1, size, size) < 0.4).float()
    masks[0], masks[1] = 1.0, 0.0
    return {"image": torch.rand(count, 3, size, size), "mask": masks}


def a_module(**settings):
    module = PICModule(**{"width": 2} | settings)
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.update({name: float(value.detach())})
    return module


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def conv(below, here, size=3):
    return below * here * size * size + here


def residual(below, here):
    return conv(below, here) + conv(here, here) + (conv(below, here, 1) if below != here else 0)


def up(below, here):
    return 2 * below + 2 * here + 2 * conv(below, here) + conv(here, here)


def test_layers_at_256_pixels():
    shapes = {}

    def note(module, inputs, output):
        shapes.setdefault(type(module).__name__, []).append(tuple(output.shape[1:]))

    networks = Encoder(32), Distribution(128), Generator(32), Discriminator(32)
    with torch.device("meta"):
        for network in networks:
            network.eval().to("meta")
            for layer in network.modules():
                if isinstance(layer, ResidualBlock | UpBlock | Attention):
                    layer.register_forward_hook(note)
        encoder, distribution, generator, discriminator = networks
        features, encoded = encoder(torch.empty(1, 3, 256, 256))
        sides = [(32, 128, 128), (64, 64, 64), (128, 32, 32), (128, 16, 16), (128, 8, 8)]
        assert shapes.pop("ResidualBlock") == sides
        assert encoded.shape[1:] == sides[2]
        mean, scale = distribution(features)
        assert mean.shape == scale.shape == (1, 128, 8, 8)
        assert shapes.pop("ResidualBlock") == [(256, 8, 8)]
        images = generator(mean, features, encoded, torch.empty(1, 1, 32, 32))
        assert shapes.pop("UpBlock") == [(128, 16, 16), (128, 32, 32), (64, 64, 64), (32, 128, 128), (32, 256, 256)]
        assert shapes.pop("ShortLongAttention") == [(128, 32, 32)]
        assert [tuple(image.shape) for image in images] == [(1, 3, side, side) for side in (32, 64, 128, 256)]
        shapes.clear()
        assert discriminator(torch.empty(1, 3, 256, 256)).shape == (1, 1, 8, 8)
        assert shapes == {"ResidualBlock": sides, "SelfAttention": [sides[2]]}
    widths = [3, 32, 64, 128, 128, 128]
    blocks = sum(residual(*pair) for pair in itertools.pairwise(widths))
    assert count(encoder) == blocks == 887_904
    assert count(distribution) == residual(128, 256) == 918_272
    ups = [(128, 128), (128, 128), (128 + 3, 64), (64 + 3, 32), (32 + 3, 32)]
    outputs = sum(conv(channels, 3) for channels in (128, 64, 32, 32))
    attention = conv(128, 32, 1) + 2 + residual(256, 128)
    assert count(generator) == residual(128, 128) + sum(up(*pair) for pair in ups) + attention + outputs
    assert count(discriminator) == blocks + conv(128, 32, 1) + 1 + conv(128, 1)


def test_every_convolution_is_normalised_and_orthogonal_at_first():
    module = a_module(width=4)
    layers = [*module.modules(), *module.make_discriminator().modules()]
    assert not any(isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d) for layer in layers)
    for layer in layers:
        if isinstance(layer, SpectralConv):
            values = torch.linalg.svdvals(layer.weight.flatten(1))
            torch.testing.assert_close(values, torch.full_like(values, GAIN))
            norm = torch.linalg.matrix_norm(layer.eval().normalised().flatten(1), 2)
            assert norm.item() == pytest.approx(1.0, abs=1e-5)


def test_the_normalisation_is_pytorch_s():
    layer, reference = SpectralConv(3, 5), torch.nn.Conv2d(3, 5, 3, padding=1)
    layer.weight.data.normal_()
    reference.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    norm = spectral_norm(reference).parametrizations.weight[0]
    norm._u.copy_(layer.u)
    norm._v.copy_(layer.v)
    features = torch.rand(2, 3, 6, 7)
    for _ in range(3):
        output, expected = layer(features), reference(features)
        torch.testing.assert_close(output, expected)
    for found in (output, expected):
        found.square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, reference.parametrizations.weight.original.grad)
    torch.testing.assert_close(layer.eval()(features), reference.eval()(features))
    largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    for _ in range(30):
        layer.train().normalised()
    torch.testing.assert_close(layer.normalised(), layer.weight / largest, atol=1e-4, rtol=1e-4)


def test_a_transposed_convolution_doubles_the_sides():
    layer = SpectralConv(2, 3, doubles=True).eval()
    features = torch.rand(1, 2, 5, 4)
    weight = layer.normalised().transpose(0, 1)
    expected = F.conv_transpose2d(features, weight, layer.bias, 2, 1, output_padding=1)
    assert torch.equal(layer(features), expected)
    assert expected.shape == (1, 3, 10, 8)


def attended_by_a_loop(layer, features, values):
    """Return the attended values position by position."""
    query = layer.query(features)
    output = torch.zeros_like(values)
    for image in range(len(features)):
        queries, flat = query[image].flatten(1), values[image].flatten(1)
        for position in range(queries.shape[1]):
            weights = torch.softmax(queries.T @ queries[:, position], dim=0)
            output[image].flatten(1)[:, position] = flat @ weights
    return output


def test_self_attention_is_a_plain_loop():
    layer = SelfAttention(8).double().eval()
    features = 3 * torch.randn(2, 8, 3, 5).double()
    assert torch.equal(layer(features), features)
    layer.gamma.data.fill_(0.7)
    expected = features + 0.7 * attended_by_a_loop(layer, features, features)
    torch.testing.assert_close(layer(features), expected)


def test_short_and_long_attention_is_a_plain_loop():
    layer = ShortLongAttention(8).double().eval()
    features, encoded = 3 * torch.randn(2, 2, 8, 3, 5).double()
    known = torch.rand(2, 1, 3, 5).double()
    known[0, 0, 0], known[1, 0, 0] = 0.0, 1.0
    torch.testing.assert_close(
        layer(features, encoded, known), layer.join(torch.cat([features, known * encoded], dim=1))
    )
    layer.gamma.data.fill_(0.7)
    layer.alpha.data.fill_(-0.3)
    own = features + 0.7 * attended_by_a_loop(layer, features, features)
    context = -0.3 * (1 - known) * attended_by_a_loop(layer, features, encoded) + known * encoded
    torch.testing.assert_close(layer(features, encoded, known), layer.join(torch.cat([own, context], dim=1)))


def test_the_width_of_the_prior_by_hand():
    values = prior_scale(torch.tensor([0.0, 0.5, 0.8, 1.0]))
    torch.testing.assert_close(values, torch.tensor([0.998341, 0.916827, 0.5, 0.167982]), atol=1e-6, rtol=0)


def test_the_symmetric_divergence_is_the_mean_of_both_directions():
    first = torch.distributions.Normal(torch.randn(4, 5), torch.rand(4, 5) + 0.1)
    second = torch.distributions.Normal(torch.randn(4, 5), torch.rand(4, 5) + 0.1)
    kl = torch.distributions.kl_divergence
    expected = (kl(first, second) + kl(second, first)).mean() / 2
    torch.testing.assert_close(symmetric_kl((first.loc, first.scale), (second.loc, second.scale)), expected)
    same = (first.loc, first.scale)
    assert symmetric_kl(same, same) == 0
    # One element: N(1, 2) from N(0, 0.5): log(1/4) + (4 + 1) / 0.5 - 1/2 and log 4 + (0.25 + 1) / 8 - 1/2.
    forward, back = -math.log(4) + 10 - 0.5, math.log(4) + 1.25 / 8 - 0.5
    value = symmetric_kl((torch.tensor(1.0), torch.tensor(2.0)), (torch.tensor(0.0), torch.tensor(0.5)))
    assert value.item() == pytest.approx((forward + back) / 2)


def test_the_loss_by_hand(monkeypatch):
    module, batch = a_module(), a_batch()
    module.against(torch.zeros(2, 3, SIZE, SIZE), torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, 1, SIZE, SIZE))
    seen = {}

    def generate(latent, features, encoded, known):
        outputs = [torch.rand(6, 3, side, side) * 2 - 1 for side in (8, 16, 32, 64)]
        seen.update(latent=latent, features=features, encoded=encoded, known=known, outputs=outputs)
        return outputs

    prior, posterior = ((torch.randn(3, 8, 2, 2), torch.rand(3, 8, 2, 2) + 0.1) for _ in range(2))
    monkeypatch.setattr(module.prior, "forward", lambda features: seen.update(of_prior=features) or prior)
    monkeypatch.setattr(module.posterior, "forward", lambda features: seen.update(of_posterior=features) or posterior)
    monkeypatch.setattr(module.generator, "forward", generate)
    scores = {}
    networks = module.adversary.network
    for path in PATHS:
        record = scores.setdefault(path, [])
        networks[path].register_forward_hook(lambda _, inputs, output, record=record: record.append((*inputs, output)))
    module.eval()
    networks.eval()
    state = torch.get_rng_state()
    loss = module.training_step(batch, 0)

    truth, hole = 2 * batch["image"] - 1, batch["mask"]
    known = module.encoder(truth * (1 - hole))
    torch.testing.assert_close(seen["of_prior"], known[0])
    torch.testing.assert_close(seen["of_posterior"], module.encoder(truth * hole)[0])
    torch.set_rng_state(state)
    numbers = torch.randn(6, 8, 2, 2)
    latent = torch.cat([prior[0] + prior[1] * numbers[:3], posterior[0] + posterior[1] * numbers[3:]])
    torch.testing.assert_close(seen["latent"], latent)
    torch.testing.assert_close(seen["features"], known[0].repeat(2, 1, 1, 1))
    torch.testing.assert_close(seen["encoded"], known[1].repeat(2, 1, 1, 1))
    torch.testing.assert_close(seen["known"][:3, 0, 2, 1], 1 - hole[:, 0, 16:24, 8:16].mean(dim=(1, 2)))

    parts = dict.fromkeys(("known", "reconstruction", "kl_posterior"), 0.0)
    for output, factor in zip(seen["outputs"], (8, 4, 2, 1), strict=True):
        side = SIZE // factor
        blocks = truth.reshape(3, 3, side, factor, side, factor).mean(dim=(3, 5))
        wholly = (1 - hole).reshape(3, 1, side, factor, side, factor).amin(dim=(3, 5))
        parts["known"] += ((output[:3] - blocks).abs() * wholly).mean()
        parts["reconstruction"] += (output[3:] - blocks).abs().mean()
    normal, kl = torch.distributions.Normal, torch.distributions.kl_divergence
    prior, posterior = normal(*prior), normal(*posterior)
    for number in range(3):
        width = 1 / (1 + math.exp(8 * ((1 - hole[number]).mean().item() - 0.8)))
        own, target = normal(posterior.loc[number], posterior.scale[number]), normal(0.0, width)
        parts["kl_posterior"] += (kl(own, target) + kl(target, own)).mean() / 6
    parts["kl_prior"] = (kl(prior, posterior) + kl(posterior, prior)).mean() / 2
    whole = seen["outputs"][-1].chunk(2)
    (generated, both), (rebuilt, other) = ([score for _, score in scores[path]] for path in PATHS)
    for path, image in zip(PATHS, whole, strict=True):
        torch.testing.assert_close(scores[path][0][0], image)
        torch.testing.assert_close(scores[path][1][0], torch.cat([truth, image]))
    parts["adversarial"] = (generated - 1).square().mean() / 2 + (rebuilt - other[:3]).square().mean()
    parts["discriminator"] = sum(
        ((each[:3] - 1).square().mean() + each[3:].square().mean()) / 2 for each in (both, other)
    )
    for name, part in parts.items():
        assert module.logged[f"train/{name}"] == pytest.approx(part.item(), rel=1e-4), name
    total = 80 * (parts["kl_posterior"] + parts["kl_prior"]) + 20 * (parts["known"] + parts["reconstruction"])
    assert loss.item() == pytest.approx((total + parts["adversarial"]).item(), rel=1e-4)


REACHED = {
    "known": {"encoder", "prior", "generator"},
    "reconstruction": {"encoder", "posterior", "generator"},
    "kl_posterior": {"encoder", "posterior"},
    "kl_prior": {"encoder", "prior"},
    "adversarial": {"encoder", "prior", "posterior", "generator"},
}


def test_each_loss_reaches_what_it_should(monkeypatch):
    module = a_module()
    parts = {}
    weighted = module.weighted
    monkeypatch.setattr(module, "weighted", lambda found, factors: parts.update(found) or weighted(found, factors))
    module.training_step(a_batch(), 0)
    gradients = [parameter.grad for parameter in module.adversary.network.parameters()]
    assert all(gradient is not None for gradient in gradients)  # its own are there, the losses below add none
    before = [gradient.clone() for gradient in gradients]
    for name, reached in REACHED.items():
        module.zero_grad()
        parts[name].backward(retain_graph=True)
        found = {part for part, network in module.named_children() if any_gradient(network)}
        assert found == reached, name
    assert all(torch.equal(*pair) for pair in zip(gradients, before, strict=True))


def any_gradient(network):
    return any(each.grad is not None and each.grad.abs().max() > 0 for each in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_finite_for_any_mask(dtype):
    module, batch = a_module(), a_batch(size=48)  # padded to 64
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = module.training_step(batch, 0)
        output = module.eval()(batch["image"], batch["mask"])
    loss.backward()
    networks = [*module.parameters(), *module.adversary.network.parameters()]
    assert all(each.grad is None or each.grad.isfinite().all() for each in networks)
    assert output.dtype == torch.float32
    assert output.shape == batch["image"].shape
    assert 0 <= output.min() < output.max() <= 1


def test_bfloat16_changes_little():
    module, batch = a_module(width=4).eval(), a_batch()
    with torch.no_grad():
        expected = module(batch["image"], batch["mask"])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = module(batch["image"], batch["mask"])
    assert (output - expected).abs().mean() < 0.01


@pytest.mark.parametrize(("height", "width"), [(1, 1), (32, 32), (33, 70), (128, 96)])
def test_any_size(height, width):
    module = a_module().eval()
    with torch.no_grad():
        output = module(torch.rand(1, 3, height, width), torch.ones(1, 1, height, width))
    assert output.shape == (1, 3, height, width)
    assert output.isfinite().all()


def test_samples_are_the_same_again_and_differ():
    module, batch = a_module().eval(), a_batch()
    with torch.no_grad():
        first, again, second = (module(batch["image"], batch["mask"], number) for number in (0, 0, 1))
        torch.manual_seed(5)
        alone = module(batch["image"][2:], batch["mask"][2:])
        holes = batch["mask"].expand_as(first) > 0.5
        changed = module(torch.where(holes, torch.rand(3, 3, SIZE, SIZE), batch["image"]), batch["mask"])
    assert torch.equal(first, again)
    assert torch.equal(first, changed)  # pixels in the hole have no influence
    assert (first - second).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    torch.testing.assert_close(alone, first[2:])


def test_the_noise_is_white_and_normal():
    numbers = noise(0, torch.Size((32, 64, 64)), torch.device("cpu"))
    other = noise(1, numbers.shape, numbers.device)
    assert abs(numbers.mean()) < 0.01
    assert numbers.std() == pytest.approx(1.0, abs=0.01)
    assert (numbers**4).mean() == pytest.approx(3.0, abs=0.1)
    for shifted in (other, *(numbers.roll(1, dim) for dim in range(3))):
        assert abs((numbers * shifted).mean()) < 0.01
    smaller = noise(0, torch.Size((4, 3, 5)), torch.device("cpu"))
    assert torch.equal(smaller, numbers[:4, :3, :5])
    assert noise(0, torch.Size((2, 1, 2)), torch.device("cpu")).flatten().tolist() == pytest.approx(SAMPLE_0, abs=1e-5)


class RedOrCyan(torch.nn.Module):
    """Scores the first and the third image by its red, the second by its lack of it; only in evaluation."""

    def forward(self, images):
        assert not self.training
        return images[:, :1] * torch.tensor([1.0, -1.0, 1.0]).view(-1, 1, 1, 1)


def test_the_best_sample_is_each_image_s_own():
    module, batch = a_module().eval(), a_batch()
    image, mask = batch["image"], batch["mask"]
    with pytest.raises(WSSLError, match="samples=4: the best one needs the discriminator"):
        module.best_of(image, mask, 4)
    with pytest.raises(WSSLError, match="samples=0: must be at least 1"):
        module.nearest_of(image, mask, image, 0)
    module.adversary = module.make_adversary(module.make_discriminator(), module.device)
    module.adversary.network["generated"] = network = RedOrCyan()
    with torch.no_grad():
        samples = torch.stack([module(image, mask, number) for number in range(4)])
        best = module.best_of(image, mask, 4)
        assert network.training
        network.eval()
        scores = torch.stack([network(2 * each - 1).mean(dim=(1, 2, 3)) for each in samples])
        chosen = samples[scores.argmax(dim=0), torch.arange(3)]
        nearest = module.nearest_of(image, mask, samples[[2, 3, 1], torch.arange(3)], 4)
    assert len(scores.argmax(dim=0).unique()) > 1
    torch.testing.assert_close(best, chosen)
    # Of an image without a hole all samples are as near.
    torch.testing.assert_close(nearest, samples[[2, 0, 1], torch.arange(3)])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_steps_at_the_width_of_the_paper_do_not_explode(seed):
    torch.manual_seed(seed)
    module, batch = a_module(width=32).train(), a_batch()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4, betas=(0.0, 0.999))
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        module.adversary.step(2e-4)
        losses.append(loss.item())
    assert max(losses) < 2 * losses[0]


def test_a_training_lowers_the_loss_and_its_checkpoint_has_the_discriminators(tmp_path):
    batch = a_batch()
    module = PICModule(width=4)
    losses = []
    module.log_parts = lambda parts: losses.append(parts["reconstruction"].item())
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, max_epochs=1, **off)
    trainer.fit(module, DataLoader([batch] * 12, batch_size=None))
    assert losses[-1] < 0.9 * losses[0]
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [1e-4]
    adam = module.adversary.optimizer.param_groups[0]
    assert (adam["lr"], adam["betas"]) == (pytest.approx(2e-4), (0.0, 0.999))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not any("generated" in name for name in read_checkpoint(tmp_path / "last.ckpt", "pic")["state_dict"])
    loaded = PICModule.load_from_checkpoint(tmp_path / "last.ckpt")
    pairs = zip(module.adversary.network.parameters(), loaded.adversary.network.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    module.eval(), loaded.eval()
    with torch.no_grad():
        best = module.best_of(batch["image"], batch["mask"], 3)
        assert torch.equal(best, loaded.best_of(batch["image"], batch["mask"], 3))


@pytest.mark.parametrize(
    ("recent", "remark"),
    [
        ([0.02, 1.0, 0.1], "distinguishes all"),
        ([0.1, 0.9, 0.2], None),  # of 0.5 at chance
        ([0.5, 0.5, 0.48], "distinguishes nothing"),
    ],
)
def test_a_collapse_is_reported(recent, remark):
    module = a_module()
    module.adversary = module.make_adversary(module.make_discriminator(), module.device)
    module.adversary.recent, module.adversary.steps = torch.tensor(recent), 1
    assert [remark in each for each in module.remarks()] == ([] if remark is None else [True])


def test_several_samples_are_shown():
    module, batch = a_module().eval(), a_batch()
    with torch.no_grad():
        images = module.validation_images(batch)
        second = module(batch["image"], batch["mask"], 1)
    assert images.keys() == {"val/images", "val/samples"}
    cell = images["val/samples"][:, 2:66, 2 + 2 * 66 : 2 + 2 * 66 + 64]  # the first row's third column, all hole
    torch.testing.assert_close(cell, second[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width=0: must be a positive number"),
        ({"kl": -1.0}, "kl=-1.0: must be a number, 0 or more"),
        ({"l1": float("nan")}, "l1=nan: must be a number, 0 or more"),
        ({"l1": 0.0, "adversarial": 0.0}, "l1=0.0: nothing of the image is learnt"),
        ({"adversarial": 0.0, "discriminator_lr": 1e-3}, "discriminator_lr=0.001: there is no discriminator"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(WSSLError, match=message):
        PICModule(**{"width": 2} | settings)


@pytest.mark.slow
def test_an_exported_file_gives_the_same_sample(tmp_path):
    from wssl_pl.export.onnx_file import write_onnx
    from wssl_pl.models import ModelInfo

    module = a_module()
    module.generator.attention.gamma.data.fill_(0.5)
    module.generator.attention.alpha.data.fill_(0.5)
    info = ModelInfo("pic", dict(module.hparams), {"image_size": 64}, "pic")
    assert write_onnx(module, info, tmp_path / "pic.onnx") < 1e-5  # at three sizes


def test_activations_by_hand():
    assert activation(torch.tensor([-1.0, 0.0, 2.0])).tolist() == pytest.approx([-0.1, 0.0, 2.0])
    features = torch.randn(1, 3, 8, 8)
    for raw in (True, False):
        block = ResidualBlock(3, 3, raw=raw).eval()
        given = features if raw else activation(features)
        expected = features + block.second(activation(block.first(given)))
        torch.testing.assert_close(block(features), expected)
    assert [block.raw for block in Encoder(4).blocks] == [True, False, False, False, False]
