"""A training that is told to stop leaves a checkpoint that resumes exactly, and says so with its exit code."""

import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.cli.checkpoints import same, weights
from tests.cli.conftest import SMALL
from tests.cli.interruptions import interrupt_at
from tests.processes import wait_until
from wssl_pl.callbacks import StopOnSignal, weights_are_finite
from wssl_pl.cli import main
from wssl_pl.files import owned
from wssl_pl.modules import InpaintModule, PretextModule, read_checkpoint
from wssl_pl.study.folder import read_metrics

ROOT = Path(__file__).parents[2]
PRETEXT = ["stage=pretext", "tasks=rotation", "--model.lr=0.001"]


def stopped(train, *args, code, **kwargs):
    with pytest.raises(SystemExit) as ended:
        train(*args, **kwargs)
    assert ended.value.code == code


@pytest.fixture
def _no_handler():
    """No handler of SIGTERM, whatever another test has left."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("step", [1, 3])
def test_sigterm_leaves_a_checkpoint_and_ends_with_143(train, monkeypatch, capsys, step):
    train(*PRETEXT, "--run.dir=whole", epochs=2)
    interrupt_at(monkeypatch, PretextModule, [step], signal.SIGTERM)
    stopped(train, *PRETEXT, "--run.dir=parts", epochs=2, code=143)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "SIGTERM" in line
    assert "resume=parts/last.ckpt" in line
    assert read_checkpoint("parts/last.ckpt")["global_step"] == step + 1
    main(["resume=parts/last.ckpt", "--trainer.enable_progress_bar=false"])
    assert same(weights("whole/last.ckpt"), weights("parts/last.ckpt"))


@pytest.mark.slow
def test_sigterm_ends_a_process_with_143(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *PRETEXT, *SMALL, "--run.dir=run", "--trainer.max_epochs=1000"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdout is not None
    try:
        # The end of the first of very many epochs.
        wait_until((tmp_path / "run" / "last.ckpt").exists, "the first checkpoint", process)
        process.terminate()
        assert process.wait(timeout=120) == 143
    finally:
        process.kill()
        process.stdout.close()
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] < 4000


def test_a_signal_in_the_last_step_waits_for_the_last_validation(train, monkeypatch):
    interrupt_at(monkeypatch, PretextModule, [2], signal.SIGTERM)
    steps = ["--trainer.max_steps=3", "--trainer.val_check_interval=3"]
    with suppress(SystemExit):
        train(*PRETEXT, *steps, "--run.dir=run", epochs=9)
    assert read_checkpoint("run/last.ckpt")["global_step"] == 3
    assert Path("run/best.ckpt").exists()


def test_a_signal_where_a_validation_is_due_waits_for_it(train, monkeypatch):
    steps = ["--trainer.max_steps=6", "--trainer.val_check_interval=2", "--trainer.check_val_every_n_epoch=null"]
    train(*PRETEXT, *steps, "--run.dir=whole", epochs=9)
    interrupt_at(monkeypatch, PretextModule, [1], signal.SIGTERM)
    stopped(train, *PRETEXT, *steps, "--run.dir=parts", epochs=9, code=143)
    assert read_checkpoint("parts/last.ckpt")["global_step"] == 3
    main(["resume=parts/last.ckpt", "--trainer.enable_progress_bar=false"])
    whole, parts = (
        [(row["step"], row["val/loss"]) for row in read_metrics(Path(run)) if row.get("val/loss")]
        for run in ("whole", "parts")
    )
    assert len(whole) == 3
    assert parts == whole


def test_a_second_sigterm_does_not_hinder_the_checkpoint(train, monkeypatch):
    original = PretextModule.training_step

    def terminated(self, batch, batch_idx):
        if self.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PretextModule, "training_step", terminated)
    stopped(train, *PRETEXT, "--run.dir=run", code=143)
    assert read_checkpoint("run/last.ckpt")["global_step"] == 2


def test_a_second_ctrl_c_stops_at_once(train, monkeypatch, capsys):
    original = PretextModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PretextModule, "training_step", interrupted)
    stopped(train, *PRETEXT, "--run.dir=run", code=130)
    assert "before the first checkpoint" in capsys.readouterr().err
    assert not Path("run/last.ckpt").exists()


def test_a_signal_during_validation_completes_the_epoch(train, monkeypatch):
    train(*PRETEXT, "--run.dir=whole", epochs=2)
    original = PretextModule.validation_step
    calls = []

    def terminated(self, batch, batch_idx):
        calls.append(batch_idx)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PretextModule, "validation_step", terminated)
    stopped(train, *PRETEXT, "--run.dir=parts", epochs=2, code=143)
    assert read_checkpoint("parts/last.ckpt")["global_step"] == 4
    main(["resume=parts/last.ckpt", "--trainer.enable_progress_bar=false"])
    assert same(weights("whole/last.ckpt"), weights("parts/last.ckpt"))
    assert same(weights("whole/best.ckpt"), weights("parts/best.ckpt"))


@pytest.mark.parametrize(("step", "saved"), [(0, 1), (1, 2)])
def test_an_interruption_inside_an_accumulation_window_resumes_exactly(train, monkeypatch, step, saved):
    # Windows of three batches in an epoch of eight: the signal comes with the second batch of a window.
    args = [*PRETEXT, "--data.batch_size=2", "--trainer.accumulate_grad_batches=3"]
    train(*args, "--run.dir=whole", epochs=2)
    original = PretextModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == step and batch_idx % 3 == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PretextModule, "training_step", interrupted)
    stopped(train, *args, "--run.dir=parts", epochs=2, code=130)
    assert read_checkpoint("parts/last.ckpt")["global_step"] == saved
    monkeypatch.setattr(PretextModule, "training_step", original)
    main(["resume=parts/last.ckpt", "--trainer.enable_progress_bar=false"])
    assert same(weights("whole/last.ckpt"), weights("parts/last.ckpt"))


def test_the_handlers_of_the_program_come_back(train, monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    train(*PRETEXT, "--run.dir=whole")
    assert {number: signal.getsignal(number) for number in before} == before
    interrupt_at(monkeypatch, PretextModule, [1])
    stopped(train, *PRETEXT, "--run.dir=parts", code=130)
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_ends_with_its_exit_code_too(train, monkeypatch, capsys, number, code):
    # A shell starts its background jobs with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _signal_before_the_first_step(train, monkeypatch, number, code)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "error:" in capsys.readouterr().err


def _signal_before_the_first_step(train, monkeypatch, number, code):
    monkeypatch.setattr(PretextModule, "on_fit_start", lambda self: os.kill(os.getpid(), signal.SIGINT))
    # Lightning's own handler for SIGTERM is in place only between `on_fit_start` and `on_train_start`.
    original = StopOnSignal.on_train_start
    if number == signal.SIGTERM:
        monkeypatch.setattr(PretextModule, "on_fit_start", lambda self: None)
        monkeypatch.setattr(
            StopOnSignal, "on_train_start", lambda *args: (os.kill(os.getpid(), signal.SIGTERM), original(*args))
        )
    stopped(train, *PRETEXT, "--run.dir=run", code=code)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("hook", ["check_trainer", "setup", "on_fit_start"])
@pytest.mark.usefixtures("_no_handler")
def test_a_signal_while_data_are_read_leaves_no_run_directory(train, monkeypatch, capsys, hook, number, code):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(PretextModule, hook, lambda *args, **kwargs: os.kill(os.getpid(), number))
    try:
        stopped(train, *PRETEXT, code=code)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ("SIGTERM received" if number == signal.SIGTERM else "interrupted") in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A job of SLURM with one task, and a `scontrol` that writes down how it was called."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n')
    (tools / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    job |= {"SLURM_JOB_NAME": "wssl", "SLURM_NODELIST": "127.0.0.1", "PATH": f"{tools}:{os.environ['PATH']}"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "scontrol.txt"


def test_one_command_line_survives_slurms_requeueing(train, monkeypatch, slurm, capsys):
    train(*PRETEXT, "--run.dir=whole", epochs=2)
    command = [*PRETEXT, "resume=auto", "--run.dir=run"]
    interrupt_at(monkeypatch, PretextModule, [1, 5], signal.SIGUSR1)
    for step in (2, 6):
        stopped(train, *command, epochs=2, code=143)
        assert read_checkpoint("run/last.ckpt")["global_step"] == step
    assert slurm.read_text().splitlines() == ["requeue 4711"] * 2
    assert "requeued" in capsys.readouterr().out
    train(*command, epochs=2)
    assert same(weights("whole/last.ckpt"), weights("run/last.ckpt"))
    assert not list(Path("run").glob("hpc_ckpt*"))


def test_a_job_whose_command_cannot_resume_is_not_requeued(train, monkeypatch, slurm, capsys):
    interrupt_at(monkeypatch, PretextModule, [1], signal.SIGUSR1)
    stopped(train, *PRETEXT, "--run.dir=run", code=143)
    assert "resume=auto" in capsys.readouterr().out
    assert not slurm.exists()
    assert read_checkpoint("run/last.ckpt")["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_a_signal_to_one_of_two_processes_stops_both_with_a_checkpoint(tmp_path, launcher):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    start = [sys.executable]
    if launcher == "torchrun":
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*start, str(ROOT / "train.py"), *PRETEXT, *SMALL, "--trainer.max_epochs=1000", "--trainer.devices=2",
               "--trainer.strategy=ddp"]  # fmt: skip
    with (tmp_path / "err.txt").open("w") as err:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=err)
    try:
        wait_until(lambda: list(tmp_path.glob("runs/pretext/*/last.ckpt")), "the first checkpoint", process)
        process.terminate()
        code = process.wait(timeout=120)
    finally:
        process.kill()
    # torchrun has an exit code of its own for processes that it was told to end.
    assert code == 143 or launcher == "torchrun"
    errors = [line for line in (tmp_path / "err.txt").read_text().splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    (folder,) = tmp_path.glob("runs/pretext/*")  # the first process made it, and told the other one
    assert f"resume={folder.relative_to(tmp_path)}/last.ckpt" in errors[0]
    assert read_checkpoint(folder / "last.ckpt")["global_step"] < 4000


@pytest.mark.parametrize(("stage", "module"), [("pretext", PretextModule), ("downstream", InpaintModule)])
def test_last_ckpt_never_holds_weights_that_are_not_finite(train, monkeypatch, refused, stage, module):
    # An accuracy is an argmax, which is finite for NaN logits; only the loss and the weights show them.
    original = module.on_train_batch_end

    def spoilt(self, outputs, batch, batch_idx):
        original(self, outputs, batch, batch_idx)
        if self.global_step == 8:
            with torch.no_grad():
                self.encoder.get_parameter("stages.0.first.conv.weight")[0, 0, 0, 0] = float("nan")

    monkeypatch.setattr(module, "on_train_batch_end", spoilt)
    args = ["tasks=rotation"] if stage == "pretext" else ["ckpt=none", "freeze_layers=0"]
    message = refused(f"stage={stage}", *args, "--run.dir=run", epochs=3)
    assert "last good checkpoint is run/last.ckpt" in message
    assert read_checkpoint("run/last.ckpt")["global_step"] == 4
    for name in ("last", "best"):
        assert all(value.isfinite().all() for value in weights(f"run/{name}.ckpt").values())


def test_weights_are_not_finite_with_one_nan_anywhere():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    assert weights_are_finite(module)
    module[1].running_mean[2] = float("inf")
    assert not weights_are_finite(module)


@pytest.mark.usefixtures("_no_handler")
@pytest.mark.parametrize(("number", "code", "said"), [
    (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "SIGTERM received"),
])  # fmt: skip
def test_other_commands_end_at_a_signal_and_clean_up(tmp_path, monkeypatch, capsys, number, code, said):
    def killed(out, *_):
        with owned(out, folder=False):
            os.kill(os.getpid(), number)

    monkeypatch.setattr("wssl_pl.cli.runs.find_runs", lambda root: killed(root / "out"))
    with pytest.raises(SystemExit) as ended:
        main(["runs", str(tmp_path)])
    assert ended.value.code == code
    assert capsys.readouterr().err == f"error: {said}\n"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("_no_handler")
def test_a_forked_process_of_a_command_ends_at_sigterm(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    started, never = context.Event(), context.Event()  # Python drops what arrives in the moment of the fork

    def wait():
        started.set()
        while not never.wait(1):  # signal.pause() would miss what arrives just before it
            pass

    def fork(root):
        process = context.Process(target=wait, daemon=True)
        process.start()
        assert started.wait(60)
        process.terminate()
        process.join(60)
        assert process.exitcode == -signal.SIGTERM
        return []

    monkeypatch.setattr("wssl_pl.cli.runs.find_runs", fork)
    main(["runs", str(tmp_path)])
