"""A training step never makes the host wait for the device.

Where there is no GPU, the step runs on fake tensors that say they lie on one: what asks for a value (`.item()`, `if`
over a tensor, a boolean index) fails there, and every copy between host and device is seen.
"""

from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wssl_pl.data import WSSLDataModule
from wssl_pl.metrics import BinnedMetrics
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.tasks import Saturation

SIZE, RESIZE, BATCH = 32, 36, 4
WAITS = (DataDependentOutputException, DynamicOutputShapeException)


class CopyBetweenHostAndDevice(Exception):
    """Such a copy waits for all work that the device has been given, unless its memory is pinned."""


class NoCopies(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given, made = (
            {leaf.device.type for leaf in tree_leaves(tensors) if isinstance(leaf, torch.Tensor) and leaf.dim()}
            for tensors in ((args, kwargs), result)
        )
        if given and made and given != made:
            raise CopyBetweenHostAndDevice(str(func))
        return result


@contextmanager
def fake_device(module):
    """Moves the module to a GPU that is not there, within the context."""
    with FakeTensorMode() as fake:
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    moved = torch.empty(parameter.shape, device="cuda")
                    part._parameters[name] = torch.nn.Parameter(moved, requires_grad=parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
        yield fake


def raw_batch():
    """A batch as it arrives on the device."""
    return {
        "image": torch.zeros(BATCH, RESIZE, RESIZE, 3, dtype=torch.uint8, device="cuda").movedim(-1, 1),
        "mask": torch.zeros(BATCH, 1, SIZE, SIZE, dtype=torch.uint8, device="cuda"),
        "crop": torch.ones(BATCH, 2, dtype=torch.int64, device="cuda"),
        "random": torch.zeros(BATCH, 16, dtype=torch.int32, device="cuda"),
        "index": torch.zeros(BATCH, dtype=torch.int64, device="cuda"),
    }


def step(module, margin=True):
    data = WSSLDataModule(images="sample", masks="sample", image_size=SIZE, resize=RESIZE, batch_size=BATCH)
    data.crop_margin = module.crop_margin if margin else 0
    module.log = lambda *args, **kwargs: None
    return lambda: module.training_step(data.on_after_batch_transfer(raw_batch(), 0), 0)


def traced(module, margin=True):
    run = step(module, margin)
    with fake_device(module), NoCopies():
        return run()


MODULES = {
    "pretext": lambda: PretextModule(width=2),
    "pretext options": lambda: PretextModule(width=2, weighting="uncertainty", pretext_holes=True, mask_channel=True),
    "log_cosh": lambda: InpaintModule(width=2, loss="log_cosh"),
    "wssl": lambda: InpaintModule(width=2, loss="wssl"),
    "downstream options": lambda: InpaintModule(
        freeze_layers=7, loss="log_cosh", width=2, consistency=1.0, mask_channel=True, unfreeze_epoch=1, encoder_lr=1e-5
    ),
}


@pytest.fixture(params=MODULES)
def module(request):
    return MODULES[request.param]()


def test_a_step_neither_waits_for_a_value_nor_copies(module):
    assert traced(module).shape == ()


def test_a_step_without_a_margin_around_the_crop_does_neither():
    assert traced(PretextModule(width=2), margin=False).shape == ()


def test_metrics_by_hole_ratio_neither_wait_for_a_value_nor_copy():
    metrics = BinnedMetrics(["psnr"])
    with fake_device(metrics), NoCopies():
        metrics.total, metrics.count = (torch.zeros(1, 7, device="cuda") for _ in range(2))
        metrics.update(torch.zeros(1, BATCH, device="cuda"), torch.zeros(BATCH, 1, SIZE, SIZE, device="cuda"))


PLANTED = {
    "item": (lambda images: images.sum().item(), WAITS),
    "if": (lambda images: bool((images > 0).any()), WAITS),
    "boolean index": (lambda images: images[images > 0], WAITS),
    "to the host": (lambda images: images.cpu(), CopyBetweenHostAndDevice),
    "from the host": (lambda images: images + torch.tensor([0.5], device=images.device), CopyBetweenHostAndDevice),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_the_trace_catches_what_is_planted(planted, monkeypatch):
    spoil, error = PLANTED[planted]
    monkeypatch.setattr(Saturation, "forward", lambda self, images, labels: (spoil(images), images)[1])
    with pytest.raises(error):
        traced(PretextModule(width=2))


@pytest.mark.gpu
def test_a_whole_step_on_a_gpu_makes_no_synchronising_call(module):
    module.cuda()
    optimizer = module.configure_optimizers()
    run, batches = step(module), 2
    try:
        for turn in range(batches):
            # The first step allocates and initialises, which may wait.
            torch.cuda.set_sync_debug_mode("error" if turn else "default")
            with torch.autocast("cuda", torch.bfloat16):
                loss = run()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_gpu_reports_a_planted_item():
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.zeros(1, device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
