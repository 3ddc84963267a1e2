"""LPIPS, FID and KID from weights on disk: torchmetrics' implementations, without its downloads."""

import io
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.results import Weights
from wssl_pl.files import sha256
from wssl_pl.foreign_weights import VARIABLE, find_weights
from wssl_pl.modules.checkpoint import read_tensors

OFF = "none"
"""What to give as `lpips_weights` or `inception_weights` where the metric is not wanted."""
NETWORKS: dict[tuple[int, ...], str] = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}
"""LPIPS's name of the network by the shape of its first convolution."""
ROWS = 2048  # of features in memory at once
MIN_SIDES = {"alex": 31, "vgg": 16}
"""Side in pixels of the smallest image whose features still have a pixel."""


def weights_of(path: str | Path, network: str) -> Weights:
    """Return what a result keeps of a file of weights."""
    return Weights(Path(path).name, sha256(Path(path)), network)


Metric = TypeVar("Metric", "LPIPS", "FID")


def open_metric(kind: type[Metric], given: str | None, device: torch.device) -> tuple[Metric | None, list[str]]:
    """Return LPIPS or FID with the weights that `find_weights` finds, or None; and a line that says why it is off.

    Raises:
        WSSLError: the weights that were given, or `WSSL_WEIGHTS`, cannot be used.
    """
    path = find_weights(*kind.networks) if given is None else None if given == OFF else Path(given)
    if path is None:
        return None, [f"{kind.label} not measured: " + (f"{kind.parameter}={OFF}" if given else kind.missing)]
    try:
        return kind(path, device), []
    except WSSLError as error:
        if given is not None:
            raise
        return None, [f"{kind.label} not measured: {error}"]


class LPIPS:
    """Learned perceptual distance (Zhang et al. 2018) over the features of AlexNet or VGG16.

    Args:
        path: torchvision's weights of either; which one is seen from their shapes.
        device: where it computes.

    Raises:
        WSSLError: the file does not hold such weights.
    """

    label, parameter = "LPIPS", "lpips_weights"
    networks: ClassVar = ("alexnet", "vgg16")
    missing = (
        f"no weights found: give lpips_weights=FILE or {VARIABLE}=FOLDER, or put torchvision's AlexNet or VGG16 into "
        "torch hub's cache (https://download.pytorch.org/models/alexnet-owt-7be5be79.pth, .../vgg16-397923af.pth)"
    )

    def __init__(self, path: str | Path, device: torch.device) -> None:
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        state = read_tensors(path, "lpips_weights")
        first = state.get("features.0.weight")
        net = NETWORKS.get(tuple(first.shape)) if first is not None else None
        if net is None:
            raise WSSLError("lpips_weights", path, "does not hold torchvision's AlexNet or VGG16")
        # `pnet_rand` leaves the backbone to us; the small linear layers come with torchmetrics.
        network = _NoTrainLpips(net=net, pnet_rand=True)  # type: ignore[arg-type]
        own = network.net.state_dict()
        # Slices keep the numbers of torchvision's layers: `slice2.3.weight` is `features.3.weight`.
        theirs = {key: f"features.{key.split('.', 1)[1]}" for key in own}
        for key, name in theirs.items():
            if name not in state or state[name].shape != own[key].shape:
                raise WSSLError("lpips_weights", path, f"lacks {name} of shape {tuple(own[key].shape)}")
        network.net.load_state_dict({key: state[source] for key, source in theirs.items()})
        self.network, self.min_side = network.to(device), MIN_SIDES[net]
        self.weights = weights_of(path, net)

    @torch.inference_mode()
    def __call__(self, prediction: Tensor, image: Tensor) -> Tensor:
        """Return the distance of each pair `(B,)`, lower is better; both `(B, 3, H, W)` in [0, 1].

        It is NaN for images that are too small for the network.
        """
        if min(image.shape[-2:]) < self.min_side:
            return image.new_full((len(image),), torch.nan)
        output: Tensor = self.network(prediction, image, normalize=True).flatten()
        return output


class Features:
    """Features of images `(N, D)`, in a temporary file.

    Attributes:
        shape: N and D.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self.shape = (0, 0)

    def __len__(self) -> int:
        return self.shape[0]

    def add(self, rows: Tensor) -> None:
        """Add rows `(B, D)` of float32."""
        self._file.seek(0, io.SEEK_END)
        self._file.write(rows.contiguous().numpy().tobytes())
        self.shape = len(self) + rows.shape[0], rows.shape[1]

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield the rows, so many at once."""
        for start in range(0, len(self), size):
            wanted = min(size, len(self) - start), self.shape[1]
            self._file.seek(4 * start * self.shape[1])
            read = bytearray(self._file.read(4 * wanted[0] * wanted[1]))
            yield torch.frombuffer(read, dtype=torch.float32).view(wanted)


class FID:
    """Distances of the predictions and of the composites from the truth, as sets, in Inception's features.

    FID is the Fréchet distance (Heusel et al. 2017), KID the kernel distance (Bińkowski et al. 2018).

    Args:
        path: torch-fidelity's Inception weights.
        device: where it computes.
        features: which of Inception's features, by their number.

    Raises:
        WSSLError: the file does not hold such weights, or torch-fidelity is not installed.
    """

    label, parameter = "FID and KID", "inception_weights"
    networks: ClassVar = ("inception",)
    missing = (
        f"no weights found: give inception_weights=FILE or {VARIABLE}=FOLDER, or put torch-fidelity's Inception into "
        "torch hub's cache (https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth)"
    )

    def __init__(self, path: str | Path, device: torch.device, features: int = 2048) -> None:
        from torchmetrics.image.fid import NoTrainInceptionV3

        state = read_tensors(path, "inception_weights")
        # The library unpickles whatever the file holds; it is handed the tensors alone, in memory.
        tensors = io.BytesIO()
        torch.save(state, tensors)
        tensors.seek(0)
        try:
            network: Any = NoTrainInceptionV3("inception-v3-compat", [str(features)], tensors)  # type: ignore[arg-type]
        except ModuleNotFoundError:
            raise WSSLError("inception_weights", path, "needs torch-fidelity", "pip install 'wssl-pl[fid]'") from None
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise WSSLError("inception_weights", path, f"does not fit torch-fidelity's Inception: {reason}") from None
        self.network = network.to(device)
        self.weights = weights_of(path, "inception")
        self.features: dict[str, Features] = {}

    @torch.inference_mode()
    def update(self, **images: Tensor) -> None:
        """Add a batch `(B, 3, H, W)` in [0, 1] of each kind: `image` is the truth, the others are compared with it."""
        for kind, batch in images.items():
            features = self.network(batch.mul(255.0).round().to(torch.uint8))
            self.features.setdefault(kind, Features()).add(features.flatten(1).cpu())

    def compute(self) -> dict[str, float]:
        """Return `fid` and `kid` of `prediction`, and those of any other kind by its name: `fid_composite`.

        They are NaN for fewer than two images.
        """
        found = dict(self.features)
        image = found.pop("image")
        distances = {"fid": frechet_distance, "kid": kernel_distance}
        return {
            name if kind == "prediction" else f"{name}_{kind}": distance(image, features)
            for name, distance in distances.items()
            for kind, features in found.items()
        }


Rows = Tensor | Features


def frechet_distance(first: Rows, second: Rows, chunk: int = ROWS) -> float:
    """Return the Fréchet distance of two sets of features `(N, D)`, by torchmetrics; NaN for fewer than two rows."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    if len(first) < 2:
        return math.nan
    as_they_are: Any = nn.Identity()
    as_they_are.num_features = first.shape[1]
    metric = FrechetInceptionDistance(feature=as_they_are, sync_on_compute=False)  # one process has all features
    for features, real in ((first, True), (second, False)):
        for rows in features.split(chunk):
            metric.update(rows, real=real)
    return float(metric.compute())


def kernel_distance(first: Rows, second: Rows, chunk: int = ROWS) -> float:
    """Return the squared maximum mean discrepancy of paired features `(N, D)` for the kernel (a.b / D + 1)^3.

    The unbiased U-statistic (Gretton et al. 2012, equation 4): an image is not compared with itself, nor with the
    output for it, which is not independent of it. The estimate over all pairs, torchmetrics' for one, would be negative
    where both sets are the same. NaN for fewer than two rows.

    Example:
        >>> x = torch.eye(2)
        >>> kernel_distance(x, x), kernel_distance(x, 2.0 * x)
        (0.0, 0.0)
    """
    count, size = first.shape
    if count < 2:
        return math.nan

    def others(a: Rows, b: Rows) -> float:
        """Return the sum of the kernel over all pairs of different numbers."""
        total = 0.0
        for number, rows in enumerate(a.split(chunk)):
            for other, columns in enumerate(b.split(chunk)):
                kernel = (rows.double() @ columns.double().T / size + 1.0).pow_(3)
                total += float(kernel.sum() - kernel.trace()) if number == other else float(kernel.sum())
        return total

    total = others(first, first) + others(second, second) - 2.0 * others(first, second)
    return total / (count * (count - 1))
