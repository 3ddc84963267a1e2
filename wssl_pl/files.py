"""Files that are whole or not there at all, and locks between processes."""

import errno
import functools
import hashlib
import json
import os
import re
import secrets
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, LeaseCompromise, SoftFileLease, Timeout, lock_descriptor

from wssl_pl.errors import WSSLError

NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}  # of file systems without locks
PREFIX, SUFFIX = ".wssl-", ".part"  # of temporary files
LEASE = ".owner.lock"
LEASE_S = 20.0  # after which the output of an owner that shows no sign of life, as it does three times then, is free


def cache_folder() -> Path:
    """Return the folder of what can be made or fetched again: `$XDG_CACHE_HOME/wssl_pl`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "wssl_pl"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file beside `path`, which replaces it when the block ends and is removed when the block fails.

    Nobody can guess its name, and a file or link that is there already is never written to. Its mode follows the umask.
    What a killed process left in the folder is removed.

    Raises:
        OSError: It cannot be written.
    """
    _remove_leftovers(path.parent.absolute())
    with _new_file(path.parent) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        finally:
            Path(file.name).unlink(missing_ok=True)


def _new_file(folder: Path) -> BinaryIO:
    """Return an open file of a new name, locked for as long as it is open."""
    while True:
        file = (folder / f"{PREFIX}{secrets.token_hex(16)}{SUFFIX}").open("x+b")
        held = True
        with suppress(OSError):  # a file system without locks
            held = lock_descriptor(file.fileno(), blocking=False)
        if held and os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another process takes it for a leftover, since it was not locked yet


@functools.cache  # once per process: the folder may hold many files
def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that nobody holds."""
    for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if lock_descriptor(descriptor, blocking=False):
                    path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file that is on the disk, whole, whenever it has its name; text as UTF-8.

    Raises:
        OSError: It cannot be written.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, values: Any) -> None:
    """Write JSON for people too, as `write_atomically` writes a file.

    Raises:
        OSError: It cannot be written.
    """
    write_atomically(path, json.dumps(values, indent=2) + "\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as a hexadecimal number."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(parameter: str, path: Path) -> Iterator[None]:
    """Say in one line why an output could not be written in the block.

    Args:
        parameter: The parameter that names the output, for the message.
        path: Its value.

    Raises:
        WSSLError: In place of an `OSError`: the disk is full, the folder is read-only, and the like.
    """
    try:
        yield
    except OSError as error:
        remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "name another place"
        where = Path(str(error.filename or path)).absolute()
        named = "" if where.is_relative_to(path.absolute().parent) or where.name.startswith(PREFIX) else f"{where}: "
        reason = f"cannot be written: {named}{error.strerror or error}"
        raise WSSLError(parameter, path, reason, remedy) from error


def is_address(value: str) -> bool:
    """Return whether a value is an address, as `s3://bucket/prefix`, and no path."""
    return re.match(r"[A-Za-z][\w+.-]+://", value) is not None


def check_local(parameter: str, value: str) -> None:
    """Raise `WSSLError` if a value is an address: `Path` would take it for folders of the working directory."""
    if is_address(value):
        raise WSSLError(parameter, value, "is an address, and no path", "name a file or folder of this machine")


def check_readable(path: Path, parameter: str, remedy: str | None = None) -> None:
    """Check that a file or folder exists and can be opened; what is neither is not opened.

    Args:
        path: The file or folder.
        parameter: The parameter that named it, for the message.
        remedy: What to do if there is none.

    Raises:
        WSSLError: It does not exist, or cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
        elif stat.S_ISDIR(mode):
            os.scandir(path).close()
            (path / "_").exists()  # raises where the files in it cannot be opened
    except (FileNotFoundError, NotADirectoryError):
        raise WSSLError(parameter, path, "does not exist", remedy) from None
    except OSError as error:
        raise WSSLError(parameter, path, f"cannot be read: {error.strerror}") from None


def check_writable(folder: Path, parameter: str, path: Path) -> None:
    """Check, before any work, that something can be written into a folder, or into the nearest one that exists.

    Args:
        folder: The folder.
        parameter: The parameter that names the output, for the message.
        path: Its value.

    Raises:
        WSSLError: Nothing can.
    """
    with writing(parameter, path):
        absolute = folder.absolute()
        existing = next(each for each in (absolute, *absolute.parents) if each.exists())
        with tempfile.TemporaryFile(dir=existing, prefix=PREFIX) as file:  # has no name on Linux
            file.write(bytes(4096))


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
def locked(path: Path, parameter: str, value: Path) -> Iterator[None]:
    """Hold a lock file, with the number of this process in it, while the block runs.

    Args:
        path: The lock file, which stays.
        parameter: The parameter that names what is locked, for the message.
        value: Its value.

    Raises:
        WSSLError: Another process holds it, or it cannot be written.
    """
    with writing(parameter, value):
        try:
            lock = hold(path)
        except Timeout:
            holder = ""
            with suppress(OSError, ValueError):
                holder = path.read_text()
            reason = "is being written by another process" + (f" ({holder})" if holder else "")
            raise WSSLError(parameter, value, reason, "wait until it has ended, or name another") from None
        if lock:
            path.write_text(f"{os.getpid()} on {socket.gethostname()}")
    try:
        yield
    finally:
        if lock:
            lock.release()


@contextmanager
def leased(folder: Path, parameter: str) -> Iterator[None]:
    """Hold `.owner.lock` in a folder, which hosts without common locks respect too, while the block runs.

    No time of one host is compared with that of another: an owner is gone if its file has not changed for `LEASE_S`
    seconds of our own clock. An owner that was held up for so long, and finds another one, is sent SIGTERM.

    Args:
        folder: The folder.
        parameter: The parameter that names it, for the message.

    Raises:
        WSSLError: A process of another host holds it, or it cannot be written.
    """
    lease = SoftFileLease(folder / LEASE, lease_duration=LEASE_S, on_compromise=_end_superseded)
    with writing(parameter, folder):
        try:
            _acquire_lease(lease)
        except Timeout:
            owner = lease.owner
            where = f" (process {owner.pid} on {owner.hostname})" if owner else ""
            reason = f"is being written by another process{where}"
            raise WSSLError(parameter, folder, reason, "wait until it has ended, or name another") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    try:
        yield
    finally:
        lease.release()


def _acquire_lease(lease: SoftFileLease) -> None:
    """Acquire a lease that is free or becomes free, or raise `Timeout` when its owner is seen to live."""
    first, since = _signature(lease.lock_file), time.monotonic()
    while True:
        try:
            lease.acquire(blocking=False)
            return
        except Timeout:
            if (now := _signature(lease.lock_file)) not in (None, first):
                raise
            if now and time.monotonic() - since > 1.2 * LEASE_S:
                lease.force_break()  # NFS cannot exchange two files, by which filelock takes a lease over
        time.sleep(LEASE_S / 100)


def _signature(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        status = Path(path).stat()
        return status.st_ino, status.st_mtime_ns
    return None


def _end_superseded(loss: LeaseCompromise) -> None:
    if loss.reason == "owner-changed":
        os.write(2, f"\nerror: {Path(loss.lock_file).parent}: another process has taken it over\n".encode())
        os.kill(os.getpid(), signal.SIGTERM)


def owner_elsewhere(folder: Path) -> str | None:
    """Return the host of another machine that holds a folder by `leased`, or held it until it was killed."""
    owner = SoftFileLease(folder / LEASE, lease_duration=LEASE_S).owner
    host = owner.hostname.partition("?")[0] if owner else None
    return host if host != socket.gethostname() else None


@contextmanager
def owned(out: Path, parameter: str = "out", folder: bool = True) -> Iterator[None]:
    """Make sure that an output can be written, and that no other process writes it, while the block runs.

    The folder is made, and removed if nothing is in it at the end. The lock file is removed too; that of a killed
    process does not block. Another host may not see the lock of a shared folder: there is also a lease for that.

    Args:
        out: The output.
        parameter: The parameter that names it, for the message.
        folder: Whether it is a folder. Its lock file is `.lock` in it, that of a file is `.NAME.lock` beside it.

    Raises:
        WSSLError: It cannot be written, or another process writes it.
    """
    home = out if folder else out.absolute().parent  # of `.`, the one above
    lock = home / (".lock" if folder else f".{out.absolute().name}.lock")
    made = [path for path in (home, *home.parents) if not os.path.exists(path)]  # noqa: PTH110, False for a closed folder
    try:
        with writing(parameter, out):
            home.mkdir(parents=True, exist_ok=True)
        with locked(lock, parameter, out), leased(out, parameter) if folder else nullcontext():
            try:
                yield
            finally:
                with suppress(OSError):  # while it is held: a process that has opened it sees that it is gone
                    lock.unlink()
    finally:
        for path in made:
            with suppress(OSError):  # not empty
                path.rmdir()
