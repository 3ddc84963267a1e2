"""One process at a time in a directory."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

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


def hold(path: Path) -> TextIO | None:
    """Lock a file until it is closed or the process ends; return None where files cannot be locked.

    Unlike `locked`, processes that are forked meanwhile do not inherit the lock, so that it ends with this process even
    if a worker of the data loader survives it for a moment.

    Args:
        path: the lock file, which stays.

    Raises:
        BlockingIOError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    file = path.open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError(error.errno, "another process holds the lock", str(path)) from None
        return None  # a file system without locks
    return file


def is_held(path: Path) -> bool:
    """Return whether another process holds a file that `hold` locks. Not for the process that holds it."""
    if not path.exists():
        return False
    try:
        file = hold(path)
    except BlockingIOError:
        return True
    except OSError:  # not ours to write
        return False
    if file is not None:
        file.close()
    return False
