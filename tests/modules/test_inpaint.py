import re
from pathlib import Path

import pytest
import torch

from wssl_pl.errors import WSSLError
from wssl_pl.losses import WSSLLoss
from wssl_pl.metrics import composite, psnr, ssim
from wssl_pl.modules import InpaintModule


def batch(count=4, size=32):
    return {"image": torch.rand(count, 3, size, size), "mask": (torch.rand(count, 1, size, size) < 0.4).float()}


@pytest.fixture
def logged(monkeypatch):
    """Modules that log into a dictionary instead of a trainer."""
    figures = {}
    monkeypatch.setattr(InpaintModule, "log", lambda self, name, value, **kwargs: figures.__setitem__(name, value))
    return figures


@pytest.mark.parametrize("size", [(32, 32), (40, 72), (7, 100), (1, 1)])
def test_any_size(size):
    module = InpaintModule(width=4)
    output = module(torch.rand(2, 3, *size), torch.zeros(2, 1, *size))
    assert output.shape == (2, 3, *size)
    assert output.dtype == torch.float32
    assert output.min() >= 0
    assert output.max() <= 1


def test_what_lies_in_the_hole_is_not_looked_at():
    module = InpaintModule(width=4)
    data = batch()
    other = torch.where(data["mask"] > 0.5, torch.rand_like(data["image"]), data["image"])
    assert torch.equal(module(data["image"], data["mask"]), module(other, data["mask"]))


def test_the_loss_is_that_of_the_paper_over_the_raw_output(logged):
    module = InpaintModule(width=4)
    data = batch()
    loss = module.training_step(data, 0)
    expected = WSSLLoss()(module(data["image"], data["mask"]), data["image"])
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert loss.item() == pytest.approx(
        0.84 * logged["train/log_cosh"].item() + 0.16 * logged["train/ssim_loss"].item(), abs=1e-6
    )


@pytest.mark.parametrize("freeze", [0, 5, 16])
def test_the_frozen_part_is_bit_identical_after_training_in_training_mode(freeze, logged):
    module = InpaintModule(freeze_layers=freeze, width=4, norm="batch", lr=0.01)
    before = {key: value.clone() for key, value in module.encoder.state_dict().items()}
    optimizer = module.configure_optimizers()
    module.train()
    for _ in range(2):
        optimizer.zero_grad()
        module.training_step(batch(), 0).backward()
        optimizer.step()
    frozen = [layer for number, layer in enumerate(module.encoder.layers(), start=1) if number <= freeze]
    held = {id(tensor) for layer in frozen for tensor in (*layer.parameters(), *layer.buffers())}
    for key, tensor in module.encoder.state_dict(keep_vars=True).items():
        assert torch.equal(tensor, before[key]) == (id(tensor) in held), key


def test_a_frozen_encoder_builds_no_graph(logged):
    module = InpaintModule(width=4)
    features, skips = module.encoder(torch.rand(1, 3, 32, 32))
    assert features.grad_fn is None
    assert all(skip.grad_fn is None for skip in skips)
    module.training_step(batch(), 0).backward()
    assert all(parameter.grad is None for parameter in module.encoder.parameters())
    assert all(parameter.grad is not None for parameter in module.decoder.parameters())


def test_raw_and_composited_figures_under_their_own_names(logged):
    module = InpaintModule(width=4)
    data = batch(6)
    module.validation_step(data, 0)
    module.on_validation_epoch_end()
    raw = module(data["image"], data["mask"]).detach()
    filled = composite(raw, data["image"], data["mask"])
    for name, output in (("", raw), ("_composite", filled)):
        assert logged[f"val/psnr{name}"].item() == pytest.approx(psnr(output, data["image"]).mean().item(), abs=1e-4)
        assert logged[f"val/ssim{name}"].item() == pytest.approx(ssim(output, data["image"]).mean().item(), abs=1e-4)
    assert logged["val/loss"].item() == pytest.approx(WSSLLoss()(raw, data["image"]).item(), abs=1e-5)


def test_validation_metrics_by_hole_ratio(logged):
    module = InpaintModule(width=4)
    data = batch(4)
    data["mask"] = torch.zeros(4, 1, 32, 32)
    for mask, rows in zip(data["mask"], (10, 11, 12, 14), strict=True):  # 31, 34, 38 and 44 %
        mask[:, :rows] = 1
    for part in (slice(0, 3), slice(3, 4)):
        module.validation_step({key: value[part] for key, value in data.items()}, 0)
    module.on_validation_epoch_end()
    raw = module(data["image"], data["mask"]).detach()
    filled = composite(raw, data["image"], data["mask"])
    for name, output in (("", raw), ("_composite", filled)):
        for bin_name, part in (("30_40", slice(0, 3)), ("40_50", slice(3, 4))):
            for metric in (psnr, ssim):
                found = logged[f"val/{metric.__name__}{name}/ratio_{bin_name}"].item()
                assert found == pytest.approx(metric(output[part], data["image"][part]).mean().item(), abs=1e-4)
    assert {name.rpartition("/")[2] for name in logged if "ratio" in name} == {"ratio_30_40", "ratio_40_50"}


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_loss_and_figures_are_float32_under_autocast(precision, logged):
    module = InpaintModule(width=4)
    data = batch()
    with torch.autocast("cpu", dtype=precision):
        loss = module.training_step(data, 0)
        output = module(data["image"], data["mask"])
    assert loss.dtype == output.dtype == torch.float32
    assert loss.item() == pytest.approx(WSSLLoss()(output, data["image"]).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_layers": 17}, "between 0 and 16"),
        ({"alpha": 2.0}, "between 0 and 1"),
        ({"alpha": 0.5, "loss": "ssim"}, "loss=wssl"),
        ({"width": 0}, "width=0: must be at least 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(WSSLError, match=message):
        InpaintModule(**{"width": 4, **settings})


@pytest.mark.slow
def test_it_learns_more_than_the_mean():
    # One pattern of two colours at changing brightness: easily learned, and badly filled with a mean.
    torch.manual_seed(0)
    module = InpaintModule(width=8, freeze_layers=0, lr=2e-3)
    module.log = lambda *args, **kwargs: None
    optimizer = module.configure_optimizers()
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand(1, 3, 2, 2, generator=generator).round().mul(0.8).add(0.1)
    pattern = pattern.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)

    def draw(count):
        brightness = 0.7 + 0.3 * torch.rand(count, 1, 1, 1, generator=generator)
        mask = torch.zeros(count, 1, 32, 32)
        mask[:, :, 6:26, 6:26] = 1
        return {"image": brightness * pattern, "mask": mask}

    for _ in range(80):
        optimizer.zero_grad()
        module.training_step(draw(8), 0).backward()
        optimizer.step()
    data = draw(32)
    known = 1 - data["mask"]
    mean = (data["image"] * known).sum(dim=(2, 3), keepdim=True) / known.sum(dim=(2, 3), keepdim=True)
    with torch.no_grad():
        output = module(data["image"], data["mask"])
    filled = [composite(each, data["image"], data["mask"]) for each in (output, mean.expand_as(output))]
    assert psnr(filled[0], data["image"]).mean() > psnr(filled[1], data["image"]).mean() + 1.0


@pytest.mark.parametrize("context", ["dilated", "fourier", "attention"])
def test_a_context_block_changes_nothing_at_first(context):
    images, masks = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    torch.manual_seed(0)
    without = InpaintModule(ckpt="none", width=2)
    torch.manual_seed(0)
    module = InpaintModule(ckpt="none", width=2, context=context, context_levels=2)
    assert torch.equal(module(images, masks), without(images, masks))
    trained = {id(parameter) for group in module.parameter_groups() for parameter in group["params"]}
    assert {id(parameter) for parameter in module.contexts.parameters()} <= trained
    # Both levels take part as soon as their projections are not 0.
    for block in module.contexts:
        before = module(images, masks)
        torch.nn.init.normal_(block.project.weight)
        assert not torch.equal(module(images, masks), before)


def test_composite_loss_counts_the_hole_and_its_border():
    data, logged = batch(), {}
    module = InpaintModule(width=2, composite_loss=3.0)
    module.log = lambda name, value, **_: logged.update({name: value.item()})
    loss = module.training_step(data, 0)
    prediction = module(data["image"], data["mask"])
    filled = torch.where(data["mask"] > 0.5, prediction, data["image"])
    expected = module.loss(prediction, data["image"]) + 3.0 * module.loss(filled, data["image"])
    torch.testing.assert_close(loss, expected)
    assert logged["train/composite"] == pytest.approx(module.loss(filled, data["image"]).item())
    with pytest.raises(WSSLError, match="composite_loss=-1"):
        InpaintModule(width=2, composite_loss=-1.0)


@pytest.mark.parametrize(
    ("settings", "said"), [({}, True), ({"freeze_layers": 0}, False), ({"unfreeze_epoch": 1}, False)]
)
def test_a_new_encoder_that_is_frozen_is_said(fit, caplog, settings, said):
    fit(InpaintModule(width=2, **settings), max_steps=1)
    assert ("new and frozen, with random weights: to train from scratch give freeze_layers=0" in caplog.text) == said


def test_an_encoder_that_was_loaded_is_not_new(fit, caplog, tmp_path):
    module = InpaintModule(width=2)
    torch.save(
        {"stage": "downstream", "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)},
        tmp_path / "a.ckpt",
    )
    again = InpaintModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    fit(again, max_steps=1)
    assert "with random weights" not in caplog.text


def test_a_loss_of_one_s_own_is_trained(logged):
    """As on the page `docs/training.md`."""
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    code = re.search(r"### A loss of your own.*?```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(compile(code[1].replace("freeze_layers=0", "freeze_layers=0, width=2"), "docs/training.md", "exec"), names)
    model, data = names["model"], batch(2)
    expected = (model(data["image"], data["mask"]) - data["image"]).abs().mean()
    torch.testing.assert_close(model.training_step(data, 0), expected)
    torch.testing.assert_close(logged["train/loss"], expected)
    assert {"train/log_cosh", "train/ssim_loss"} <= logged.keys()
