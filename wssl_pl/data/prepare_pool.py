"""Decode in many processes, and keep what they did when they or this one are stopped."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from wssl_pl.data.journal import Journal
from wssl_pl.data.prepare_rows import DiskFull, Job, Record, fill, start_worker
from wssl_pl.errors import DataError, Interrupted, UsageError

FLUSH_SECONDS = 1.0
"""Seconds of work that a kill may cost."""


def filled(jobs: Sequence[Job], workers: int, journal: Journal, array: Path, total: int) -> Iterator[list[Record]]:
    """Do the jobs, in any order, and note rows in the journal once they are on the disk.

    Args:
        jobs: What is to be done.
        workers: Processes; 0 for none beside this one.
        journal: The journal.
        array: The array file that the jobs write to.
        total: Rows of the whole array, for messages.

    Raises:
        Interrupted: By Ctrl-C.
        DataError: A process was killed.
        DiskFull: The disk took no more.
    """
    waiting: list[Record] = []
    done = total - sum(len(job.rows) for job in jobs)
    flushed = time.monotonic()
    try:
        with contextlib.closing(_results(jobs, workers)) as results:
            for records in results:
                waiting += records
                done += len(records)
                yield records
                if time.monotonic() - flushed > FLUSH_SECONDS:
                    journal.append(waiting, after=array)
                    waiting, flushed = [], time.monotonic()
        journal.append(waiting, after=array)
        waiting = []
    except KeyboardInterrupt:
        journal.append(waiting, after=array)
        raise Interrupted(f"stopped at {done} of {total} images: the same command goes on from there") from None
    except BrokenProcessPool:
        journal.append(waiting, after=array)
        raise DataError(
            f"a worker process was killed at {done} of {total} images (short of memory?): "
            "the same command goes on from there, with fewer processes by workers=N"
        ) from None
    except DiskFull:
        with contextlib.suppress(OSError):
            journal.append(waiting, after=array)
        raise


def _results(jobs: Sequence[Job], workers: int) -> Generator[list[Record]]:
    if workers == 0 or len(jobs) < 2:
        yield from map(fill, jobs)
        return
    # Spawned and not forked: the program that calls this may have threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=start_worker)
    try:
        for future in as_completed([pool.submit(fill, job) for job in jobs]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def processes(workers: int | None) -> int:
    """How many processes to start: as asked, else one per core, and none for a single core."""
    if workers is not None:
        if workers < 0:
            raise UsageError(f"workers={workers}: it must not be negative")
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if cores > 1 else 0
