import copy

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch.optim import Adam

from wssl_pl.callbacks import weights_are_finite
from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import WSSLError
from wssl_pl.metrics import composite
from wssl_pl.models import open_model
from wssl_pl.modules import InpaintModule
from wssl_pl.modules.adversarial import Adversary
from wssl_pl.modules.rivals.shift_net import ShiftNetModule

SIZE = 32
SETTINGS = {"ckpt": "none", "width": 2, "freeze_layers": 0}


def batches(count, size=SIZE):
    image, mask = torch.rand(count, 3, 3, size, size), (torch.rand(count, 3, 1, size, size) < 0.4).float()
    return [{"image": image[number], "mask": mask[number]} for number in range(count)]


def module_with_adversary(**settings):
    module = InpaintModule(**SETTINGS | {"adversarial": 0.1} | settings)
    module.adversary = Adversary(module.make_discriminator(), module.device)
    return module


def quiet(tmp_path, **settings):
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return Trainer(accelerator="cpu", default_root_dir=tmp_path, max_epochs=1, **off, **settings)


class Logged(Callback):
    """Keeps what was logged in every batch."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, *args):
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.001])
def test_steps_by_hand(tmp_path, window, clip):
    data, module = batches(4), module_with_adversary()
    # Of scores around 0 the gradients of both terms cancel, and Adam would make steps of what rounding leaves.
    bias = module.adversary.network.layers[-1].bias.data
    bias.copy_(torch.tensor([1.5, -1.5]).repeat(len(bias) // 2))
    generator, discriminator = copy.deepcopy(module), copy.deepcopy(module.adversary.network)
    logged = Logged()
    settings = {"accumulate_grad_batches": window, "gradient_clip_val": clip, "callbacks": [logged]}
    trainer = quiet(tmp_path, **settings)
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    assert trainer.global_step == 4 // window

    optimizers = [Adam(generator.parameters(), lr=1e-4), Adam(discriminator.parameters(), lr=4e-4, betas=(0.0, 0.9))]
    for number, batch in enumerate(data):
        image, mask = batch["image"], batch["mask"]
        prediction = generator(image, mask)
        filled = composite(prediction, image, mask)
        score = discriminator(filled, mask)
        loss = generator.loss(prediction, image) - 0.1 * score.mean()
        (loss / window).backward(inputs=list(generator.parameters()))
        assert logged.rows[number]["train/adversarial"] == pytest.approx(-score.mean().item(), abs=1e-6)
        assert logged.rows[number]["train/loss"] == pytest.approx(loss.item(), abs=1e-6)
        real, fake = discriminator(torch.cat([image, filled.detach()]), torch.cat([mask, mask])).chunk(2)
        loss = (1 - real).relu().mean() + (1 + fake).relu().mean()
        (loss / window).backward()
        assert logged.rows[number]["train/discriminator"] == pytest.approx(loss.item(), abs=1e-6)
        assert logged.rows[number]["train/score_real"] == pytest.approx(real.mean().item(), abs=1e-6)
        if (number + 1) % window == 0:
            norm = torch.nn.utils.get_total_norm([each.grad for each in discriminator.parameters()]).item()
            assert logged.rows[number]["train/grad_norm_discriminator"] == pytest.approx(norm, rel=1e-4)
            for network, optimizer in zip((generator, discriminator), optimizers, strict=True):
                if clip is not None:
                    assert torch.nn.utils.clip_grad_norm_(network.parameters(), clip) > clip
                optimizer.step()
                optimizer.zero_grad()
    for found, expected in ((module, generator), (module.adversary.network, discriminator)):
        for (name, tensor), other in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
            torch.testing.assert_close(tensor, other, atol=2e-6, rtol=1e-5, msg=name)


def test_the_holes_alone_are_moved_by_it():
    adversary = module_with_adversary().adversary
    (batch,) = batches(1)
    prediction = torch.rand_like(batch["image"]).requires_grad_()
    losses = adversary.compare(composite(prediction, batch["image"], batch["mask"]), batch["image"], batch["mask"])
    of_discriminator = [gradient.clone() for gradient in adversary.gradients()]
    losses["adversarial"].backward()
    moved = prediction.grad.abs().sum(dim=1, keepdim=True)
    assert (moved[batch["mask"] < 0.5] == 0).all()
    assert (moved[batch["mask"] > 0.5] > 0).all()
    # And the discriminator is not moved by the generator's loss.
    assert all(torch.equal(*pair) for pair in zip(of_discriminator, adversary.gradients(), strict=True))
    assert not losses["discriminator"].requires_grad


def test_it_adds_to_the_other_losses():
    module = module_with_adversary(restore=["saturation"], consistency=0.5)
    parts = {}
    module.log = lambda name, value, **kwargs: parts.__setitem__(name.removeprefix("train/"), value)
    loss = module.training_step(batches(1)[0], 0)
    expected = 0.84 * parts["log_cosh"] + 0.16 * parts["ssim_loss"] + 0.1 * parts["adversarial"]
    torch.testing.assert_close(loss, expected + 0.5 * parts["consistency"])
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_without_it_the_weights_and_the_steps_are_the_same():
    modules = []
    for adversarial in (0.0, 0.1):
        torch.manual_seed(3)
        modules.append(InpaintModule(**SETTINGS, adversarial=adversarial))
    plain, against = modules
    assert plain.state_dict().keys() == against.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), against.parameters(), strict=True))
    logged = {}
    plain.log = lambda name, value, **kwargs: logged.__setitem__(name, value)
    plain.training_step(batches(1)[0], 0)
    assert set(logged) == {"train/loss", "train/log_cosh", "train/ssim_loss"}
    assert plain.adversary is None


def state_of(trainer, path):
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key in found:
            assert_equal(found[key], expected[key])
    elif isinstance(found, list):
        for pair in zip(found, expected, strict=True):
            assert_equal(*pair)
    elif isinstance(found, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


def test_a_run_resumed_within_an_epoch_ends_like_a_whole_one(fit, tmp_path):
    settings = SETTINGS | {"adversarial": 0.1, "lr": 1e-3, "ema": 0.9, "lr_schedule": "cosine", "warmup_steps": 2}

    def made():
        torch.manual_seed(4)
        return InpaintModule(**settings)

    keywords = {"precision": "bf16-mixed", "max_epochs": 2}
    whole = state_of(fit(made(), **keywords), tmp_path / "whole.ckpt")

    class Stop(Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    fit(made(), callbacks=[Stop()], **keywords)
    torch.manual_seed(9)
    resumed = InpaintModule(**settings)
    parts = state_of(fit(resumed, resume=tmp_path / "middle.ckpt", **keywords), tmp_path / "parts.ckpt")
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "discriminator", "global_step", "epoch"):
        assert_equal(parts[name], whole[name])
    assert whole["discriminator"]["steps"] == whole["global_step"] == 6
    assert not any("discriminator" in key or "layers" in key for key in whole["state_dict"])


def test_the_model_opens_without_its_discriminator(fit, tmp_path):
    trainer = fit(InpaintModule(**SETTINGS, adversarial=0.1), max_steps=1)
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    assert "discriminator" not in torch.load(tmp_path / "weights.ckpt", weights_only=True)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    module = InpaintModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert module.adversary is None
    assert module.adversarial == 0.1
    predictor = open_model(tmp_path / "a.ckpt")
    assert {key.split(".")[0] for key in predictor.module.state_dict()} == {"encoder", "decoder"}
    assert predictor.info.hyper_parameters["adversarial"] == 0.1
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del checkpoint["discriminator"]
    torch.save(checkpoint, tmp_path / "b.ckpt")
    assert InpaintModule.load_from_checkpoint(tmp_path / "b.ckpt").adversarial == 0.1


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.1), (0.1, 0.0), (0.1, 0.2)])
def test_it_begins_ends_or_changes_on_resume(fit, tmp_path, before, after):
    fit(InpaintModule(**SETTINGS, adversarial=before)).save_checkpoint(tmp_path / "a.ckpt")
    module = InpaintModule(**SETTINGS, adversarial=after)
    trainer = fit(module, resume=tmp_path / "a.ckpt", max_epochs=2)
    assert trainer.global_step == 6
    assert (module.adversary is not None) == (after > 0)
    assert ("discriminator" in state_of(trainer, tmp_path / "b.ckpt")) == (after > 0)
    if module.adversary is not None:
        assert module.adversary.steps == (6 if before else 3)


def test_betas_typed_on_resume_are_the_discriminator_s_too(fit, tmp_path):
    settings = {"width": 2, "downs": 5, "perceptual": 0.0, "style": 0.0}
    fit(ShiftNetModule(**settings), max_steps=1).save_checkpoint(tmp_path / "a.ckpt")
    trainer = fit(ShiftNetModule(**settings, betas=(0.0, 0.9)), resume=tmp_path / "a.ckpt", max_steps=2, max_epochs=2)
    optimizers = trainer.optimizers[0], trainer.lightning_module.adversary.optimizer
    assert [tuple(each.param_groups[0]["betas"]) for each in optimizers] == [(0.0, 0.9)] * 2


def test_another_width_on_resume_is_one_line(fit, tmp_path):
    fit(InpaintModule(**SETTINGS, adversarial=0.1), max_steps=1).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(WSSLError, match=r"discriminator_width=3: does not fit the network: other shapes"):
        fit(InpaintModule(**SETTINGS, adversarial=0.1, discriminator_width=3), resume=tmp_path / "a.ckpt")


def test_its_rate_follows_that_of_the_model(fit):
    rates = []

    class Rates(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            rates.append(pl_module.adversary.optimizer.param_groups[0]["lr"])

    module = InpaintModule(**SETTINGS, adversarial=0.1, lr=1e-3, discriminator_lr=1e-2, warmup_steps=2, encoder_lr=1e-5)
    fit(module, callbacks=[Rates()])
    assert rates == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])


def test_float16_has_a_scale_of_its_own(fit, tmp_path):
    found = []
    for plugins in (None, MixedPrecision("16-mixed", "cpu")):
        torch.manual_seed(4)
        module, logged = InpaintModule(**SETTINGS, adversarial=0.1, lr=1e-3), Logged()
        torch.manual_seed(5)
        trainer = fit(module, plugins=plugins, callbacks=[logged])
        found.append([row["train/grad_norm_discriminator"] for row in logged.rows])
        assert weights_are_finite(module)
    assert found[1] == pytest.approx(found[0], rel=0.02)
    scaler = state_of(trainer, tmp_path / "a.ckpt")["discriminator"]["scaler"]
    assert scaler["scale"] == 65536.0
    assert scaler["_growth_tracker"] == 3
    fit(InpaintModule(**SETTINGS, adversarial=0.1), resume=tmp_path / "a.ckpt", max_epochs=2)  # in float32


def test_a_discriminator_that_is_not_finite_stops_the_training():
    module = module_with_adversary()
    assert weights_are_finite(module)
    next(module.adversary.network.parameters()).data[0] = torch.nan
    assert not weights_are_finite(module)


@pytest.mark.parametrize(
    ("recent", "remark"),
    [
        ([0.05, 1.2, -1.3], "The discriminator distinguishes all images (loss 0.05, mean score of true images 1.20"),
        ([1.99, 0.2, 0.18], "The discriminator distinguishes nothing (loss 1.99, mean score of true images 0.20"),
        ([1.0, 0.6, -0.4], None),
    ],
)
def test_a_collapse_is_reported(recent, remark):
    module = module_with_adversary()
    assert module.remarks() == []
    module.adversary.recent, module.adversary.steps = torch.tensor(recent), 10
    assert module.remarks() == [] if remark is None else module.remarks()[0].startswith(remark)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adversarial": -1.0}, "adversarial=-1.0: must be a number, 0 or more"),
        ({"adversarial": float("nan")}, "adversarial=nan: must be a number"),
        ({"adversarial": 1.0, "discriminator_lr": 0.0}, "discriminator_lr=0.0: must be a positive number"),
        ({"adversarial": 1.0, "discriminator_width": 0}, "discriminator_width=0: must be a positive number"),
        ({"discriminator_width": 8}, "discriminator_width=8: there is no discriminator: give adversarial"),
        ({"discriminator_lr": 1.0}, "discriminator_lr=1.0: there is no discriminator: give adversarial"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(WSSLError, match=message):
        InpaintModule(**SETTINGS, **settings)


def test_both_sides_learn():
    data = WSSLDataModule(images="synthetic", masks="synthetic", image_size=SIZE, resize=36, batch_size=16, limit=32)
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    image, mask = batch["image"], batch["mask"]
    module = module_with_adversary(discriminator_width=8, width=4)
    adversary = module.adversary
    with torch.no_grad():
        filled = composite(module(image, mask), image, mask)
    for _ in range(40):
        first = adversary.compare(filled, image, mask)
        adversary.step(2e-3)
    scores = adversary.network(torch.cat([image, filled]), torch.cat([mask, mask])).mean(dim=(1, 2, 3))
    assert (scores > 0).eq(torch.arange(32) < 16).float().mean() > 0.8
    # The generator's side, against this discriminator.
    optimizer = Adam(module.decoder.parameters(), lr=1e-3)
    for _ in range(20):
        losses = adversary.compare(composite(module(image, mask), image, mask), image, mask)
        optimizer.zero_grad()
        losses["adversarial"].backward()
        optimizer.step()
    assert losses["adversarial"] < first["adversarial"] - 0.05


def test_recent_losses_and_scores_are_means(tmp_path):
    adversary = module_with_adversary().adversary
    seen = []
    for data in batches(3):
        found = adversary.compare(torch.rand_like(data["image"]), data["image"], data["mask"], 1)
        seen.append([found[name].item() for name in ("discriminator", "score_real", "score_fake")])
    means = torch.tensor(seen).mean(dim=0)
    assert adversary.recent.tolist() == pytest.approx(means.tolist(), rel=1e-5)


def test_the_discriminator_is_that_of_the_seed_and_takes_no_number_of_the_model():
    module = InpaintModule(**SETTINGS, adversarial=0.1)
    torch.manual_seed(5)
    torch.rand(3)
    before = torch.get_rng_state()
    first = module._draw_discriminator().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    again = module._draw_discriminator().state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    torch.manual_seed(6)
    other = module._draw_discriminator().state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)
