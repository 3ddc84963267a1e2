"""Files that are whole or not there at all, and locks between processes."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from wssl_pl.errors import WSSLError

__all__ = ["Timeout", "hold", "is_held", "locked", "owned", "replacing", "write_atomically"]

NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}  # of file systems without locks


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
        OSError: It cannot be made or written.
    """
    lock = FileLock(path, fallback_to_soft=False)  # the fallback's locks would outlive a killed process
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return lock


def is_held(path: Path) -> bool:
    """Return whether another process, or this one, holds a file by `hold`."""
    try:
        if path.exists() and (lock := hold(path)):
            lock.release()
    except Timeout:
        return True
    except OSError:  # somebody else's
        pass
    return False


@contextmanager
def locked(path: Path, parameter: str, value: object) -> Iterator[None]:
    """Hold a lock file, with the number of this process in it, while the block runs.

    Args:
        path: The lock file, which stays.
        parameter: The parameter that names what is locked, for the message.
        value: Its value.

    Raises:
        WSSLError: Another process holds it, or it cannot be written.
    """
    try:
        lock = hold(path)
        if lock:
            path.write_text(f"{os.getpid()} on {socket.gethostname()}")
    except Timeout:
        holder = ""
        with suppress(OSError, ValueError):
            holder = path.read_text()
        reason = "is being written by another process" + (f" ({holder})" if holder else "")
        raise WSSLError(parameter, value, reason, "wait until it has ended, or name another") from None
    except OSError as error:
        raise WSSLError(parameter, value, f"cannot be written: {error.strerror}", "name another") from None
    try:
        yield
    finally:
        if lock:
            lock.release()


@contextmanager
def owned(out: Path, parameter: str = "out", folder: bool = True) -> Iterator[None]:
    """Make sure that an output can be written, and that no other process writes it, while the block runs.

    The folder is made, and removed if nothing is in it at the end. The lock file is removed too; that of a killed
    process does not block.

    Args:
        out: The output.
        parameter: The parameter that names it, for the message.
        folder: Whether it is a folder. Its lock file is `.lock` in it, that of a file is `.NAME.lock` beside it.

    Raises:
        WSSLError: It cannot be written, or another process writes it.
    """
    home = out if folder else out.parent
    lock = home / (".lock" if folder else f".{out.name}.lock")
    made = [path for path in (home, *home.parents) if not os.path.exists(path)]  # noqa: PTH110, False for a closed folder
    try:
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WSSLError(parameter, out, f"cannot be written: {error.strerror}", "name another") from None
        with locked(lock, parameter, out):
            try:
                yield
            finally:
                with suppress(OSError):  # while it is held: a process that has opened it sees that it is gone
                    lock.unlink()
    finally:
        for path in made:
            with suppress(OSError):  # not empty
                path.rmdir()
