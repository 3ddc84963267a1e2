"""How the downstream stage takes over an encoder and trains it."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from wssl_pl.errors import WSSLError
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.modules.encoder import FIRST_WEIGHT


def batch(count=4, size=32):
    return {"image": torch.rand(count, 3, size, size), "mask": (torch.rand(count, 1, size, size) < 0.4).float()}


@pytest.fixture
def pretext(tmp_path):
    """A pretext checkpoint of width 4 without a mask channel."""
    module = PretextModule(["saturation"], width=4)
    path = tmp_path / "pretext.ckpt"
    torch.save({"stage": "pretext", "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    return str(path)


@pytest.fixture
def logged(monkeypatch):
    figures = {}
    monkeypatch.setattr(InpaintModule, "log", lambda self, name, value, **kwargs: figures.__setitem__(name, value))
    return figures


@pytest.fixture
def at_epoch(monkeypatch):
    """Sets the epoch in which every module believes to be."""

    def set_epoch(epoch):
        monkeypatch.setattr(InpaintModule, "current_epoch", epoch)

    return set_epoch


def train(module, optimizer, steps=2):
    for _ in range(steps):
        optimizer.zero_grad()
        module.training_step(batch(), 0).backward()
        optimizer.step()


def test_an_added_mask_channel_changes_nothing_at_first_and_is_learned(pretext, logged):
    plain = InpaintModule(pretext, freeze_layers=0)
    module = InpaintModule(pretext, freeze_layers=0, mask_channel=True, lr=0.01)
    module.decoder.load_state_dict(plain.decoder.state_dict())
    data = batch()
    assert torch.allclose(module(data["image"], data["mask"]), plain(data["image"], data["mask"]), atol=1e-6)
    assert module.hparams["mask_channel"] is True
    train(module, module.configure_optimizers())
    assert module.encoder.get_parameter(FIRST_WEIGHT)[:, 3].abs().min() > 0


def test_the_fourth_channel_is_the_mask():
    module = InpaintModule(freeze_layers=0, width=4, mask_channel=True)
    seen = []
    module.encoder.stages[0].register_forward_pre_hook(lambda stage, inputs: seen.append(inputs[0]))
    data = batch()
    module(data["image"], data["mask"])
    assert torch.equal(seen[0][:, 3:], data["mask"])
    assert torch.equal(seen[0][:, :3], data["image"] * (1 - data["mask"]))


def test_its_hyperparameters_build_it_again_with_its_mask_channel(pretext):
    module = InpaintModule(pretext, freeze_layers=0, mask_channel=True)
    # Where there is no memory at first, as the readers of model files do it: no weight may be looked at.
    with torch.device("meta"):
        InpaintModule(**module.hparams | {"freeze_layers": 16})
    again = InpaintModule(**module.hparams)
    again.load_state_dict(module.state_dict())
    data = batch()
    assert torch.equal(module(data["image"], data["mask"]), again(data["image"], data["mask"]))


def test_a_checkpoint_from_before_there_were_mask_channels(pretext):
    checkpoint = torch.load(pretext, weights_only=True)
    checkpoint["hyper_parameters"] = {"width": 4, "norm": "none"}
    torch.save(checkpoint, pretext)
    assert InpaintModule(pretext).hparams["mask_channel"] is False


def test_both_learning_rates_are_used(logged):
    # The first step of Adam moves every weight by its learning rate, as far as it has a gradient.
    module = InpaintModule(freeze_layers=0, width=4, lr=1e-2, encoder_lr=1e-4)
    before = {name: value.clone() for name, value in module.named_parameters()}
    train(module, module.configure_optimizers(), steps=1)
    moved = {name: (value - before[name]).abs().max().item() for name, value in module.named_parameters()}
    for name, distance in moved.items():
        assert distance == pytest.approx(1e-4 if name.startswith("encoder") else 1e-2, rel=0.02), name


@pytest.mark.parametrize("freeze", [16, 7])
def test_the_encoder_stands_still_until_its_epoch_and_is_wholly_trained_then(freeze, logged, at_epoch):
    module = InpaintModule(freeze_layers=freeze, width=4, norm="batch", lr=0.01, unfreeze_epoch=2)
    optimizer = module.configure_optimizers()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.parameters()))
    frozen = [name for name, parameter in module.encoder.named_parameters() if not parameter.requires_grad]
    buffer = "stages.0.first.norm.running_mean"
    for epoch in range(3):
        before = {name: value.clone() for name, value in module.encoder.state_dict().items()}
        at_epoch(epoch)
        module.on_train_epoch_start()
        train(module, optimizer)
        after = module.encoder.state_dict()
        same = {name for name in [*frozen, buffer] if torch.equal(before[name], after[name])}
        assert same == ({*frozen, buffer} if epoch < 2 else set())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_an_epoch_to_unfreeze_at_that_is_not_reached_or_not_resumed_is_said(fit, tmp_path):
    module = InpaintModule(width=2, unfreeze_epoch=1)
    trainer = fit(module)
    assert module.remarks() == ["The encoder was frozen to the end: unfreeze_epoch=1 was not reached"]
    resumed = InpaintModule(width=2, unfreeze_epoch=1)
    resumed.trainer = SimpleNamespace(current_epoch=2)  # both epochs are trained: nothing is unfrozen again
    assert resumed.remarks() == []
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    reached = InpaintModule(width=2, unfreeze_epoch=1)
    fit(reached, resume=tmp_path / "a.ckpt", max_epochs=2)
    assert reached.remarks() == []
    with pytest.raises(WSSLError, match=r"unfreeze_epoch: \d+ parameters are trained, in the resumed"):
        fit(InpaintModule(width=2), resume=tmp_path / "a.ckpt", max_epochs=2)


def test_consistency_is_the_distance_to_the_features_of_the_whole_image(logged):
    module = InpaintModule(freeze_layers=7, width=4, consistency=3.0)
    data = batch()
    whole = torch.zeros_like(data["mask"])
    plain = module.loss.parts(module(data["image"], data["mask"]), data["image"])["loss"]
    holed, target = (module.encoder(data["image"] * (1 - mask))[0] for mask in (data["mask"], whole))
    loss = module.training_step(data, 0)
    distance = F.mse_loss(holed, target)
    assert distance > 1e-4
    assert logged["train/consistency"].item() == pytest.approx(distance.item(), rel=1e-5)
    assert loss.item() == pytest.approx((plain + 3.0 * distance).item(), rel=1e-5)


def test_no_gradient_flows_into_the_features_of_the_whole_image(logged):
    module = InpaintModule(freeze_layers=0, width=4, consistency=1.0)
    data = batch()
    target = module._features_of_whole(data["image"])
    assert not target.requires_grad
    module.training_step(data, 0).backward()
    got = module.encoder.stages[-1].second.conv.weight.grad.clone()
    module.zero_grad()
    features, skips = module._encode(data["image"], data["mask"])
    expected = module.loss(module._decode(features, skips, data["image"]), data["image"])
    (expected + F.mse_loss(features, target)).backward()
    assert torch.allclose(got, module.encoder.stages[-1].second.conv.weight.grad, rtol=1e-4, atol=1e-8)


def test_consistency_leaves_the_statistics_of_normalisation_to_images_with_holes(logged):
    modules = [InpaintModule(freeze_layers=0, width=4, norm="batch", consistency=share) for share in (0.0, 1.0)]
    modules[1].load_state_dict(modules[0].state_dict())
    data = batch()
    for module in modules:
        module.training_step(data, 0)
    means = [module.encoder.stages[0].first.norm.running_mean for module in modules]
    assert torch.allclose(*means)
    assert modules[1].encoder.stages[0].training


def test_consistency_trains_the_encoder_under_autocast(logged):
    # Autocast keeps a rounded weight for its next use: one rounded without gradient would cut the graph.
    module = InpaintModule(freeze_layers=0, width=4, consistency=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module.training_step(batch(), 0)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.encoder.parameters())


def test_a_frozen_encoder_is_not_asked_for_the_whole_image(logged):
    module = InpaintModule(width=4, consistency=1.0, unfreeze_epoch=1)
    module.training_step(batch(), 0)
    assert "train/consistency" not in logged


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unfreeze_epoch": 0}, "unfreeze_epoch=0: must be at least 1"),
        ({"unfreeze_epoch": 3, "freeze_layers": 0}, "freezes nothing"),
        ({"encoder_lr": 1e-3}, "encoder_lr=0.001: freeze_layers=16 freezes the whole encoder"),
        ({"encoder_lr": 1e-3, "freeze_layers": 15}, "freeze_layers=15 freezes the whole encoder"),
        ({"encoder_lr": 0.0, "freeze_layers": 0}, "encoder_lr=0.0: must be a positive number"),
        ({"consistency": 1.0}, "consistency=1.0: freeze_layers=16 freezes the whole encoder"),
        ({"consistency": -1.0, "freeze_layers": 0}, "consistency=-1.0: must be a number"),
        ({"consistency": float("nan"), "unfreeze_epoch": 1}, "consistency=nan: must be a number"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(WSSLError, match=message):
        InpaintModule(**{"width": 4, **settings})


def test_a_mask_channel_that_stays_blind_is_refused(pretext):
    with pytest.raises(WSSLError, match="freeze_layers=4 freezes the weights of 0"):
        InpaintModule(pretext, freeze_layers=4, mask_channel=True)
    InpaintModule(pretext, freeze_layers=16, mask_channel=True, unfreeze_epoch=1)
    InpaintModule(freeze_layers=16, mask_channel=True, width=4)


@pytest.mark.parametrize("block", ["residual", "gated"])
def test_block_comes_from_the_pretext_checkpoint(block, tmp_path):
    pretext = PretextModule(["saturation"], width=2, block=block)
    path = tmp_path / "pretext.ckpt"
    torch.save(
        {"stage": "pretext", "state_dict": pretext.state_dict(), "hyper_parameters": dict(pretext.hparams)}, path
    )
    module = InpaintModule(ckpt=str(path), context="fourier")
    assert module.hparams["block"] == block
    assert type(module.decoder.stages[0].first) is type(module.encoder.stages[0].first)
    with pytest.raises(WSSLError, match=f"block=plain: the encoder of ckpt=.* has block={block}"):
        InpaintModule(ckpt=str(path), block="plain")
