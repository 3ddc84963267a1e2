"""Several processes that measure the same pairs: pair n is measured by process n modulo their number."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from wssl_pl.callbacks.ranks import ProcessLost, is_connection_error
from wssl_pl.evaluation.perceptual import FID, ROWS, Features


@dataclass
class Part:
    """What one process has measured.

    Attributes:
        values: `(pairs, metrics)`, NaN where there is none.
        measured: names of the metrics that there are.
        seconds: of the method.
        outputs: of the samples, by name.
    """

    values: NDArray[np.float64]
    measured: set[str] = field(default_factory=set)
    seconds: float = 0.0
    outputs: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def connected() -> Iterator[tuple[int, int]]:
    """Connect the processes that torchrun has started, and yield the number of this one and how many there are.

    Raises:
        ProcessLost: another one has failed, and has said why.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield 0, 1
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    # The others wait while the first one computes the distances of all images, which takes hours for very many.
    distributed.init_process_group("gloo", timeout=timedelta(days=2))
    try:
        yield distributed.get_rank(), distributed.get_world_size()
    except RuntimeError as error:
        if is_connection_error(error):
            raise ProcessLost from error
        raise
    finally:
        distributed.destroy_process_group()


def joined(part: Part, processes: int) -> Part:
    """Return in every process what all have measured, in the order of the pairs."""
    if processes == 1:
        return part
    parts: list[Part] = [part] * processes
    distributed.all_gather_object(parts, part)
    values = np.empty((sum(len(each.values) for each in parts), part.values.shape[1]))
    for rank, each in enumerate(parts):
        values[rank::processes] = each.values
    outputs = {name: output for each in parts for name, output in each.outputs.items()}
    measured = set().union(*(each.measured for each in parts))
    return Part(values, measured, sum(each.seconds for each in parts), outputs)


def distances_of_all(fid: FID | None, processes: int) -> dict[str, float] | None:
    """Return FID and KID of the images of all processes, which the first one computes."""
    if fid is None or processes == 1:
        return None if fid is None else fid.compute()
    shapes: list[dict[str, tuple[int, int]]] = [{}] * processes
    distributed.all_gather_object(shapes, {kind: features.shape for kind, features in fid.features.items()})
    for rank in range(1, processes):
        for kind, (count, size) in sorted(shapes[rank].items()):
            for start, rows in _chunks(fid.features.get(kind), count, rank):
                if rows is None:
                    received = torch.empty(min(ROWS, count - start), size)
                    distributed.recv(received, src=rank)
                    fid.features.setdefault(kind, Features()).add(received)
                else:
                    distributed.send(rows, dst=0)
    found: list[dict[str, float] | None] = [fid.compute() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(found, src=0)
    return found[0]


def _chunks(features: Features | None, count: int, rank: int) -> Iterator[tuple[int, Tensor | None]]:
    """Yield the rows that this process sends if it is `rank`, None for those that it receives as the first one."""
    if distributed.get_rank() == rank and features is not None:
        yield from zip(range(0, count, ROWS), features.split(ROWS), strict=True)
    elif distributed.get_rank() == 0:
        yield from ((start, None) for start in range(0, count, ROWS))
