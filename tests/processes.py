"""Tests that start other processes: a free port, programs from a warm start, and waiting for what a process does."""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

# Nothing waits this long where all is well. On a busy machine a process needs half a minute to start.
PATIENCE_S = 240.0

T = TypeVar("T")


def unused_port() -> int:
    """Return a port on which nobody listens; the system hands out another one at each call."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start_warm(
    program: Path, *words: str, folder: Path, environment: Mapping[str, str], output: Path | None = None
) -> BaseProcess:
    """Start a Python program in a fork of a process that has imported PyTorch and Lightning, which takes seconds.

    Args:
        program: the program.
        words: its command line.
        folder: its working folder.
        environment: added to the variables of this process.
        output: where standard output and standard error go.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wssl_pl.cli.train", "cv2", "tensorboard.plugins.hparams.summary_v2"])
    given = (str(program), words, str(folder), {**os.environ, **environment}, str(output or os.devnull))
    process = context.Process(target=_run_program, args=given, daemon=True)
    process.start()
    return process


def _run_program(program: str, words: list[str], folder: str, environment: dict[str, str], output: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with open(output, "wb") as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch
    from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only

    rank_zero_only.rank = _get_rank() or 0  # as Lightning sets it when it is imported
    torch.set_num_threads(1)
    sys.argv = [program, *words]
    runpy.run_path(program, run_name="__main__")


def run_both_ranks(program: Path, *words: str, folder: Path, torchrun: bool = False) -> tuple[int, str]:
    """Run a program as the two processes of one DDP training, and return the first exit code and their output.

    Args:
        program: the program.
        words: its command line.
        folder: its working folder.
        torchrun: with the variables of torchrun; otherwise with those that Lightning gives to the second process.
    """
    both = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(unused_port()),
        "WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if torchrun:
        both |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    processes, outputs = [], [folder / f"output{rank}.txt" for rank in (0, 1)]
    for rank, output in enumerate(outputs):
        own = both | {"LOCAL_RANK": str(rank)} | ({"RANK": str(rank)} if torchrun else {})
        processes.append(start_warm(program, *words, folder=folder, environment=own, output=output))
    end, failed = time.monotonic() + PATIENCE_S, 0
    while (left := [process for process in processes if process.exitcode is None]) and time.monotonic() < end:
        failed = next((process.exitcode for process in processes if process.exitcode), 0)
        if failed:  # launchers end the others then
            left[0].kill()
        wait([process.sentinel for process in left], end - time.monotonic())
    said = "".join(output.read_text() for output in outputs)
    assert not left, f"a process did not end: {said}"
    return failed or next((process.exitcode for process in processes if process.exitcode), 0), said


def wait_until(
    condition: Callable[[], T], what: str, process: subprocess.Popen | None = None, patience: float = PATIENCE_S
) -> T:
    """Return the first true value of `condition`.

    Args:
        condition: is asked again and again.
        what: what is waited for, for the message.
        process: a process that must not end before.
        patience: seconds after which the test fails.
    """
    end = time.monotonic() + patience
    while not (value := condition()):
        if process is not None and process.poll() is not None:
            output = [stream.read() for stream in (process.stdout, process.stderr) if stream is not None]
            raise AssertionError(f"the process ended with {process.returncode} before {what}: {output}")
        assert time.monotonic() < end, f"waited {patience:.0f} s for {what}"
        time.sleep(0.02)
    return value
