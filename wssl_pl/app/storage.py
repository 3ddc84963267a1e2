"""The folder of the page: uploads and results, within a quota, until the page ends."""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from wssl_pl.errors import WSSLError
from wssl_pl.files import hold, writing

PREFIX, LOCK = "wssl-app-", ".lock"
MIN_BYTES = 65_536  # that a file counts for, so that their number is limited too
MAX_AGE_S = 7200  # Gradio removes after an hour what it knows of


class Storage:
    """Counts the bytes of a folder and of what is arriving.

    Args:
        folder: the folder.
        quota: the most bytes that it may hold.

    Attributes:
        full: the message when it does, in one line.
    """

    def __init__(self, folder: Path, quota: float) -> None:
        self.folder, self.quota = folder, quota
        self.held = self.arriving = 0
        self.begin = time.time()
        self.full = f"the page holds as many photos as it may ({quota / 1e6:g} MB): try again in an hour"

    def measure(self) -> None:
        """Count the folder again; what remains of broken uploads is removed after two hours."""
        held = 0
        for path in self.folder.rglob("*"):
            with suppress(OSError):
                status = path.lstat()
                # What the page itself has put there before it began stays.
                if stat.S_ISREG(status.st_mode) and self.begin < status.st_mtime < time.time() - MAX_AGE_S:
                    path.unlink()
                elif stat.S_ISREG(status.st_mode):
                    held += max(MIN_BYTES, status.st_size)
        self.held = held

    def take(self, size: int) -> bool:
        """Count bytes that have arrived, until `settle`; return whether there is room for them."""
        self.arriving += size
        return self.held + self.arriving <= self.quota

    def settle(self, size: int) -> None:
        """Count bytes of a request that has ended to the folder."""
        self.arriving -= size
        self.held += size

    def check(self) -> None:
        """Raise `WSSLError` unless there is room for more."""
        self.measure()
        if not self.take(0):
            raise WSSLError(None, None, self.full)


@contextmanager
def own_folder() -> Iterator[Path]:
    """Yield a new folder that only this user can read; it is removed in the end, those of killed processes now.

    Raises:
        WSSLError: the temporary folder cannot be written.
    """
    root = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    with writing("TMPDIR", root):
        _remove_leftovers(root)
        folder, lock = _locked_folder(root)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock:
            lock.release()


def _locked_folder(root: Path) -> tuple[Path, FileLock | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        with suppress(Timeout, FileNotFoundError):
            lock = hold(folder / LOCK)
            if (folder / LOCK).exists():
                return folder, lock
        # Another process took it for a leftover before it was locked.


def _remove_leftovers(root: Path) -> None:
    """Remove this user's folders whose processes have ended: their locks are free."""
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and (folder / LOCK).exists():
                lock = hold(folder / LOCK)
                if lock:
                    shutil.rmtree(folder, ignore_errors=True)
                    lock.release()
