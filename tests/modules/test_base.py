import pytest
import torch

from wssl_pl.errors import UsageError
from wssl_pl.modules import InpaintModule
from wssl_pl.modules.base import cosine


class Trainer:
    """As much of a trainer as `configure_optimizers` asks for."""

    estimated_stepping_batches = 8
    global_step = 0


@pytest.fixture
def module():
    module = InpaintModule(width=4, freeze_layers=0, lr=1e-2, encoder_lr=1e-3, lr_schedule="cosine")
    module._trainer = Trainer()
    return module


def test_the_cosine_at_its_ends_and_in_the_middle():
    assert [cosine(step, 8) for step in (0, 4, 8, 9)] == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-12)


def test_all_learning_rates_fall_along_the_cosine(module):
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    reference = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-2)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=8)
    for _ in range(8):
        encoder, decoder = (group["lr"] for group in optimizer.param_groups)
        assert decoder == pytest.approx(expected.get_last_lr()[0], abs=1e-9)
        assert encoder == pytest.approx(0.1 * decoder, abs=1e-9)
        for each in (optimizer, schedule, reference, expected):
            each.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]


def test_a_run_resumed_with_a_cosine_goes_on_along_it_and_not_from_its_beginning(module):
    configured = module.configure_optimizers()
    module._trainer.global_step = 6  # after five steps at a constant rate and one of this schedule
    configured["optimizer"].step()
    configured["lr_scheduler"]["scheduler"].step()
    assert configured["optimizer"].param_groups[1]["lr"] == pytest.approx(1e-2 * cosine(6, 8))


def test_a_cosine_needs_an_end(module):
    module._trainer.estimated_stepping_batches = float("inf")
    with pytest.raises(UsageError, match=r"lr_schedule=cosine needs an end: give trainer\.max_epochs"):
        module.configure_optimizers()


def test_a_constant_rate_has_no_schedule():
    assert isinstance(InpaintModule(width=4).configure_optimizers(), torch.optim.Adam)
