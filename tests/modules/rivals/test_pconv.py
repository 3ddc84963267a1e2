import copy

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import WSSLError
from wssl_pl.losses import perceptual_loss, style_loss
from wssl_pl.modules.rivals.pconv import Norm, PartialConv, PConvModule, PConvUNet, total_variation


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
    # 0.5 (1 + 3 + 2 + 6) = 6; 18 values in the window, 4 of them known: 6 x 18 / 4 + 1.
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
    norms = [layer.num_features for layer in network.modules() if isinstance(layer, Norm)]
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


def test_the_first_outputs_are_near_grey():
    output, _ = PConvUNet(width=8)(torch.rand(4, 3, 128, 128), random_mask(4, 1, 128, 128))
    assert (output - 0.5).abs().mean() < 0.15


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


SMALL = {"width": 2, "downs": 4}
PLAIN = SMALL | {"perceptual": 0.0, "style": 0.0}


def batch(count=3, size=32):
    return {"image": torch.rand(count, 3, size, size), "mask": random_mask(count, 1, size, size)}


class Levels(nn.Module):
    """Features of two levels, in the place of VGG16."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def forward(self, images):
        first = self.first(images).relu()
        return [first, self.second(first)]


def logging(module):
    parts = {}
    module.log = lambda name, value, **kwargs: parts.__setitem__(name.removeprefix("train/"), value)
    return parts


def test_the_losses_by_hand():
    module = PConvModule(**SMALL, known=2.0, hole=5.0, perceptual=0.3, style=7.0, total_variation=0.2)
    network = Levels().requires_grad_(False)
    module._features.append(network)
    parts, given = logging(module), batch()
    image, mask = given["image"], given["mask"]
    loss = module.training_step(given, 0)
    output, _ = module.network(torch.where(mask > 0.5, 0.0, image), 1.0 - mask)
    assert output.min() < 0.0 or output.max() > 1.0  # the raw output, not limited
    filled = torch.where(mask > 0.5, output, image)
    error, count = (output - image).abs(), image.numel()
    torch.testing.assert_close(parts["known"], error[mask.expand_as(image) < 0.5].sum() / count)
    torch.testing.assert_close(parts["hole"], error[mask.expand_as(image) > 0.5].sum() / count)
    torch.testing.assert_close(parts["total_variation"], total_variation(filled, mask))
    ours, also, true = network(output), network(filled), network(image)
    torch.testing.assert_close(parts["perceptual"], perceptual_loss(ours, true) + perceptual_loss(also, true))
    torch.testing.assert_close(parts["style"], style_loss(ours, true) + style_loss(also, true))
    factors = {"known": 2.0, "hole": 5.0, "perceptual": 0.3, "style": 7.0, "total_variation": 0.2}
    torch.testing.assert_close(loss, sum(factor * parts[name] for name, factor in factors.items()))
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_defaults_are_the_paper_s():
    with torch.device("meta"):
        module = PConvModule()
    assert module.factors == {"known": 1, "hole": 6, "total_variation": 0.1, "perceptual": 0.05, "style": 120}
    assert module.hparams["features"] == "vgg16"
    settings = module.optimizer_settings
    assert (settings.lr, settings.second_phase_lr, settings.optimizer) == (2e-4, 5e-5, "adam")
    assert sum(parameter.numel() for parameter in module.parameters()) == 25_784_276


def test_the_hole_has_no_influence_and_each_image_has_its_own():
    module, given = PConvModule(**PLAIN).eval(), batch(size=37)
    image, mask = given["image"], given["mask"]
    with torch.no_grad():
        whole = module(image, mask)
        torch.testing.assert_close(module(torch.where(mask > 0.5, torch.nan, image), mask), whole)
        alone = torch.cat([module(image[[number]], mask[[number]]) for number in range(3)])
    torch.testing.assert_close(whole, alone)
    assert whole.shape == image.shape
    assert whole.dtype == torch.float32
    assert 0.0 <= whole.min() < whole.max() <= 1.0


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_all_hole_and_no_hole(precision):
    module = PConvModule(**PLAIN)
    logging(module)
    given = batch()
    given["mask"][0], given["mask"][1] = 1.0, 0.0
    with torch.autocast("cpu", precision, enabled=precision is not None):
        module.training_step(given, 0).backward()
        assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
        with torch.no_grad():
            output = module.eval()(given["image"], given["mask"])
    assert output.isfinite().all()
    assert (output[0] == 0.5).all()  # nothing is known


def test_where_nothing_known_is_near_there_is_the_mean_colour():
    module = PConvModule(**PLAIN | {"downs": 1}).eval()
    image, mask = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    mask[..., :8] = 0
    output = module(image, mask)
    torch.testing.assert_close(output[0, :, 0, -1], image[..., :8].mean(dim=(0, 2, 3)))
    assert not torch.equal(output[0, :, 0, 8], output[0, :, 0, -1])


def test_a_single_image_whose_last_features_are_one_position_is_trained():
    module = PConvModule(**PLAIN | {"downs": 5})
    logging(module)
    module.training_step(batch(1), 0).backward()
    assert module.network.encoder[-1].conv.weight.grad.isfinite().all()
    norm = Norm(2)
    values = torch.tensor([3.0, -1.0]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(norm(values), values, atol=1e-4, rtol=1e-4)


def loader(count, size=32):
    batches = batch(2 * count, size)
    pairs = [{name: value[2 * number : 2 * number + 2] for name, value in batches.items()} for number in range(count)]
    return torch.utils.data.DataLoader(pairs, batch_size=None)


class Record(Callback):
    """Keeps rates, and the encoder's normalisation and a decoder's, after every step."""

    def __init__(self):
        self.rates, self.encoder, self.decoder = [], [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, *args):
        for kept, norms in ((self.encoder, module.network.norms()), (self.decoder, [module.network.decoder[0].norm])):
            kept.append(copy.deepcopy([norm.state_dict() for norm in norms]))


def train(module, path, data, resume=None, **settings):
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    record = Record()
    trainer = Trainer(
        accelerator="cpu", default_root_dir=path, callbacks=[record], **off | {"max_epochs": 1} | settings
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return record


def same(first, second):
    return [
        all(torch.equal(norm[name], other[name]) for name in norm) for norm, other in zip(first, second, strict=True)
    ]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_second_phase(tmp_path, schedule):
    module = PConvModule(**PLAIN, second_phase=0.4, second_phase_lr=1e-4, lr=1e-3, lr_schedule=schedule)
    record = train(module, tmp_path, loader(5))
    factors = [1.0] * 5
    if schedule == "cosine":
        factors = [0.5 * (1 + torch.tensor(torch.pi * step / 5).cos().item()) for step in range(5)]
    lrs = [1e-3, 1e-3, 1e-3, 1e-4, 1e-4]
    assert record.rates == pytest.approx([lr * factor for lr, factor in zip(lrs, factors, strict=True)])
    for step in range(1, 5):
        frozen = same(record.encoder[step - 1], record.encoder[step])
        assert frozen == [step >= 3] * 3
        assert same(record.decoder[step - 1], record.decoder[step]) == [False]


def test_there_is_none_where_it_is_0(tmp_path):
    record = train(PConvModule(**PLAIN, second_phase=0.0), tmp_path, loader(2))
    assert record.rates == [2e-4, 2e-4]
    assert same(*record.encoder) == [False] * 3


@pytest.mark.parametrize("stop", [1, 5])
def test_a_run_resumed_in_either_phase_ends_like_a_whole_one(tmp_path, stop):
    def made():
        torch.manual_seed(4)
        return PConvModule(**PLAIN, second_phase=0.5, lr=1e-3)

    class Save(Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == stop:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    def run(resume=None):
        data = WSSLDataModule(
            images="synthetic", masks="synthetic", image_size=32, resize=36, batch_size=8, limit=24, num_workers=0
        )
        off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
        off |= {"num_sanity_val_steps": 0, "limit_val_batches": 0}
        trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, max_epochs=2, callbacks=[Save()], **off)
        trainer.fit(made(), datamodule=data, ckpt_path=resume, weights_only=True)
        assert trainer.global_step == 6
        return trainer.lightning_module, trainer.optimizers[0].state_dict()

    whole, optimizer = run()
    parts, resumed = run(tmp_path / "middle.ckpt")
    for (name, tensor), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    assert resumed["param_groups"] == optimizer["param_groups"]
    assert optimizer["param_groups"][0]["lr"] == pytest.approx(5e-5)
    for number, state in optimizer["state"].items():
        assert all(torch.equal(value, resumed["state"][number][name]) for name, value in state.items())


@pytest.mark.parametrize("batches", [1, 4])
def test_both_parts_of_the_second_phase_begin_at_one_step_of_a_run_resumed_with_other_batches(tmp_path, batches):
    class Save(Callback):
        def on_train_epoch_end(self, trainer, *args):
            trainer.save_checkpoint(tmp_path / "a.ckpt")

    settings = PLAIN | {"second_phase": 0.5, "lr": 1e-3}
    data = loader(2), loader(batches)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[Save()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(PConvModule(**settings), data[0])
    record = train(PConvModule(**settings), tmp_path, data[1], resume=tmp_path / "a.ckpt", max_epochs=3)
    first = 2 + 2 * batches - round((2 + 2 * batches) / 2)  # of all steps
    assert [rate < 1e-4 for rate in record.rates] == [step >= first for step in range(2, 2 + 2 * batches)]
    for step in range(1, 2 * batches):
        assert same(record.encoder[step - 1], record.encoder[step]) == [step + 2 >= first] * 3


def test_the_second_phase_freezes_what_sync_batchnorm_converts():
    network = PConvModule(**PLAIN).network
    count = len(network.norms())
    assert len(nn.SyncBatchNorm.convert_sync_batchnorm(network).norms()) == count > 0


def test_without_an_end_there_is_no_second_phase(tmp_path):
    with pytest.raises(WSSLError, match=r"second_phase=0.25: needs an end: give max_epochs or max_steps"):
        train(PConvModule(**PLAIN), tmp_path, loader(1), max_epochs=-1)


def test_a_few_steps_lower_the_loss(tmp_path):
    torch.manual_seed(1)
    module, given = PConvModule(**PLAIN | {"width": 4}, lr=2e-3, second_phase=0.0), batch()
    given["image"] = torch.nn.functional.interpolate(torch.rand(3, 3, 4, 4), size=32, mode="bilinear")
    losses = []
    module.log = lambda name, value, **kwargs: losses.append(value.item()) if name == "train/loss" else None
    data = torch.utils.data.DataLoader([given] * 25, batch_size=None)
    train(module, tmp_path, data)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hole": -1.0}, "hole=-1.0: must be a number, 0 or more"),
        ({"hole": 0.0, "perceptual": 0.0, "style": 0.0}, "hole=0.0: nothing of the truth"),
        ({"features": None}, "perceptual=0.05: needs features"),
        ({"second_phase": 1.5}, "second_phase=1.5: must be a fraction of the run"),
        ({"second_phase_lr": 0.0}, "second_phase_lr=0.0: must be a positive number"),
        ({"second_phase": 0.0, "second_phase_lr": 1e-3}, "second_phase_lr=0.001: second_phase=0 is none"),
        ({"width": 0}, "width=0: must be at least 1"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(WSSLError, match=message):
        PConvModule(**SMALL | settings)


def test_images_too_small_for_its_layers(fit):
    with pytest.raises(WSSLError, match=r"image_size=32: model.downs=6 needs at least 64 pixels: give model.downs=5"):
        fit(PConvModule(**PLAIN | {"downs": 6}))


def test_without_weights_it_says_how_to_train_without(fit, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WSSLError, match=r"features=vgg16: no weights found .*--model.perceptual=0 --model.style=0"):
        fit(PConvModule(**SMALL))


@pytest.mark.slow
def test_onnx_has_the_same_outputs(tmp_path):
    pytest.importorskip("onnxscript")
    from wssl_pl.export.onnx_file import write_onnx
    from wssl_pl.models import ModelInfo

    module = PConvModule(**PLAIN | {"downs": 5})
    for norm in module.network.norms():
        nn.init.normal_(norm.running_mean)
    assert write_onnx(module, ModelInfo("pconv", dict(module.hparams), {}, "pconv"), tmp_path / "a.onnx") < 1e-4


def test_a_mask_of_one_half_is_known_as_everywhere_else():
    module = PConvModule(width=4, perceptual=0, style=0, features=None).eval()
    images, masks = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    masks[..., 20:40, 20:40] = 1.0
    half = masks.clone()
    half[..., :10, :] = 0.5
    assert torch.equal(module(images, masks), module(images, half))
