"""The options by which a study varies the downstream stage, from the command line."""

import pytest
import torch

from tests.cli.checkpoints import same, weights
from tests.cli.interruptions import interrupt_at
from wssl_pl.cli import main
from wssl_pl.modules import InpaintModule, read_checkpoint
from wssl_pl.modules.optimizer import cosine

ALL = [
    "stage=downstream", "freeze_layers=16", "--model.unfreeze_epoch=1", "--model.encoder_lr=0.0005",
    "--model.lr=0.001", "--model.lr_schedule=cosine", "--model.consistency=0.1", "--model.mask_channel",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_with_every_option_goes_on_exactly(train, monkeypatch, pretext_ckpt):
    args = [*ALL, f"ckpt={pretext_ckpt}"]
    train(*args, "--run.dir=whole", epochs=2)
    # Four steps an epoch: interrupted before the encoder is unfrozen, at the end of that epoch, and afterwards.
    left = interrupt_at(monkeypatch, InpaintModule, [1, 3, 5])
    call = [*args, "--run.dir=parts"]
    while left:
        with pytest.raises(SystemExit):
            train(*call, epochs=2)
        call = ["resume=parts/last.ckpt"]
    train(*call, epochs=2)
    assert same(weights("whole/last.ckpt"), weights("parts/last.ckpt"))
    first = weights("whole/last.ckpt")["encoder.stages.0.first.conv.weight"]
    taken = weights(pretext_ckpt)["encoder.stages.0.first.conv.weight"]
    assert first.shape[1] == 4
    assert not torch.allclose(first[:, :3], taken, atol=1e-6)
    assert read_checkpoint("whole/last.ckpt")["lr_schedulers"][0]["last_epoch"] == 8
    main(["test", "ckpt=parts/best.ckpt", "--accelerator=cpu"])


def test_a_resumed_run_of_more_epochs_is_on_the_longer_curve(train, monkeypatch):
    args = ["stage=downstream", "ckpt=none", "--model.lr=1", "--model.lr_schedule=cosine", "--run.dir=run"]
    seen = []
    # Rates are noted and not used: a loss of 0 moves nothing.
    monkeypatch.setattr(
        InpaintModule,
        "training_step",
        lambda self, batch, number: (
            seen.append(self.optimizers().param_groups[0]["lr"]),
            0.0 * sum(parameter.sum() for parameter in self.decoder.parameters()),
        )[1],
    )
    train(*args, epochs=1)
    assert seen == pytest.approx([cosine(step, 4) for step in range(4)])
    seen.clear()
    train("resume=last", "--run.dir=run", small=[], epochs=2)
    assert seen == pytest.approx([cosine(step, 8) for step in range(4, 8)])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.unfreeze_epoch=1", "--trainer.devices=2", "--trainer.strategy=ddp"], "works on one device"),
        (["--model.encoder_lr=0.001"], "freezes the whole encoder"),
        (["--model.consistency=1"], "freezes the whole encoder"),
        (["--model.lr_schedule=linear"], "lr_schedule"),
        (["--model.lr_schedule=cosine", "--trainer.max_epochs=-1"], "needs an end"),
    ],
)
def test_one_line(args, message, refused):
    assert message in refused("stage=downstream", "ckpt=none", *args, epochs=None)
