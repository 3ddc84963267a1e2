"""Tests that start other processes: a free port, and waiting for what a process does."""

import socket
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

# Nothing waits this long where all is well. On a busy machine a process needs half a minute to start.
PATIENCE_S = 240.0

T = TypeVar("T")


def unused_port() -> int:
    """Return a port on which nobody listens; the system hands out another one at each call."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


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
