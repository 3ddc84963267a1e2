"""The loggers of a run: TensorBoard and `metrics.csv` by default, and images to every logger that takes them."""

import csv
import importlib.util
import io
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from wssl_pl.errors import WSSLError
from wssl_pl.files import write_atomically

log = logging.getLogger(__name__)

# The packages of Lightning's loggers, which are imported under the same name.
PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet_ml", "LitLogger": "litlogger"}


class _AppendingWriter(ExperimentWriter):
    """Lightning's writer of `metrics.csv`, which keeps the rows of an existing file."""

    def _check_log_dir_exists(self) -> None:
        # Lightning deletes the file here.
        path = Path(self.metrics_file_path)
        if not path.is_file() or not path.stat().st_size:
            path.unlink(missing_ok=True)
            return
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the process was killed within a row
                file.write(b"\n")
        try:
            with path.open(newline="") as file:
                self.metrics_keys, *_ = csv.reader(file)  # all rows, which are read again when a metric is added
        except (ValueError, csv.Error):
            self.metrics_keys = []
            path.replace(path.with_name("metrics.damaged.csv"))
            log.warning("%s is damaged: it is kept as metrics.damaged.csv", path)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        # Lightning writes over the file, so that a full disk or a kill at this moment would cost all rows.
        path = Path(self.metrics_file_path)
        new = io.StringIO()
        writer = csv.DictWriter(new, fieldnames, extrasaction="ignore")
        writer.writeheader()
        with path.open(newline="") as old:
            writer.writerows(csv.DictReader(old))
        write_atomically(path, new.getvalue())


class RunCSVLogger(CSVLogger):
    """Writes `metrics.csv` into the run's directory; a resumed run appends to it.

    A row holds what was logged at one step; a cell is empty where a metric was not. A step that a resumed run repeats
    has more than one row for a metric; the last one counts.

    Args:
        directory: the run's directory.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(directory, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of the file."""
        if self._experiment is None:
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment  # type: ignore[return-value]

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Write nothing: the hyperparameters are in `config.yaml`."""


def default_loggers(directory: str) -> list[Logger]:
    """Return the loggers of a run for which none was configured; both write into its directory."""
    return [TensorBoardLogger(directory, name="", version="", default_hp_metric=False), RunCSVLogger(directory)]


def check_installed(class_paths: Iterable[str]) -> None:
    """Raise for a logger of Lightning whose package is not installed.

    Args:
        class_paths: of the configured loggers, e.g. `lightning.pytorch.loggers.WandbLogger`.

    Raises:
        WSSLError: a package is missing; the message has the command that installs it.
    """
    for path in class_paths:
        name = path.rpartition(".")[2]
        package = PACKAGES.get(name)
        if package is not None and importlib.util.find_spec(package) is None:
            remedy = f"run `pip install {package}`, or omit logger for TensorBoard and metrics.csv"
            raise WSSLError("logger", name, f"the package {package} is not installed", remedy)


def takes_images(logger: Logger) -> bool:
    """Return whether `log_image` can send an image to the logger; a `CSVLogger` takes none."""
    known = isinstance(logger, TensorBoardLogger | MLFlowLogger | CometLogger)
    return known or callable(getattr(logger, "log_image", None))


@rank_zero_only
def log_image(loggers: Iterable[Logger], tag: str, image: Tensor, step: int) -> None:
    """Send an image to every logger that takes images.

    Args:
        loggers: the trainer's loggers.
        tag: the name of the image, e.g. `val/images`.
        image: `(3, H, W)` in [0, 1], on the CPU.
        step: the training step.
    """
    for logger in filter(takes_images, loggers):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, image, step)
            continue
        drawn = to_pil_image(image)
        if isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, drawn, key=tag, step=step)
        elif isinstance(logger, CometLogger):
            logger.experiment.log_image(drawn, name=tag, step=step)
        else:
            # WandbLogger, and any other logger with its interface.
            logger.log_image(key=tag, images=[drawn], step=step)  # type: ignore[attr-defined]
