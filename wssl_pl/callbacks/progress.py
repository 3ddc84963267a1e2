"""How often the progress bar is drawn."""

from collections.abc import Sequence

import torch
from lightning.pytorch.callbacks import Callback, ProgressBar, TQDMProgressBar

GPU_REFRESH = 20


def progress_bars(accelerator: str, configured: Sequence[Callback]) -> list[Callback]:
    """A bar that is drawn every 20 steps for a GPU; none for a CPU, or beside one that was configured.

    Lightning's own bar is drawn after every step and shows the loss, for which the host waits until the GPU has
    computed it, so that the next step's kernels are not yet there when the GPU could begin with them.

    Args:
        accelerator: Lightning's name of it: `auto`, `cpu`, `gpu`, `cuda`, `mps`.
        configured: the callbacks that the user asked for.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if not on_gpu or any(isinstance(callback, ProgressBar) for callback in configured):
        return []
    return [TQDMProgressBar(refresh_rate=GPU_REFRESH)]
