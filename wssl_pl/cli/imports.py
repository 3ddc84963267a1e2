"""Imports that take seconds."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[bool]:
    """Stop the garbage collector while PyTorch is imported in the block; yield whether it is not yet.

    It brings thousands of modules, which are there to stay. The collector would search them again and again while they
    are imported, and once more when the process ends: a quarter of the time of a short command.
    """
    collects = gc.isenabled() and "torch" not in sys.modules
    if collects:
        gc.disable()
    try:
        yield collects
    finally:
        if collects:
            gc.enable()


def import_torch() -> None:
    """Import PyTorch, and take its objects out of garbage collection; call it while collection is disabled."""
    importlib.import_module("torch")
    # Before Triton is imported, which reports its modules as leaks where they are never collected.
    gc.freeze()
