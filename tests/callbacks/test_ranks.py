"""When a process of a training dies, one line says which one and why, and the others end."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import distributed

from tests.processes import start_warm
from wssl_pl.callbacks import ReportFirstFailure, ranks
from wssl_pl.callbacks.ranks import ProcessLost
from wssl_pl.errors import Interrupted, TrainingStopped, WSSLError

GLOO = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.2]")
OWN = RuntimeError("CUDA out of memory")


@pytest.fixture
def fail(monkeypatch):
    """Let ranks of one training fail with errors, one after the other; returns what each raises."""
    store = distributed.HashStore()
    monkeypatch.setattr("torch.distributed.distributed_c10d._get_default_store", lambda: store)
    monkeypatch.setattr(ranks, "GRACE_S", 0.01)

    def fail_with(rank, error, children=(), size=3):
        callback = ReportFirstFailure()
        launcher = SimpleNamespace(procs=list(children))
        trainer = SimpleNamespace(world_size=size, global_rank=rank, strategy=SimpleNamespace(launcher=launcher))
        callback.on_exception(trainer, None, error)
        assert bool(launcher.procs) == (bool(children) and (size == 1 or isinstance(error, Interrupted)))
        try:
            with callback.reported():
                raise error
        except Exception as raised:
            return raised

    return fail_with


@pytest.fixture
def child():
    """Start processes that wait, or end with a code."""
    started = []

    def start(code=None):
        what = "import time; time.sleep(600)" if code is None else f"raise SystemExit({code})"
        started.append(subprocess.Popen([sys.executable, "-S", "-c", what]))
        if code is not None:
            started[-1].wait()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_the_first_failure_is_reported_by_its_own_process_and_the_others_are_silent(fail):
    assert fail(2, OWN) is OWN
    for rank, error in enumerate((GLOO, distributed.DistBackendError("NCCL"))):
        lost = fail(rank, error)
        assert (type(lost), str(lost), lost.exit_code) == (ProcessLost, "", 1)
        assert lost.__cause__ is error


@pytest.mark.parametrize(("error", "code"), [(WSSLError("lr", 0, "x"), 2), (TrainingStopped("nan"), 2), (OWN, 1)])
def test_an_error_of_every_process_is_reported_once(fail, error, code):
    assert fail(0, error) is error
    lost = fail(1, error)
    assert (str(lost), lost.exit_code) == ("", code)


def test_a_killed_process_is_named_by_the_one_that_started_it(fail, child, monkeypatch):
    monkeypatch.setattr(ranks, "GRACE_S", 20.0)
    alive, killed = child(), child()
    killed.send_signal(signal.SIGKILL)
    lost = fail(0, GLOO, [alive, killed])
    assert (str(lost), lost.exit_code) == ("rank 2 was killed by signal 9", 1)
    assert alive.wait(20) == -signal.SIGKILL  # it would wait for the others
    ranks.GRACE_S = 0.01
    assert not str(fail(1, GLOO))


def test_the_exit_code_of_a_process_is_that_of_the_training(fail, child):
    lost = fail(0, GLOO, [child(3)])
    assert (str(lost), lost.exit_code) == ("rank 1 has ended with exit code 3", 3)


def test_a_broken_connection_alone_is_reported_once(fail):
    assert str(fail(1, GLOO)).startswith("the connection to another process was lost: [/pytorch/third_party/gloo")
    assert not str(fail(2, GLOO))


def test_rank_0_and_with_it_the_store_is_gone(fail, monkeypatch):
    def gone():
        raise distributed.DistNetworkError("Connection reset by peer")

    monkeypatch.setattr("torch.distributed.distributed_c10d._get_default_store", gone)
    assert str(fail(1, GLOO)).startswith("rank 0 has ended without a reason")
    assert not str(fail(2, GLOO))


def test_one_process_and_a_signal_are_as_ever(fail, child):
    assert fail(0, OWN, size=1) is OWN
    stopped = Interrupted("interrupted")
    waiting = child()
    assert fail(0, stopped, [waiting]) is stopped
    assert waiting.poll() is None
    assert fail(1, stopped) is stopped


PROGRAM = """
import os, signal
from wssl_pl.cli import main
from wssl_pl.modules import PretextModule
original = PretextModule.training_step
def training_step(self, batch, batch_idx):
    if self.global_rank == 1 and self.global_step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, batch, batch_idx)
PretextModule.training_step = training_step
main()
"""


@pytest.mark.slow
def test_a_training_whose_second_process_is_killed_ends(tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM)
    words = [
        "stage=pretext", "tasks=rotation", "--model.width=2", "--data.image_size=32", "--data.resize=36",
        "--data.limit=12", "--data.batch_size=3", "--data.num_workers=0", "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false", "--trainer.devices=2", "--trainer.strategy=ddp", "--run.dir=run",
    ]  # fmt: skip
    environment = {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path(__file__).parents[2])}
    output = tmp_path / "output.txt"
    process = start_warm(tmp_path / "train.py", *words, folder=tmp_path, environment=environment, output=output)
    process.join(240)
    said = output.read_text()
    assert process.exitcode == 1, said
    assert said.splitlines()[-1] == "error: rank 1 was killed by signal 9"
    assert said.count("error:") == 1
    assert "Traceback" not in said
