"""One process at a time in a folder."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from wssl_pl.errors import UsageError


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file; the system lets it go when the process ends, however that happens.

    Args:
        path: The lock file; it stays.
        what: What is locked, for the message.

    Raises:
        UsageError: Another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UsageError(
                f"{what} is being written by another process ({file.read().strip()}): wait until it has ended"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
