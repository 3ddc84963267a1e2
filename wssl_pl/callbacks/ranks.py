"""When one of several processes dies: the training ends, and the reason is reported once."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import distributed

from wssl_pl.errors import Interrupted, Terminated, TrainingStopped, WSSLError

FIRST = "wssl/first_failure"  # in the store of the process group: the rank that reports
GRACE_S = 2.0  # for the process that died to be seen by its parent, and for rank 0 to report before the others


class ProcessLost(TrainingStopped):
    """Another process of the training has failed; without a message where a process reports it itself."""

    def __init__(self, message: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def is_connection_error(error: BaseException) -> bool:
    """Return whether another process did not answer."""
    # gloo raises a plain RuntimeError: that it comes from there is seen in its text alone.
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


class ReportFirstFailure(Callback):
    """Let one process of a training report why it ends: the one that fails first.

    The others fail with it, or in their next exchange with it, and end without a word.
    """

    error: ProcessLost | None = None  # what this process raises in place of its own error

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Replace the error that ends the training in the block, where another process reports."""
        try:
            yield
        except Exception as error:
            if self.error is None:
                raise
            raise self.error from error

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Find out who reports, while the processes are still connected."""
        ordered = not isinstance(exception, Exception) or isinstance(exception, Interrupted | Terminated)
        if trainer.world_size == 1 or ordered:
            return
        # Taken from the list that Lightning watches too: it would kill this process within five seconds.
        listed = getattr(trainer.strategy.launcher, "procs", [])
        children, listed[:] = list(listed), []
        if is_connection_error(exception):
            self.error = _lost(trainer.global_rank, exception, children)
        elif _claim(trainer.global_rank) is False:
            self.error = ProcessLost(exit_code=2 if isinstance(exception, TrainingStopped | WSSLError) else 1)
        for child in children:
            child.kill()  # it may wait for this one for half an hour


def _lost(rank: int, exception: BaseException, children: list[subprocess.Popen[Any]]) -> ProcessLost:
    """Return the error of a process that lost the connection to another one."""
    reason, code = f"the connection to another process was lost: {str(exception)[:200]}", 1
    end = time.monotonic() + GRACE_S
    while time.monotonic() < end:
        dead = [(number, child.returncode) for number, child in enumerate(children, start=1) if child.poll()]
        if dead:
            number, code = dead[0]
            how = f"was killed by signal {-code}" if code < 0 else f"has ended with exit code {code}"
            reason, code = f"rank {number} {how}", max(code, 1)
            break
        time.sleep(0.05)
    reports = _claim(rank)
    if reports is None:  # the store is gone with rank 0
        reports, reason = rank == 1, "rank 0 has ended without a reason: it was killed, or its machine is gone"
    return ProcessLost(reason if reports else "", code)


def _claim(rank: int) -> bool | None:
    """Return whether this process is the first one that fails; None if there is nobody to ask."""
    try:
        store: Any = distributed.distributed_c10d._get_default_store()
        store.set_timeout(timedelta(seconds=GRACE_S))
        return bool(store.compare_set(FIRST, "", str(rank)) == str(rank).encode())
    except (RuntimeError, ValueError):  # no process group yet, or the process with the store is gone
        return None
