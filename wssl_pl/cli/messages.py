"""Which messages of the libraries are not shown."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# What Lightning reports at every start and end; our own lines state device, precision, directory and result.
LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "lightning.fabric.utilities.distributed",
    "lightning.pytorch.accelerators.cuda",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)
MESSAGES = re.compile(
    r"(\[rank: \d+\] )?Seed set to "
    r"|GPU available: |TPU available: |LOCAL_RANK: "
    r"|Using (16bit|bfloat16) Automatic Mixed Precision"
    r"|.*try installing \[lit(logger|models)\]"
    r"|`Trainer\.\w+` stopped: `max_(steps|epochs)=.*` reached"
    r"|Restor(ing|ed all) states from the checkpoint|Loaded model weights from the checkpoint"
    r"|`weights_only` was not set|Found current_model_state in the checkpoint"
    r"|Your model can run with static graph optimizations"
    r"|Loading `train_dataloader` to estimate"
    r"|Initializing distributed: |-+\ndistributed_backend="
)
WARNINGS = (
    ".*does not have many workers.*",
    ".*in eval mode at the start of training.*",
    ".*number of training batches.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*The dirpath has changed from.*",  # see BestCheckpoint
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*WeightAveraging callback with a model that overrides the configure_model.*",  # ema with sharding is an error
)


class _KnownMessages(logging.Filter):
    """Lets all records pass but those of `MESSAGES`."""

    def filter(self, record: logging.LogRecord) -> bool:
        return MESSAGES.match(record.getMessage().strip()) is None


_FILTER = _KnownMessages()


def silence_messages() -> None:
    """Hide single messages of Lightning; whatever a user asks Lightning to report is shown."""
    # basicConfig leaves a program's own logging alone when there is some.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("wssl_pl").setLevel(logging.INFO)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def pillow_limit_lifted() -> Iterator[None]:
    """Lift Pillow's limit against decompression bombs, one for the whole process: ours is checked before it."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
