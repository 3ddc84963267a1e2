"""An adversarial loss from the command line."""

from pathlib import Path

import pytest
import torch

from tests.cli.checkpoints import same
from tests.cli.conftest import SMALL
from tests.cli.interruptions import interrupt_at
from tests.cli.test_ddp import SMALL as SMALL_DDP
from tests.cli.test_ddp import TRAIN, TWO
from tests.processes import run_both_ranks
from wssl_pl.cli import main
from wssl_pl.modules import InpaintModule, read_checkpoint

ADVERSARIAL = ["stage=downstream", "ckpt=none", "freeze_layers=0", "--model.adversarial=0.1"]


@pytest.mark.slow
def test_an_interrupted_run_ends_like_a_whole_one(train, monkeypatch):
    options = [*ADVERSARIAL, "--trainer.gradient_clip_val=1", "--trainer.accumulate_grad_batches=2"]
    train(*options, "--run.dir=whole", epochs=2)
    left = interrupt_at(monkeypatch, InpaintModule, [1, 2])
    call = [*SMALL, *options, "--trainer.max_epochs=2", "--run.dir=parts"]
    while left:
        with pytest.raises(SystemExit):
            main(call)
        call = ["resume=parts/last.ckpt"]
    main(call)
    whole, parts = (read_checkpoint(f"{run}/last.ckpt") for run in ("whole", "parts"))
    assert same(whole["state_dict"], parts["state_dict"])
    assert same(whole["discriminator"]["network"], parts["discriminator"]["network"])
    assert whole["global_step"] == parts["global_step"] == 4
    header = Path("whole/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/adversarial", "train/discriminator", "train/score_real", "train/score_fake"} <= set(header)
    assert {"train/grad_norm", "train/grad_norm_discriminator"} <= set(header)


def test_a_discriminator_that_cannot_be_restored_is_one_line(train, refused):
    train(*ADVERSARIAL, "--run.dir=run")
    whole = torch.load("run/last.ckpt", weights_only=True)
    for damage in (1, {}, whole["discriminator"] | {"optimizer": 1}):
        torch.save(whole | {"discriminator": damage}, "run/last.ckpt")
        assert "resume=run/last.ckpt: " in refused("resume=run/last.ckpt", small=[], epochs=2)


@pytest.mark.slow
def test_two_processes_train_the_discriminator_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [*ADVERSARIAL, "--model.width=4", "--model.lr=1e-4", "--trainer.max_epochs=1", *SMALL_DDP]
    main([*options, "--data.batch_size=4", "--run.dir=one"])
    code, output = run_both_ranks(TRAIN, *options, *TWO, "--data.batch_size=2", "--run.dir=two", folder=tmp_path)
    assert code == 0, output
    one, two = (read_checkpoint(f"{run}/last.ckpt") for run in ("one", "two"))
    assert one["global_step"] == two["global_step"]
    one, two = (each["discriminator"]["network"] for each in (one, two))
    for key, value in one.items():
        if not key.endswith("bias"):  # whose gradients cancel, so that Adam makes steps of what rounding leaves
            torch.testing.assert_close(two[key], value, atol=1e-4, rtol=1e-3, msg=key)
