"""Decode in many processes, and keep what they did when they or this one are stopped."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import FrameType

from wssl_pl.data.journal import Journal
from wssl_pl.data.prepare_rows import Job, Record, fill, start_worker
from wssl_pl.errors import DataError, UsageError

FLUSH_SECONDS = 1.0
"""Seconds of work that a kill may cost."""


def filled(jobs: Sequence[Job], workers: int, journal: Journal, array: Path) -> Generator[list[Record]]:
    """Do the jobs, in any order, and note rows in the journal once they are on the disk.

    Close it, however it is left: then what was done is noted.

    Args:
        jobs: What is to be done.
        workers: Processes; 0 for none beside this one.
        journal: The journal.
        array: The array file that the jobs write to.

    Raises:
        DataError: A process was killed.
        DiskFull: The disk took no more.
    """
    waiting: list[Record] = []
    flushed = time.monotonic()
    try:
        with contextlib.closing(_results(jobs, workers)) as results:
            for records in results:
                waiting += records
                if time.monotonic() - flushed > FLUSH_SECONDS:
                    journal.append(waiting, after=array)
                    waiting, flushed = [], time.monotonic()
                yield records
        journal.append(waiting, after=array)
        waiting = []
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed (short of memory?): the same command goes on where it stopped, "
            "with fewer processes by workers=N"
        ) from None
    finally:
        # On a full disk not even these lines may fit; then their rows are done again.
        with contextlib.suppress(OSError):
            journal.append(waiting, after=array)


def _results(jobs: Sequence[Job], workers: int) -> Generator[list[Record]]:
    if workers == 0 or len(jobs) < 2:
        yield from map(fill, jobs)
        return
    # Spawned and not forked: the program that calls this may have threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=start_worker)
    try:
        # The first job starts the pool's thread and processes. Ctrl-C in the middle of that would leave a pool that
        # can be neither used nor shut down.
        with _without_interrupt():
            futures = [pool.submit(fill, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _without_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C never comes here
        return
    caught: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught and callable(before):
        before(*caught[0])


def processes(workers: int | None) -> int:
    """How many processes to start: as asked, else one per core, and none for a single core."""
    if workers is not None:
        if workers < 0:
            raise UsageError(f"workers={workers}: it must not be negative")
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if cores > 1 else 0
