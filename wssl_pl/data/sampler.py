"""Which samples a process sees in an epoch, and in which order."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from wssl_pl.data.draws import permutation

Key = tuple[int, int]

WINDOW = 8
"""Chunks of shards that are read at a time: training images are shuffled within them."""


class KeySampler(DistributedSampler[Key]):
    """Yields (epoch, index): the epoch travels in the key, so that workers kept over epochs see the right one.

    In training, the epoch's order comes from (seed, epoch) and is cut to whole batches, the same number for every
    process; batch b of all processes together is batch b of one process with their joint batch size. A set that is
    smaller than one such batch is used as far as it divides by the number of processes. Otherwise the order is that of
    the indices, nothing is dropped and nothing repeated, so that an evaluation counts each sample once.

    In training, every iteration is one epoch further than the one before, unless `set_epoch` is called: a plain
    loop over the loader needs no call. It is a `DistributedSampler` so that Lightning and Fabric, which replace any
    other sampler when there are several processes, do not divide the samples a second time.

    The samples of shards are in chunks, which are costly to fetch: in training the chunks are shuffled, taken `WINDOW`
    at a time, and the samples shuffled within such a window, so that every chunk is needed once per epoch. That order
    too comes from (seed, epoch) alone.

    Args:
        size: Number of samples in the set.
        batch_size: Samples per batch of one process.
        train: Shuffle and drop the incomplete last batch.
        seed: Seed of the order.
        rank: Number of this process.
        world_size: Number of processes.
        chunks: The chunk of each sample `(size,)`, from 0, if there are chunks.
        fetch: Called with chunks that will be needed, in their order, when a window is entered: its own and those of
            the next one.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        train: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        chunks: NDArray[np.int64] | None = None,
        fetch: Callable[[NDArray[np.int64]], None] | None = None,
    ) -> None:
        samples: Any = range(size)
        super().__init__(samples, num_replicas=world_size, rank=rank, shuffle=train, seed=seed)
        self.size = size
        self.batch_size = batch_size
        self.train = train
        self.chunks, self.fetch = chunks, fetch
        self.batches_done = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def skip_batches(self, count: int) -> None:
        """Leave out the first `count` batches of the next iteration, and of that one alone. `len` stays."""
        self.batches_done = count

    def __len__(self) -> int:
        if not self.train:
            return len(range(self.rank, self.size, self.num_replicas))
        per_process = self.size // self.num_replicas
        return per_process - per_process % self.batch_size if per_process >= self.batch_size else per_process

    def __iter__(self) -> Iterator[Key]:
        epoch, done = self.epoch, self.batches_done
        self.batches_done = 0
        if self.train:
            self.epoch = epoch + 1
        if self.chunks is None:
            order = permutation(self.seed, epoch, self.size) if self.train else np.arange(self.size)
            for index in self._mine(order, done).tolist():
                yield epoch, index
            return
        sequence = self._sequence(epoch)
        places = np.empty_like(sequence)
        places[sequence] = np.arange(len(sequence))
        windows = places[self.chunks] // WINDOW
        order = permutation(self.seed, epoch, self.size, groups=windows) if self.train else np.arange(self.size)
        mine, entered = self._mine(order, done), None
        for index, window in zip(mine.tolist(), windows[mine].tolist(), strict=True):
            if window != entered and self.fetch is not None:
                entered = window
                soon = sequence[window * WINDOW : (window + 2) * WINDOW]
                if self.train and len(soon) <= WINDOW:  # the last one
                    soon = np.concatenate([soon, self._sequence(epoch + 1)[:WINDOW]])
                self.fetch(soon)
            yield epoch, index

    def _mine(self, order: NDArray[np.int64], batches_done: int) -> NDArray[np.int64]:
        return order[self.rank :: self.num_replicas][: len(self)][batches_done * self.batch_size :]

    def _sequence(self, epoch: int) -> NDArray[np.int64]:
        """Return the chunks in the order of their windows in an epoch."""
        assert self.chunks is not None
        count = int(self.chunks.max()) + 1
        return permutation(self.seed, epoch, count, "chunks") if self.train else np.arange(count)
