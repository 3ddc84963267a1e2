"""The weightings beyond the paper, and holes in the pretext stage, from the command line."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cli.checkpoints import same, weights
from tests.cli.conftest import SMALL
from tests.cli.interruptions import interrupt_at
from wssl_pl.cli import main
from wssl_pl.modules import InpaintModule, PretextModule, read_checkpoint

LEARNED = ["uncertainty", "upgrad"]


def curves(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def args(weighting):
    return [
        "stage=pretext", "tasks=rotation,saturation", f"weighting={weighting}", "--model.lr=0.001",
        "--model.norm=batch", "--data.image_size=32", "--data.resize=36",
        "--model.lr_schedule=cosine", "--trainer.precision=bf16-mixed",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("weighting", LEARNED)
def test_it_learns_on_the_synthetic_dataset(train, weighting):
    once = ["--data.limit=128", "--data.batch_size=16", "--trainer.check_val_every_n_epoch=14"]
    train(*args(weighting), *once, "--run.dir=run", epochs=14)
    seen = curves("run")
    for task in ("rotation", "saturation"):
        # Chance is 0.25; of 32 images 0.5 is three standard deviations above it.
        assert seen[f"val/accuracy/{task}"][0] > 0.5
        assert len(set(seen[f"train/weight/{task}"])) > 3


@pytest.mark.slow
@pytest.mark.parametrize("weighting", LEARNED)
def test_it_goes_on_exactly_and_hands_its_encoder_over(train, monkeypatch, weighting):
    train(*args(weighting), "--run.dir=whole", epochs=2)
    left = interrupt_at(monkeypatch, PretextModule, [1, 3, 5])
    call = [*SMALL, *args(weighting), "--run.dir=parts", "--trainer.max_epochs=2"]
    while left:
        with pytest.raises(SystemExit):
            main(call)
        call = ["resume=parts/last.ckpt"]
    main(call)
    assert same(weights("whole/last.ckpt"), weights("parts/last.ckpt"))
    assert read_checkpoint("whole/last.ckpt")["global_step"] == 2 * 4
    learned = {key for key in weights("whole/last.ckpt") if not key.startswith(("encoder.", "heads."))}
    assert learned == ({"weighting.log_variances"} if weighting == "uncertainty" else set())
    InpaintModule("whole/best.ckpt")


def test_an_encoder_that_has_seen_holes_and_masks_is_taken_over_as_it_is(train):
    args = ["stage=pretext", "tasks=rotation", "--model.pretext_holes", "--model.mask_channel"]
    train(*args, "--run.dir=pretext")
    train("stage=downstream", "ckpt=pretext/best.ckpt", "--run.dir=run")
    module = InpaintModule.load_from_checkpoint("run/best.ckpt", weights_only=True)
    assert module.hparams["mask_channel"] is True
    key = "encoder.stages.0.first.conv.weight"
    assert torch.equal(weights("run/last.ckpt")[key], weights("pretext/best.ckpt")[key])
    assert weights("pretext/best.ckpt")[key].shape[1] == 4


def test_a_mask_channel_that_is_not_wanted(train, refused):
    train("stage=pretext", "tasks=rotation", "--model.pretext_holes", "--model.mask_channel", "--run.dir=pretext")
    message = refused("stage=downstream", "ckpt=pretext/best.ckpt", "--model.mask_channel=false")
    assert "has mask_channel=True: omit it" in message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["weighting=upgrad", "--trainer.devices=2", "--trainer.strategy=ddp"],
            "devices=2: conflicts with",
        ),
        (["weighting=upgrad", "--trainer.gradient_clip_val=1"], "gradient_clip_val=1: conflicts with"),
        (["weighting=upgrad", "--trainer.accumulate_grad_batches=2"], "larger batch_size"),
        (["weighting=upgrad", "--model.compile"], "compile"),
        (["weighting=uncertainty", "weights=1,1,1"], "finds its own: omit one of the two"),
        (["weighting=equal"], "weighting"),
        (["--model.mask_channel"], "pretext_holes"),
        (["--model.pretext_holes", "--data.masks=/no/where"], "data.masks=/no/where: does not exist"),
    ],
)
def test_one_line(args, message, refused):
    assert message in refused("stage=pretext", *args)
