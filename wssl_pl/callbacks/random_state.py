"""The global random generators, kept in the checkpoint so that a resumed run goes on where they stood."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class RandomState(Callback):
    """Saves and restores the states of Python's, NumPy's and PyTorch's global generators.

    Our own data path does not draw from them; a user's task or callback may.
    """

    def state_dict(self) -> dict[str, Any]:
        """The states in types that `weights_only=True` loads."""
        _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
        return {
            "python": random.getstate(),
            "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Sets the generators to the saved states."""
        version, internal, gauss = state_dict["python"]
        random.setstate((version, tuple(internal), gauss))
        keys, *rest = state_dict["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
        torch.set_rng_state(state_dict["torch"])
        if torch.cuda.is_available() and len(state_dict["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state_dict["cuda"])
