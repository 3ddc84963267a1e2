"""Features in which the downstream stage compares images: of VGG16, AlexNet or a pretext encoder, from a file."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wssl_pl.errors import WSSLError
from wssl_pl.foreign_weights import VARIABLE, find_weights
from wssl_pl.modules.checkpoint import read_checkpoint, read_tensors
from wssl_pl.modules.encoder import load_encoder
from wssl_pl.networks import pad_to_multiple

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FORMS = (
    "give features=vgg16:FILE or alexnet:FILE (torchvision's weights; without :FILE they are searched in "
    f"{VARIABLE} and torch hub's cache), or features=pretext:CKPT (needs no foreign weights)"
)
PRETEXT = "pretext"


@dataclass(frozen=True)
class Network:
    """A network of torchvision whose features are compared.

    Attributes:
        name: torchvision's function.
        layers: how many of its `features` are used.
        after: the features are those after each layer of this type.
        url: of its weights.
    """

    name: str
    layers: int
    after: type[nn.Module]
    url: str

    @property
    def remedy(self) -> str:
        """What to do where the weights are missing."""
        return f"get {self.url}, or train without: --model.perceptual=0 --model.style=0"


NETWORKS = {
    # PConv (Liu et al. 2018) compares after the first three poolings.
    "vgg16": Network("vgg16", 17, nn.MaxPool2d, "https://download.pytorch.org/models/vgg16-397923af.pth"),
    # LPIPS (Zhang et al. 2018) compares after the five ReLUs.
    "alexnet": Network("alexnet", 12, nn.ReLU, "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"),
}


class TorchvisionFeatures(nn.Module):
    """VGG16 (Simonyan and Zisserman 2015) or AlexNet (Krizhevsky 2014) up to the last of the features.

    Args:
        kind: a key of `NETWORKS`.
        path: torchvision's weights, whole or only those of the convolutions, of any float type.

    Raises:
        WSSLError: the file is missing or does not hold them.
    """

    def __init__(self, kind: str, path: str) -> None:
        super().__init__()
        from torchvision import models

        network = NETWORKS[kind]
        remedy = network.remedy
        state = {name: value.float() for name, value in read_tensors(path, "features", remedy).items()}
        with torch.device("meta"):  # without the fully connected layers, 500 MB in VGG16
            self.layers = getattr(models, network.name)(weights=None).features[: network.layers]
        own = self.layers.state_dict()
        for name, value in own.items():
            found = state.get(f"features.{name}")
            if found is None or found.shape != value.shape:
                reason = f"lacks features.{name} of shape {tuple(value.shape)} of torchvision's {network.name}"
                raise WSSLError("features", f"{kind}:{path}", reason, remedy)
        self.layers.load_state_dict({name: state[f"features.{name}"] for name in own}, assign=True)
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.after = network.after
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of images `(B, 3, H, W)` in [0, 1].

        Of VGG16 `(B, 64, H/2, W/2)`, `(B, 128, H/4, W/4)` and `(B, 256, H/8, W/8)`; of AlexNet five, the first of
        about H/4 x W/4, two of H/8 x W/8 and of H/16 x W/16.
        """
        x, features = (images - self.mean) / self.std, []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, self.after):
                features.append(x)
        return features


class PretextFeatures(nn.Module):
    """The encoder of a pretext checkpoint: images to its skips and last features.

    Args:
        path: the checkpoint.

    Raises:
        WSSLError: see `read_checkpoint`.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        start = read_checkpoint(path, stage="pretext", name="features")
        typed = dict.fromkeys(("encoder", "width", "norm", "block", "mask_channel", "fill"))
        self.encoder, settings, _ = load_encoder(start, path, typed, "he")
        self.mask_channel = bool(settings["mask_channel"])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the five skips and the last features of images `(B, 3, H, W)` in [0, 1], of any size."""
        padded = pad_to_multiple(images)
        if self.mask_channel:  # nothing is masked
            padded = torch.cat([padded, torch.zeros_like(padded[:, :1])], dim=1)
        features, skips = self.encoder(padded)
        return [*skips, features]


def absolute_features(name: str | None, ckpt: str | None) -> str | None:
    """Return the name of features with the absolute path of their file.

    Args:
        name: `vgg16:FILE`, `alexnet:FILE`, `pretext:CKPT`, or `pretext`, the encoder of `ckpt`; anything else is
            returned as it is.
        ckpt: the pretext checkpoint of the run, or `none`.

    Raises:
        WSSLError: `pretext` without a pretext checkpoint.
    """
    if name == PRETEXT:
        if ckpt in (None, "none"):
            raise WSSLError(
                "features", name, "is the encoder of ckpt=, and there is none", "give features=pretext:CKPT"
            )
        name = f"{PRETEXT}:{ckpt}"
    kind, colon, path = (name or "").partition(":")
    return f"{kind}:{Path(path).absolute()}" if colon and path else name


def load_features(name: str | None) -> nn.Module:
    """Return a network without gradient of its own, in evaluation mode, from images to a list of features.

    Args:
        name: `vgg16:FILE`, `alexnet:FILE` or `pretext:CKPT`; of the first two without a file the weights that
            `find_weights` finds.

    Raises:
        WSSLError: none of them, or the file is missing or cannot be used.
    """
    kind, _, path = (name or "").partition(":")
    if kind in NETWORKS and not path:
        found = find_weights(kind)
        if found is None:
            reason = f"no weights found in {VARIABLE} or torch hub's cache"
            raise WSSLError("features", name, reason, NETWORKS[kind].remedy)
        path = str(found)
    if kind not in (PRETEXT, *NETWORKS) or not path:
        raise WSSLError("features", name, "names no features", FORMS)
    network = PretextFeatures(path) if kind == PRETEXT else TorchvisionFeatures(kind, path)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
