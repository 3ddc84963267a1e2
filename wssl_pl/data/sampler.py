"""Which samples a process sees in an epoch, and in which order."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DistributedSampler

from wssl_pl.data.draws import permutation

Key = tuple[int, int]


class KeySampler(DistributedSampler[Key]):
    """Yields (epoch, index): the epoch travels in the key, so that workers kept over epochs see the right one.

    In training, the epoch's order comes from (seed, epoch) and is cut to whole batches, the same number for every
    process; batch b of all processes together is batch b of one process with their joint batch size. A set that is
    smaller than one such batch is used as far as it divides by the number of processes. Otherwise the order is that of
    the indices, nothing is dropped and nothing repeated, so that an evaluation counts each sample once.

    In training, every iteration is one epoch further than the one before, unless `set_epoch` is called: a plain
    loop over the loader needs no call. It is a `DistributedSampler` so that Lightning and Fabric, which replace any
    other sampler when there are several processes, do not divide the samples a second time.

    Args:
        size: Number of samples in the set.
        batch_size: Samples per batch of one process.
        train: Shuffle and drop the incomplete last batch.
        seed: Seed of the order.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(
        self, size: int, batch_size: int, *, train: bool, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        samples: Any = range(size)
        super().__init__(samples, num_replicas=world_size, rank=rank, shuffle=train, seed=seed)
        self.size = size
        self.batch_size = batch_size
        self.train = train
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
        order = permutation(self.seed, epoch, self.size) if self.train else np.arange(self.size)
        mine = order[self.rank :: self.num_replicas][: len(self)][done * self.batch_size :]
        for index in mine.tolist():
            yield epoch, index
