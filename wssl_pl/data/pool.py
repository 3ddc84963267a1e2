"""Worker processes of a preparation, which Ctrl-C and a kill end in order."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from types import FrameType

from wssl_pl.data.cache import Entry

Job = Callable[[], list[Entry]]


def results(jobs: Sequence[Job], workers: int) -> Generator[list[Entry]]:
    """Yield what jobs return, in any order, from as many processes; 0 does them in this one."""
    if workers == 0 or len(jobs) < 2:
        yield from (job() for job in jobs)
        return
    # Spawned and not forked: the program that calls this may have threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=start_worker)
    try:
        # The first job starts the pool's thread and processes. Ctrl-C in the middle of that would leave a pool that
        # can be neither used nor shut down.
        with _without_interrupt():
            futures = [pool.submit(job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _without_interrupt() -> Iterator[None]:
    """Delay Ctrl-C until the block ends; in processes that are started in it, until they leave it to this one."""
    # Processes inherit what is blocked. Ctrl-C reaches all of a group, and would end those that still import Python.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if threading.current_thread() is not threading.main_thread():
        try:
            yield  # only the main thread receives Ctrl-C
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return
    caught: list[tuple[int, FrameType | None]] = []
    # What is blocked here is still delivered through another thread.
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
    if caught and callable(before):
        before(*caught[0])


def start_worker() -> None:
    """Leave Ctrl-C to the main process, and end when that has ended, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
