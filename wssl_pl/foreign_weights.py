"""Weights of other projects' networks, for losses and metrics: searched on disk, never downloaded."""

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from wssl_pl.errors import WSSLError
from wssl_pl.files import check_readable

VARIABLE = "WSSL_WEIGHTS"
FILES = {
    "alexnet": ("alexnet*.pth",),
    "vgg16": ("vgg16-*.pth", "vgg16_features.pth"),
    "inception": ("*inception-2015-12-05-*.pth",),
}
"""Names that the file of a network can have, the preferred one first: those of torchvision and of torch-fidelity."""


def find_weights(*networks: str) -> Path | None:
    """Return a file of one of the networks' weights, the first that is found.

    Looked for in the folder that `WSSL_WEIGHTS` names, or that file itself, then in torch hub's cache.

    Args:
        networks: keys of `FILES`, the preferred one first.

    Raises:
        WSSLError: the variable names nothing, or a file whose name is none of `FILES`.
    """
    patterns = [pattern for network in networks for pattern in FILES[network]]
    return next(_candidates(patterns), None)


def _candidates(patterns: Sequence[str]) -> Iterator[Path]:
    import torch

    folders = [Path(torch.hub.get_dir()) / "checkpoints"]
    if named := os.environ.get(VARIABLE):
        path, known = Path(named), [pattern for names in FILES.values() for pattern in names]
        check_readable(path, VARIABLE, "name a folder or a file of weights, or unset it")
        if path.is_dir():
            folders.insert(0, path)
        elif not any(fnmatch(path.name, pattern) for pattern in known):
            raise WSSLError(VARIABLE, named, "is no name of weights", f"name it as one of {', '.join(known)}")
        elif any(fnmatch(path.name, pattern) for pattern in patterns):
            yield path
    for folder in folders:
        for pattern in patterns:
            yield from sorted(folder.glob(pattern))
