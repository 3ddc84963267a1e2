"""`--model.ema` from the command line, with Ctrl-C."""

import pytest
import torch

from tests.cli.checkpoints import same
from tests.cli.interruptions import interrupt_at
from wssl_pl.modules import PretextModule


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 5])
def test_ctrl_c_in_a_run_with_an_average_resumes_exactly(train, monkeypatch, step):
    args = ["stage=pretext", "tasks=rotation", "--model.ema=0.9", "--model.lr=0.01", "--data.limit=20"]
    train(*args, "--run.dir=whole", epochs=2)
    interrupt_at(monkeypatch, PretextModule, [step])
    with pytest.raises(SystemExit) as stopped:
        train(*args, "--run.dir=part", epochs=2)
    assert stopped.value.code == 130
    train("resume=part", small=[], epochs=None)
    whole, part = (torch.load(f"{name}/last.ckpt", weights_only=True) for name in ("whole", "part"))
    assert whole["global_step"] == part["global_step"]
    for key in ("state_dict", "current_model_state"):
        assert same(whole[key], part[key])
    assert not same(whole["state_dict"], whole["current_model_state"])
    # What the downstream stage and the program's other commands read.
    train("stage=downstream", "ckpt=part/best.ckpt", "--model.ema=0.9", "--run.dir=down")
    train("test", "ckpt=down/best.ckpt", small=[], epochs=None)
