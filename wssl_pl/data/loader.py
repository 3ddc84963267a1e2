"""The DataLoader of whole batches, which starts a resumed run at its position in the epoch."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from wssl_pl.data.sampler import KeySampler
from wssl_pl.errors import DataError

log = logging.getLogger(__name__)

Batch = dict[str, Any]


class BatchLoader(DataLoader[Any]):
    """A DataLoader over `PairedDataset`.

    Attributes:
        position: Returns (epoch, batches done in it) when an iteration starts, or None if that is not known: the
            sampler then counts the epochs. Iterating is lazy, so that it is called only when Lightning knows where a
            resumed run is.
        on_failed: Receives the errors of the files of a batch that could not be read; may raise.
    """

    position: Callable[[], tuple[int, int] | None] | None = None
    on_failed: Callable[[list[DataError]], None] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield the batches that are left of the epoch."""
        where = self.position() if self.position is not None else None
        if where is not None and isinstance(self.sampler, KeySampler):
            epoch, batches_done = where
            self.sampler.set_epoch(epoch)
            self.sampler.skip_batches(batches_done)
        for batch in super().__iter__():
            if "error" in batch:
                raise batch["error"]
            failed = batch.pop("failed")
            if failed and self.on_failed is not None:
                self.on_failed(failed)
            if len(batch["index"]) == 0:
                first = failed[0]
                reason = f"none of the images of a batch can be read; the first one, {first.value}, {first.reason}"
                raise DataError("images", None, reason)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return what must be the same for a resumed epoch to have the batches that were left."""
        return {"batches": len(self), "batch_size": self.batch_size or 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Warn when the rest of a resumed epoch cannot be what it would have been."""
        if state != self.state_dict():
            log.warning(
                "resumed with %s where the checkpoint had %s: the rest of this epoch is not what it would have been",
                self.state_dict(),
                state,
            )


def as_is(batch: Any) -> Any:
    """Collate function: the dataset returns whole batches."""
    return batch
