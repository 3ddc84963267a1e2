"""Files that are whole or not there at all, and locks between processes."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from wssl_pl.errors import WSSLError

__all__ = ["Timeout", "hold", "is_held", "locked", "replacing", "write_atomically"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces it when the block ends and is removed when the block fails.

    The suffix is that of `path`, because image writers choose the format by it.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is on the disk, whole, whenever it has its name."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def hold(path: Path) -> FileLock | None:
    """Lock a file until `release` is called or the process ends; return None where files cannot be locked.

    Args:
        path: The lock file, which stays.

    Raises:
        Timeout: Another process holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise
    except OSError:  # a file system without locks
        return None
    return lock


def is_held(path: Path) -> bool:
    """Return whether another process, or this one, holds a file by `hold`."""
    try:
        if path.exists() and (lock := hold(path)):
            lock.release()
    except Timeout:
        return True
    return False


@contextmanager
def locked(path: Path, parameter: str, value: object) -> Iterator[None]:
    """Hold a lock file, with the number of this process in it, while the block runs.

    Args:
        path: The lock file, which stays.
        parameter: The parameter that names what is locked, for the message.
        value: Its value.

    Raises:
        WSSLError: Another process holds it.
    """
    try:
        lock = hold(path)
    except Timeout:
        reason = f"is being written by another process ({path.read_text()})"
        raise WSSLError(parameter, value, reason, "wait until it has ended") from None
    try:
        path.write_text(f"{os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        if lock:
            lock.release()
