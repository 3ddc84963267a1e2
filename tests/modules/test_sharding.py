"""What cannot be trained with sharded parameters is refused in one line, before anything is read."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy

from wssl_pl.cli import main
from wssl_pl.errors import WSSLError
from wssl_pl.modules import InpaintModule, PretextModule, base
from wssl_pl.modules.sharding import ShardedStrategy, check_sharding

SMALL = {"width": 2}


def check(module, strategy):
    check_sharding(module, SimpleNamespace(strategy=strategy))


def test_the_networks_of_the_downstream_stage_can_be_sharded():
    check(InpaintModule("none", **SMALL), ShardedStrategy())
    check(PretextModule(["rotation"], **SMALL), DDPStrategy())


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (
            lambda: PretextModule(["rotation"], **SMALL),
            "stage=pretext: only the networks of stage=downstream .*: give ddp",
        ),
        (
            lambda: InpaintModule("none", task_loss=0.1, tasks=["blur"], freeze_layers=0, **SMALL),
            ".* is not part of its networks",
        ),
        (lambda: InpaintModule("none", ema=0.99, **SMALL), "stage=downstream: ema= averages whole weights"),
        (lambda: InpaintModule("none", adversarial=0.1, **SMALL), "a discriminator is trained beside it"),
    ],
)
def test_what_is_not_sharded_is_named(module, reason):
    with pytest.raises(WSSLError, match=f"strategy=fsdp: does not work with {reason}|{reason}"):
        check(module(), ShardedStrategy())


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_strategies_whose_checkpoints_nothing_here_reads(strategy):
    with pytest.raises(WSSLError, match=f"strategy={strategy.__name__}: .* give trainer.strategy=fsdp, or ddp"):
        check(InpaintModule("none", **SMALL), strategy())


@pytest.mark.parametrize("stage", ["validation", "test", "predict"])
def test_shards_are_gathered_while_processes_may_have_unlike_numbers_of_batches(monkeypatch, stage):
    seen = []
    monkeypatch.setattr(base, "set_gathered", lambda networks, gathered: seen.append(gathered))
    module = InpaintModule("none", **SMALL)
    module._is_sharded = True
    monkeypatch.setattr(module, "log_metrics", lambda split: None)
    getattr(module, f"on_{stage}_start")()
    getattr(module, f"on_{stage}_epoch_end")()
    assert seen == [True, False]


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["stage=pretext", "tasks=rotation", "--trainer.strategy=fsdp", "--trainer.accelerator=cpu"])
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "trainer.strategy=fsdp: does not work with stage=pretext: " in line
    assert not list(tmp_path.iterdir())
