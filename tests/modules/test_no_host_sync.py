"""A training step never makes the host wait for the device.

Where there is no GPU, the step runs on fake tensors that say they lie on one: what asks for a value (`.item()`, `if`
over a tensor, a boolean index) fails there, and every copy between host and device is seen.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins import Precision
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric

from wssl_pl.callbacks import EMAWeights, OnlineProbe
from wssl_pl.data import WSSLDataModule
from wssl_pl.metrics import HolePSNR, RankMe
from wssl_pl.metrics.gaussian import band
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.modules.adversarial import Adversary
from wssl_pl.modules.rivals.pconv import PConvModule
from wssl_pl.modules.rivals.pic import PICModule
from wssl_pl.modules.rivals.shift_net import ShiftNetModule
from wssl_pl.networks import LightDecoder
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
    band.cache_clear()  # a matrix that is kept belongs to one such context
    with FakeTensorMode() as fake:
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    moved = torch.empty(parameter.shape, device="cuda")
                    part._parameters[name] = torch.nn.Parameter(moved, requires_grad=parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
            if isinstance(part, Metric):
                for name, state in part._defaults.items():
                    setattr(part, name, torch.empty(state.shape, dtype=state.dtype, device="cuda"))
        yield fake
    band.cache_clear()


def raw_batch(device):
    """A batch as it arrives on the device."""
    return {
        "image": torch.zeros(BATCH, RESIZE, RESIZE, 3, dtype=torch.uint8, device=device).movedim(-1, 1),
        "mask": torch.zeros(BATCH, 1, SIZE, SIZE, dtype=torch.uint8, device=device),
        "crop": torch.ones(BATCH, 2, dtype=torch.int64, device=device),
        "random": torch.zeros(BATCH, 16, dtype=torch.int32, device=device),
        "index": torch.zeros(BATCH, dtype=torch.int64, device=device),
    }


def step(module, margin=True, device="cuda"):
    data = WSSLDataModule(images="synthetic", masks="synthetic", image_size=SIZE, resize=RESIZE, batch_size=BATCH)
    data.crop_margin = module.crop_margin if margin else 0
    module.log = lambda *args, **kwargs: None
    return lambda: module.training_step(data.on_after_batch_transfer(raw_batch(device), 0), 0)


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
    "joint": lambda: InpaintModule(
        freeze_layers=0, loss="log_cosh", width=2, restore=["jpeg"], task_loss=1.0, tasks=["jpeg", "rotation"]
    ),
    "pconv": lambda: PConvModule(width=2, downs=4, perceptual=0.0, style=0.0, second_phase=0.0),
    "pic": lambda: PICModule(width=2, adversarial=0.0),
    "shift_net": lambda: ShiftNetModule(width=2, adversarial=0.0),
}


@pytest.fixture(params=MODULES)
def module(request):
    return MODULES[request.param]()


def test_a_step_neither_waits_for_a_value_nor_copies(module):
    assert traced(module).shape == ()


def test_a_step_without_a_margin_around_the_crop_does_neither():
    assert traced(PretextModule(width=2), margin=False).shape == ()


def test_measuring_a_batch_with_the_online_probe_does_neither():
    module = PretextModule(width=2, probe_steps=1)
    decoder = LightDecoder(module.encoder.out_channels).eval()
    probe, trainer = OnlineProbe(1), SimpleNamespace(precision_plugin=Precision())
    probe._decoder, probe._psnr, probe._mean_fill = decoder, HolePSNR(), HolePSNR()
    probe._rankme = RankMe(module.encoder.out_channels[-1])
    batch = {"image": (BATCH, 3, SIZE, SIZE), "mask": (BATCH, 1, SIZE, SIZE)}
    parts = torch.nn.ModuleList([module, decoder, probe._psnr, probe._mean_fill, probe._rankme])
    with fake_device(parts), NoCopies():
        on_device = {name: torch.zeros(shape, device="cuda") for name, shape in batch.items()}
        probe.on_validation_batch_end(trainer, module, None, on_device, 0)
        assert probe._rankme.gram.device.type == "cuda"


def test_a_step_against_a_discriminator_does_neither(monkeypatch):
    # Without a GPU nothing can be differentiated on one.
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: None)
    module = InpaintModule(freeze_layers=0, width=2, adversarial=0.1)
    adversary = module.adversary = Adversary(module.make_discriminator(), torch.device("cpu"))
    module.log = lambda *args, **kwargs: None
    with fake_device(torch.nn.ModuleList([module, adversary.network])), NoCopies():
        adversary.recent = torch.zeros(3, device="cuda")
        assert step(module)().shape == ()
        for parameter in adversary.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        module._trainer = SimpleNamespace(
            world_size=1, gradient_clip_val=1.0, gradient_clip_algorithm=None, precision_plugin=Precision()
        )
        adversary.optimizer = torch.optim.Adam(adversary.network.parameters(), foreach=True)
        module.on_before_optimizer_step(torch.optim.Adam(module.decoder.parameters()))


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


def validate(module, device="cuda"):
    data = WSSLDataModule(images="synthetic", masks="synthetic", image_size=SIZE, resize=RESIZE, batch_size=BATCH)
    module.eval()
    with torch.no_grad():
        module.validation_step(data.on_after_batch_transfer(raw_batch(device), 0), 0)


def test_a_validation_step_neither_waits_for_a_value_nor_copies(module):
    with fake_device(module), NoCopies():
        validate(module)


def test_the_average_of_the_weights_neither_waits_for_a_value_nor_copies():
    module, copy = both = torch.nn.ModuleList([PretextModule(["rotation"], width=2, norm="batch") for _ in range(2)])
    average = EMAWeights(0.9)
    with fake_device(both), NoCopies():
        average._average_model = SimpleNamespace(module=copy, n_averaged=torch.zeros((), device="cuda"))
        for first in (True, False):
            average._update(module, first)
        average._swap_models(module)


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [leaf.dtype for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        assert torch.float64 not in made, f"{func} makes float64, which MPS devices do not have"
        return result


def test_training_and_validation_work_without_float64(module):
    module.log_dict = lambda *args, **kwargs: None
    run = step(module, device="cpu")
    with NoFloat64():
        run().backward()
        validate(module, "cpu")
        module.on_validation_epoch_end()
    states = [state for metric in module.modules() if isinstance(metric, Metric) for state in metric._defaults.values()]
    assert states
    assert torch.float64 not in {state.dtype for state in states}


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
