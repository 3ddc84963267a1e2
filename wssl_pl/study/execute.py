"""A run of a study, as a process of its own: trained, resumed, measured."""

import contextlib
import ctypes
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from filelock import lock_descriptor

from wssl_pl.errors import ERROR_FILE, DiskFull, TrainingStopped, WSSLError
from wssl_pl.records import read_json
from wssl_pl.study.folder import EVALUATION, OUT_OF_DOMAIN, StudyFolder
from wssl_pl.study.plan import Plan, Run, Status

COMMAND = [sys.executable, "-m", "wssl_pl"]
PROJECT = str(Path(__file__).parents[2])  # found from any working folder, whether it is installed or not
ATTEMPTS = 3  # of a process that is killed; one that ends with an error of its own is not started again
KEEP_S = 30.0  # between two times that the seconds of a training are written
GRACE_S = 30.0  # for an interrupted training to write its checkpoint
TIMEOUT_S = 120.0  # for the process of a dead worker to write its checkpoint and end
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # exit codes of a process that was asked to end


class Unfinished(Exception):
    """A run was interrupted, or its process killed again and again; resuming the study resumes it."""


def execute(folder: StudyFolder, plan: Plan, run: Run, cwd: Path, pairs: Path | None) -> Status:
    """Do what is left to do of a run, and write its state.

    Args:
        folder: the study's.
        plan: all runs.
        run: the one to execute; the runs that it needs are done.
        cwd: the folder to which relative paths of its options belong.
        pairs: the pairs on which a finished downstream model is measured; None: it is not measured.

    Returns:
        A status that is `done`, or `failed` with the reason.

    Raises:
        Unfinished: it was stopped from outside.
        DiskFull: the disk is full.
    """
    path = folder.run(run.id)
    path.mkdir(parents=True, exist_ok=True)
    with _locked(path) as lock:
        started, used = time.monotonic(), _cpu_seconds()
        status = folder.status(run.id)
        done = folder.is_done(run, measured=pairs is not None)
        # An imported run has no model: a pretext run is executed for that, another one if its result is of no use.
        again = status.state == "done" and folder.is_imported(run.id) and (run.stage == "pretext" or not done)
        before = status = Status() if again else status
        if done and not again:
            return status
        if again:
            folder.remove_results(run.id)
        try:
            if status.state != "done" and run.steps:
                status = replace(status, state="running", reason=None)
                status = folder.set_status(run.id, replace(status, chosen=choose(folder, plan, run)))
                status = _train(folder, run, status, cwd, lock)
            if pairs is not None and run.reported:
                _evaluate(folder, run, cwd, pairs, lock)
                if elsewhere := folder.elsewhere(run):
                    _evaluate(folder, run, cwd, cwd / elsewhere, lock, OUT_OF_DOMAIN, "lpips_weights=none")
            status = replace(status, state="done")
        except DiskFull:
            raise
        except (WSSLError, TrainingStopped) as error:
            status = replace(status, state="failed", reason=str(error))
        finally:  # an attempt that was interrupted has cost time too
            wall, cpu = time.monotonic() - started, _cpu_seconds() - used
            status = replace(
                folder.status(run.id), state=status.state, reason=status.reason,
                wall_seconds=before.wall_seconds + wall, cpu_seconds=before.cpu_seconds + cpu,
            )  # fmt: skip
            folder.set_status(run.id, status)
        return status


def _cpu_seconds() -> float:
    """Return the processor time of the processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def choose(folder: StudyFolder, plan: Plan, run: Run) -> dict[str, Any] | None:
    """Return the option of the trial with the best validation metric at any step, the first of equals.

    The best and not the last one, since a run is measured by its `best.ckpt`.

    Raises:
        WSSLError: no trial has a metric.
    """
    tune = folder.study().tune
    if run.chooses is None or tune is None:
        return None
    curves = {trial: folder.curves(trial).get(f"val/{tune.metric}") for trial in run.chooses.values()}
    best = {
        trial: max(curve.values)
        for trial, curve in curves.items()
        if curve is not None and folder.status(trial).state == "done"
    }
    if not best:
        raise WSSLError(None, None, f"no trial of {tune.option} has a {tune.metric} to choose by")
    return {tune.option: plan.runs[max(best, key=lambda trial: best[trial])].options[tune.option]}


def _train(folder: StudyFolder, run: Run, status: Status, cwd: Path, lock: TextIO) -> Status:
    """Train until `last.ckpt` has all steps of the run, and return its state.

    Only the checkpoint's own step counter proves that a run is complete. An exit code does not: a process that is
    asked to end may exit with 0 before its last step.

    Raises:
        TrainingStopped: the training ended with an error, or ends again and again before its last step.
        Unfinished: it was stopped from outside, or killed `ATTEMPTS` times.
    """
    path = folder.run(run.id)
    log = path / "log.txt"
    for attempt in itertools.count(1):
        before = trained_steps(path)
        if before >= run.steps:
            return replace(status, steps=before)
        if (path / "last.ckpt").is_file():
            arguments = [f"resume={(path / 'last.ckpt').resolve()}"]
        else:
            # It was killed before its first `last.ckpt`, perhaps after a `best.ckpt`, which it cannot resume; and
            # `wssl train` refuses to write over a run.
            folder.remove_training(run.id)
            arguments = [*run.arguments(folder.study().validations), f"run.dir={path.resolve()}"]
            arguments += [f"{key}={value}" for key, value in (status.chosen or {}).items()]
            if run.stage == "downstream":
                source = folder.run(run.pretext).resolve() / "best.ckpt" if run.pretext else "none"
                arguments.append(f"ckpt={source}")
        status = folder.set_status(run.id, replace(status, attempts=status.attempts + 1))
        keep_time = partial(_keep_time, folder, run, status, time.monotonic())
        code = _call([*arguments, "trainer.enable_progress_bar=false"], cwd, log, lock, keep_time)
        steps = trained_steps(path)
        status = folder.set_status(run.id, replace(folder.status(run.id), steps=steps))
        if steps >= run.steps and (code <= 0 or code in STOPPED):
            return status
        if code in STOPPED:
            raise Unfinished(f"{run.id} was interrupted after {steps} of {run.steps} steps")
        if code > 0:
            raise _error(path, code)
        if attempt >= ATTEMPTS and code < 0:
            raise Unfinished(f"{run.id} was killed {attempt} times (signal {-code}); see {log}")
        if attempt >= ATTEMPTS and steps <= before:
            raise TrainingStopped(f"the training ends after {steps} of {run.steps} steps without an error; see {log}")
    raise AssertionError


def _keep_time(folder: StudyFolder, run: Run, status: Status, started: float) -> None:
    folder.set_status(run.id, replace(status, seconds=status.seconds + time.monotonic() - started))


def trained_steps(path: Path) -> int:
    """Return the number of training steps in a run's `last.ckpt`; 0 without one.

    Raises:
        WSSLError: the file is not a checkpoint.
    """
    import torch

    last = path / "last.ckpt"
    if not last.is_file():
        return 0
    try:
        # Mapped: of several hundred MB of weights only the number is read.
        return int(torch.load(last, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, OSError):
        raise WSSLError("resume", last, "is not a complete checkpoint", "delete the file to train again") from None


def _evaluate(
    folder: StudyFolder, run: Run, cwd: Path, pairs: Path, lock: TextIO, name: str = EVALUATION, *given: str
) -> None:
    with contextlib.suppress(WSSLError):
        folder.measured(run, name)
        return
    path = folder.run(run.id).resolve()
    source = f"method={run.options['method']}" if run.stage == "method" else f"ckpt={path / 'best.ckpt'}"
    arguments = ["evaluate", f"pairs={pairs.resolve()}", source, f"out={path / name}", *given]
    for _ in range(ATTEMPTS):
        # An evaluation that was killed leaves some of its files.
        code = _call([*arguments, "overwrite=true"], cwd, path / "log.txt", lock)
        if code != -signal.SIGKILL:
            break
    if code in (*STOPPED, -signal.SIGKILL):
        raise Unfinished(f"the evaluation of {run.id} was stopped")
    if code != 0:
        raise _error(path, code)


def _call(
    arguments: Sequence[str], cwd: Path, log: Path, lock: TextIO, keep_time: Callable[[], None] = lambda: None
) -> int:
    """Run a command of ours with its output in `log`, and return its exit code, negative for a signal.

    `keep_time` is called every `KEEP_S` seconds and at the end, however that comes.
    """
    error = log.with_name("error.json").resolve()
    error.unlink(missing_ok=True)
    path = [PROJECT, *filter(None, [os.environ.get("PYTHONPATH")])]
    with log.open("a") as file:
        file.write(f"$ wssl {' '.join(arguments)}\n")
        file.flush()
        # It holds the lock as long as it lives, so that no other worker trains in the same folder, and it ends in
        # order, with a checkpoint, when this process dies.
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path), ERROR_FILE: str(error)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    kept = time.monotonic()
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.5)  # in pieces: Ray cancels between two of Python's instructions
            if time.monotonic() > kept + KEEP_S:  # this process may be killed
                keep_time()
                kept = time.monotonic()
    finally:
        if process.poll() is None:
            # Cancelled. Ray kills what a worker leaves behind, so the checkpoint is waited for.
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE_S)
        keep_time()


def _error(path: Path, code: int) -> TrainingStopped:
    """Return the error that a command has written to `error.json`, or its exit code."""
    error = {}
    with contextlib.suppress(WSSLError):
        error = read_json(path / "error.json", dict[str, Any], "out", "see log.txt")
    if "message" not in error:
        return TrainingStopped(f"the process ended with exit code {code}; see {path / 'log.txt'}")
    return (DiskFull if error.get("disk_full") else TrainingStopped)(str(error["message"]))


def _end_with_parent() -> None:
    """Ask Linux for Ctrl-C when the parent dies; elsewhere the process runs to its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it in workers, and children inherit that
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[TextIO]:
    """Hold the lock of a run's folder, after the process of a worker that has died has ended.

    The training process inherits it, and locks `.lock` of its own. Not a `FileLock`, whose descriptor is private.
    """
    with (path / ".study.lock").open("a") as file:
        end = time.monotonic() + TIMEOUT_S
        while not lock_descriptor(file.fileno(), blocking=False):
            if time.monotonic() > end:
                raise Unfinished(f"{path.name} is still being trained by another process")
            time.sleep(0.2)
        yield file
