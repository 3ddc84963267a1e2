"""Both stages in 16 and in 64 bits: `trainer.precision=bf16-true` and the like."""

import lightning.pytorch as pl
import pytest
import torch

from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import WSSLError
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.tasks import Saturation

DTYPES = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
MODULES = {
    "pretext": lambda **options: PretextModule(
        ["saturation", "sharpness", "masked"], width=2, pretext_holes=True, mask_channel=True, **options
    ),
    "downstream": lambda **options: InpaintModule("none", width=2, freeze_layers=7, norm="batch", **options),
}


def data():
    return WSSLDataModule("synthetic", "synthetic", image_size=32, resize=36, batch_size=8, num_workers=0, limit=24)


def trainer(precision, **options):
    return pl.Trainer(
        accelerator="cpu", precision=precision, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", MODULES)
@pytest.mark.parametrize("precision", DTYPES)
def test_a_stage_trains_in_any_precision(stage, precision):
    module = MODULES[stage](lr=1e-3, eps=1e-4)
    before = [parameter.detach().clone() for parameter in module.parameters() if parameter.requires_grad]
    fit = trainer(precision)
    fit.fit(module, data())
    assert {parameter.dtype for parameter in module.parameters()} == {DTYPES[precision]}
    after = [parameter.detach().float() for parameter in module.parameters() if parameter.requires_grad]
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(value.isfinite() for value in fit.callback_metrics.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", MODULES)
@pytest.mark.parametrize("precision", DTYPES)
def test_validation_is_that_of_float32(stage, precision):
    torch.manual_seed(1)
    module = MODULES[stage]()
    module.to(torch.bfloat16).to(torch.float32)  # weights that each of the precisions can hold
    expected = trainer("32-true").validate(module, data(), verbose=False)[0]
    found = trainer(precision).validate(module, data(), verbose=False)[0]
    assert found == {name: pytest.approx(value, rel=0.02, abs=0.02) for name, value in expected.items()}


@pytest.mark.parametrize("stage", MODULES)
def test_float16_is_refused_with_an_eps_that_makes_nan(stage):
    with pytest.raises(WSSLError, match=r"precision=16-true: with eps=1e-08 .*give eps=1e-4"):
        trainer("16-true").fit(MODULES[stage](), data())


def test_upgrad_refuses_bfloat16():
    with pytest.raises(WSSLError, match="precision=bf16-true: conflicts with weighting=upgrad"):
        trainer("bf16-true").fit(PretextModule(width=2, weighting="upgrad"), data())


class Keeps(pl.LightningModule):
    """A user's own module."""

    def validation_step(self, batch, batch_idx):
        self.batch = batch


@pytest.mark.parametrize("precision", [*DTYPES, "32-true", "bf16-mixed"])
def test_a_module_of_ones_own_gets_images_in_its_precision_and_exact_random_numbers(precision):
    module = Keeps()
    trainer(precision).validate(module, data(), verbose=False)
    assert {module.batch[name].dtype for name in ("image", "mask")} == {DTYPES.get(precision, torch.float32)}
    assert module.batch["random"].dtype == torch.float32
    assert torch.equal(module.batch["random"] * 2**24 % 1, torch.zeros_like(module.batch["random"]))


def test_levels_are_not_rounded_with_the_weights():
    task = Saturation([0.0, 0.3, 1.0]).to(torch.bfloat16)
    assert task.factor(torch.tensor([1, 2])).tolist() == torch.tensor([0.3, 1.0]).tolist()


def test_counts_above_256_are_exact_in_bfloat16():
    module = PretextModule(["saturation"], width=2).to(torch.bfloat16)
    for _ in range(300):
        module.val_tasks.states["saturation"].update(torch.eye(4, dtype=torch.int64))
    assert module.val_tasks.states["saturation"].compute().diag().tolist() == [300.0] * 4
    bins = InpaintModule("none", width=2).to(torch.bfloat16).val_bins
    masks = torch.zeros(1, 1, 10, 10)
    masks[..., :4, :] = 1.0
    for number in range(300):
        bins.update(torch.full((len(bins.names), 1), float(number)), masks)
    assert bins.compute()["psnr/ratio_30_40"].item() == pytest.approx(149.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_networks_get_images_that_lie_together_in_memory(dtype):
    wide = torch.zeros(2, 36, 36, 3).permute(0, 3, 1, 2)
    images = PretextModule(width=2).to(dtype).as_input(wide[..., 1:-1, 1:-1])
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=torch.channels_last)
