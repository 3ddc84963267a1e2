"""One run of a study, as a process of its own: trained, resumed, read, measured."""

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from wssl_pl.errors import TrainingStopped, UsageError, WSSLError
from wssl_pl.study.folder import Status, StudyFolder, write_json
from wssl_pl.study.plan import Plan, Run

COMMAND = [sys.executable, "-m", "wssl_pl"]
PROJECT = str(Path(__file__).parents[2])  # found from any working folder, whether it is installed or not
ATTEMPTS = 3  # of a training process that is killed; one that ends with an error of its own is not begun again
GRACE_S = 30.0  # for a training that was told to stop to write its checkpoint
PATIENCE = 120.0  # seconds for the process of a dead worker to write its checkpoint and end
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # exit codes of a process that was asked to end
FULL_DISK = ("No space left on device", "disk is full", "could not write the checkpoint")


class Unfinished(Exception):
    """A run was interrupted, or its process killed again and again; resuming the study goes on with it."""


class DiskFull(Exception):
    """No run can go on before there is room."""


def execute(folder: StudyFolder, plan: Plan, run: Run, cwd: Path, pairs: Path | None) -> Status:
    """Does what is left to do of a run, and keeps what becomes of it.

    Args:
        folder: the study's.
        plan: all runs.
        run: the one; what it needs is done.
        cwd: the folder that relative paths of its options start from.
        pairs: the pairs that a finished downstream model is measured on; None: not measured.

    Returns:
        `done` or `failed`, with the reason.

    Raises:
        Unfinished: it was stopped from outside.
        DiskFull: the disk took no more.
    """
    path = folder.run(run.id)
    path.mkdir(parents=True, exist_ok=True)
    with _own(path) as lock:
        status = folder.status(run.id)
        if status.state == "done":
            return status
        status.state, status.reason = "running", None
        try:
            status.chosen = choose(folder, plan, run)
            folder.set_status(run.id, status)
            _train(folder, run, status, cwd, lock)
            write_json(path / "curve.json", read_curve(path))
            if pairs is not None and run.stage == "downstream" and not run.trial:
                _evaluate(path, cwd, pairs, lock)
            status.state = "done"
        except (WSSLError, TrainingStopped) as error:
            if any(sign in str(error) for sign in FULL_DISK):
                raise DiskFull(str(error)) from None
            status.state, status.reason = "failed", str(error)
        folder.set_status(run.id, status)
        return status


def choose(folder: StudyFolder, plan: Plan, run: Run) -> dict[str, Any] | None:
    """The option's value whose trial has the best validation figure at any step; the first of equals.

    The best and not the last, since it is `best.ckpt` that a run is measured by.

    Raises:
        UsageError: no trial has one.
    """
    tune = folder.study().tune
    if run.chooses is None or tune is None:
        return None
    figures = {}
    for value, trial in run.chooses.items():
        points = folder.curve(trial).get(f"val/{tune.figure}", [])
        if folder.status(trial).state == "done" and points:
            figures[value] = max(figure for _, figure in points)
    if not figures:
        raise UsageError(f"no trial of {tune.option} has a figure to choose by")
    best = max(figures, key=lambda value: figures[value])
    return {tune.option: plan.runs[run.chooses[best]].options[tune.option]}


def _train(folder: StudyFolder, run: Run, status: Status, cwd: Path, lock: TextIO) -> None:
    """Trains until `last.ckpt` holds all steps of the run.

    Only the checkpoint's own step counter proves that a run is complete. An exit code does not: a process that is
    asked to end may exit with 0 before its last step.

    Raises:
        TrainingStopped: the training ended with an error, or ends again and again before its last step.
        Unfinished: it was stopped from outside, or killed `ATTEMPTS` times.
    """
    path = folder.run(run.id)
    log = path / "log.txt"
    attempts = 0
    while (steps := trained_steps(path)) < run.steps:
        last = path / "last.ckpt"
        if last.is_file():
            words = [f"resume={last.resolve()}"]
        else:
            # Killed before its first `last.ckpt`, maybe after a `best.ckpt`, from which it cannot go on: nothing is
            # kept, and the training refuses to write over a run.
            for pattern in ("config*.yaml", "events*", "hparams.yaml", "metrics.csv", "run.json", "*.ckpt"):
                for leftover in path.glob(pattern):
                    leftover.unlink()
            words = [*run.words(folder.study().validations), f"run.dir={path.resolve()}"]
            words += [f"{key}={value}" for key, value in (status.chosen or {}).items()]
            if run.stage == "downstream":
                source = folder.run(run.pretext).resolve() / "best.ckpt" if run.pretext else "none"
                words.append(f"ckpt={source}")
        attempts += 1
        status.attempts += 1
        folder.set_status(run.id, status)
        begun = time.monotonic()
        code = _call([*words, "trainer.enable_progress_bar=false"], cwd, log, lock)
        status.seconds += time.monotonic() - begun
        status.steps = trained_steps(path)
        folder.set_status(run.id, status)
        if status.steps >= run.steps and (code <= 0 or code in STOPPED):
            return
        if code in STOPPED:
            raise Unfinished(f"{run.id} was interrupted after {status.steps} of {run.steps} steps")
        if code > 0:
            raise TrainingStopped(last_error(log))
        if attempts >= ATTEMPTS and code < 0:
            raise Unfinished(f"{run.id} was killed {attempts} times (signal {-code}); see {log}")
        if attempts >= ATTEMPTS and status.steps <= steps:
            raise TrainingStopped(
                f"the training ends after {status.steps} of {run.steps} steps without an error; see {log}"
            )
    status.steps = steps


def trained_steps(path: Path) -> int:
    """Return the number of training steps in a run's `last.ckpt`; 0 without one.

    Raises:
        UsageError: the file is not a checkpoint.
    """
    import torch

    last = path / "last.ckpt"
    if not last.is_file():
        return 0
    try:
        # Mapped: of several hundred MB of weights only the number is read.
        return int(torch.load(last, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, OSError):
        raise UsageError(
            f"{last}: this is not a whole checkpoint, so the run cannot be resumed: delete the file to train it again"
        ) from None


def _evaluate(path: Path, cwd: Path, pairs: Path, lock: TextIO) -> None:
    if (path / "evaluation" / "summary.json").is_file():
        return
    log = path / "log.txt"
    words = ["evaluate", f"pairs={pairs.resolve()}", f"ckpt={path.resolve() / 'best.ckpt'}"]
    code = _call([*words, f"out={path.resolve() / 'evaluation'}"], cwd, log, lock)
    if code in (*STOPPED, -signal.SIGKILL):
        raise Unfinished(f"the evaluation of {path.name} was stopped")
    if code != 0:
        raise UsageError(last_error(log))


def _call(words: Sequence[str], cwd: Path, log: Path, lock: TextIO) -> int:
    """Runs a command of ours with its output in `log`; the exit code, negative for a signal."""
    with log.open("a") as file:
        file.write(f"$ wssl {' '.join(words)}\n")
        file.flush()
        # It holds the lock as long as it lives, so that no other worker trains in the same folder, and it ends in
        # order, with a checkpoint, when this process dies.
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([PROJECT, *filter(None, [os.environ.get("PYTHONPATH")])])},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.5)  # in pieces: Ray cancels between two of Python's instructions
    finally:
        if process.poll() is None:
            # Cancelled. Ray kills what a worker leaves behind, so the checkpoint is waited for.
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE_S)


def _end_with_parent() -> None:
    """Asks Linux for Ctrl-C when the parent dies; elsewhere the process goes on until its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it in workers, and children inherit that
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _own(path: Path) -> Iterator[TextIO]:
    """The lock of a run's folder, for which the process of a worker that has died is waited for."""
    import fcntl

    with (path / ".lock").open("a") as file:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Unfinished(f"{path.name} is still being trained by another process") from None
                time.sleep(0.2)
        yield file


def last_error(log: Path) -> str:
    """The line in which a command said what was wrong, or the last one of its log."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (said or lines or ["it ended without a word"])[-1][:400]


def read_curve(path: Path) -> dict[str, list[list[float]]]:
    """Validation figures of a run by tag, from its TensorBoard events: lists of step and value, in order.

    A step that was logged again after a resumption counts once, as it was last.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, float]] = {}
    for file in sorted(path.glob("events.out.tfevents.*"), key=os.path.getmtime):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            if tag.startswith("val/"):
                found.setdefault(tag, {}).update({event.step: event.value for event in events.Scalars(tag)})
    return {tag: [[step, value] for step, value in sorted(points.items())] for tag, points in found.items()}


def read_step(path: Path) -> int:
    """The last step that a running training has logged; 0 before the first."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    newest = max(path.glob("events.out.tfevents.*"), key=os.path.getmtime, default=None)
    if newest is None:
        return 0
    with contextlib.suppress(Exception):  # a line that is being written
        return max((event.step for event in LegacyEventFileLoader(str(newest)).Load()), default=0)
    return 0
