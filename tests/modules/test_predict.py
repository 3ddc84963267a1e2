"""`trainer.predict` and `trainer.test` with a plain Trainer equal a loop by hand."""

import pytest
import torch
from lightning import Trainer

from wssl_pl.data import WSSLDataModule
from wssl_pl.metrics import composite, psnr, ssim
from wssl_pl.modules import InpaintModule, PretextModule

IMAGES = 3


def data(**settings):
    small = {"image_size": 32, "resize": 36, "batch_size": 2, "limit": IMAGES, "num_workers": 0}
    return WSSLDataModule(images="synthetic", masks="synthetic", **small | settings)


def trainer():
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def split_batch(**settings):
    """The test split as one batch, through none of Lightning's loops."""
    module = data(batch_size=IMAGES, **settings)
    module.setup("test")
    (batch,) = [module.on_after_batch_transfer(batch, 0) for batch in module.test_dataloader()]
    return batch


def joined(outputs, *keys):
    for key in keys:
        outputs = [output[key] for output in outputs]
    return torch.cat(outputs)


def test_inpainting_predictions_equal_forward():
    module = InpaintModule(width=4, norm="batch")
    outputs = trainer().predict(module, datamodule=data())
    batch = split_batch()
    module.eval()
    with torch.no_grad():
        prediction = module(batch["image"], batch["mask"])
    assert joined(outputs, "index").tolist() == batch["index"].tolist() == list(range(IMAGES))
    assert joined(outputs, "prediction").shape == (IMAGES, 3, 32, 32)
    torch.testing.assert_close(joined(outputs, "prediction"), prediction)
    filled = composite(prediction, batch["image"], batch["mask"])
    torch.testing.assert_close(joined(outputs, "composite"), filled)
    known = (batch["mask"] < 0.5).expand_as(filled)
    assert torch.equal(joined(outputs, "composite")[known], batch["image"][known])
    assert joined(outputs, "composite").dtype == torch.float32


def test_inpainting_test_equals_a_loop_by_hand():
    module = InpaintModule(width=4)
    (logged,) = trainer().test(module, datamodule=data(), verbose=False)
    batch = split_batch()
    with torch.no_grad():
        prediction = module(batch["image"], batch["mask"])
    filled = composite(prediction, batch["image"], batch["mask"])
    assert logged["test/psnr_composite"] == pytest.approx(psnr(filled, batch["image"]).mean().item(), abs=1e-4)
    assert logged["test/ssim"] == pytest.approx(ssim(prediction, batch["image"]).mean().item(), abs=1e-5)


@pytest.mark.parametrize("holes", [False, True])
def test_pretext_predictions_equal_forward(holes):
    module = PretextModule(["rotation", "saturation", "masked"], width=4, norm="batch", pretext_holes=holes)
    outputs = trainer().predict(module, datamodule=data())
    batch = split_batch()
    module.eval()
    with torch.no_grad():
        images, targets = module.prepare_inputs(batch)
        logits = module(images)
    assert joined(outputs, "index").tolist() == list(range(IMAGES))
    for name in ("rotation", "saturation"):
        probabilities = joined(outputs, "outputs", name)
        torch.testing.assert_close(probabilities, logits[name].softmax(dim=1))
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(IMAGES))
        assert torch.equal(joined(outputs, "targets", name), targets[name])
    torch.testing.assert_close(joined(outputs, "outputs", "masked"), torch.sigmoid(logits["masked"]))
    torch.testing.assert_close(joined(outputs, "targets", "masked"), targets["masked"])


def test_pretext_test_equals_a_loop_by_hand():
    module = PretextModule(["rotation", "saturation"], weights=[1, 3], width=4)
    (logged,) = trainer().test(module, datamodule=data(limit=7), verbose=False)
    whole = data(limit=7, batch_size=7)
    whole.setup("test")
    (batch,) = [whole.on_after_batch_transfer(batch, 0) for batch in whole.test_dataloader()]
    with torch.no_grad():
        images, labels = module.prepare_inputs(batch)
        logits = module(images)
    losses = {name: torch.nn.functional.cross_entropy(logits[name], labels[name]).item() for name in labels}
    right = {name: (logits[name].argmax(dim=1) == labels[name]).float().mean().item() for name in labels}
    expected = {f"test/loss/{name}": loss for name, loss in losses.items()}
    expected |= {f"test/accuracy/{name}": share for name, share in right.items()}
    expected["test/loss"] = 0.25 * losses["rotation"] + 0.75 * losses["saturation"]
    expected["test/score"] = sum(right.values()) / 2
    assert logged == pytest.approx(expected, abs=1e-5)
