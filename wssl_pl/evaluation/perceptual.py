"""LPIPS and FID from weights on disk: torchmetrics' implementations, without its downloads."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wssl_pl.errors import WSSLError
from wssl_pl.modules.checkpoint import read_tensors

LPIPS_MISSING = (
    "not measured: give lpips_weights=FILE, torchvision's AlexNet or VGG16 weights "
    "(https://download.pytorch.org/models/alexnet-owt-7be5be79.pth, .../vgg16-397923af.pth)"
)
FID_MISSING = (
    "not measured: give inception_weights=FILE, torch-fidelity's Inception weights "
    "(https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth)"
)
FIRST_CONVOLUTION: dict[tuple[int, ...], str] = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}


class LPIPS:
    """Learned perceptual distance (Zhang et al. 2018) over the features of AlexNet or VGG16.

    Args:
        path: torchvision's weights of either; which one is seen from their shapes.
        device: where it computes.

    Raises:
        WSSLError: the file does not hold such weights.
    """

    def __init__(self, path: str | Path, device: torch.device) -> None:
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        state = read_tensors(path, "lpips_weights")
        first = state.get("features.0.weight")
        self.net = FIRST_CONVOLUTION.get(tuple(first.shape), "") if first is not None else ""
        if not self.net:
            raise WSSLError("lpips_weights", path, "does not hold torchvision's AlexNet or VGG16")
        # `pnet_rand` leaves the backbone to us; the small linear layers come with torchmetrics.
        network = _NoTrainLpips(net=self.net, pnet_rand=True)  # type: ignore[arg-type]
        own = network.net.state_dict()
        # Slices keep the numbers of torchvision's layers: `slice2.3.weight` is `features.3.weight`.
        theirs = {key: f"features.{key.split('.', 1)[1]}" for key in own}
        for key, name in theirs.items():
            if name not in state or state[name].shape != own[key].shape:
                raise WSSLError("lpips_weights", path, f"lacks {name} of shape {tuple(own[key].shape)}")
        network.net.load_state_dict({key: state[source] for key, source in theirs.items()})
        self.network = network.to(device)

    @torch.inference_mode()
    def __call__(self, prediction: Tensor, image: Tensor) -> Tensor:
        """Return the distance of each pair `(B,)`, lower is better; both `(B, 3, H, W)` in [0, 1]."""
        output: Tensor = self.network(prediction, image, normalize=True).flatten()
        return output


class FID:
    """Fréchet inception distance (Heusel et al. 2017) of the predictions and of the composites from the truth.

    Args:
        path: torch-fidelity's Inception weights.
        device: where it computes.

    Raises:
        WSSLError: the file does not hold such weights, or torch-fidelity is not installed.
    """

    def __init__(self, path: str | Path, device: torch.device, features: int = 2048) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

        state = read_tensors(path, "inception_weights")
        # The library unpickles whatever the file holds; it is handed the tensors alone, in memory.
        tensors = io.BytesIO()
        torch.save(state, tensors)
        tensors.seek(0)
        try:
            inception: Any = NoTrainInceptionV3("inception-v3-compat", [str(features)], tensors)  # type: ignore[arg-type]
        except ModuleNotFoundError:
            raise WSSLError("inception_weights", path, "needs torch-fidelity", "pip install 'wssl-pl[fid]'") from None
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise WSSLError("inception_weights", path, f"does not fit torch-fidelity's Inception: {reason}") from None
        inception.num_features = features
        self.raw = FrechetInceptionDistance(feature=inception).to(device)
        self.composite = FrechetInceptionDistance(feature=inception).to(device)

    @torch.inference_mode()
    def update(self, prediction: Tensor, composited: Tensor, image: Tensor) -> None:
        """Add a batch, each `(B, 3, H, W)` in [0, 1]."""
        self.raw.update(_bytes(image), real=True)
        self.raw.update(_bytes(prediction), real=False)
        self.composite.update(_bytes(composited), real=False)

    def compute(self) -> dict[str, float]:
        """Return `fid` and `fid_composite`; NaN for fewer than two images."""
        for name in ("sum", "cov_sum", "num_samples"):
            setattr(self.composite, f"real_features_{name}", getattr(self.raw, f"real_features_{name}"))
        if self.raw.real_features_num_samples < 2:
            return {"fid": float("nan"), "fid_composite": float("nan")}
        return {"fid": self.raw.compute().item(), "fid_composite": self.composite.compute().item()}


def _bytes(images: Tensor) -> Tensor:
    return images.mul(255.0).round().to(torch.uint8)
