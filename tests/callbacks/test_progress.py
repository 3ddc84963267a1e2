import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar

from wssl_pl.callbacks import progress_bars


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_on_a_gpu_the_bar_is_not_drawn_after_every_step(gpu, accelerator):
    (bar,) = progress_bars(accelerator, [])
    assert bar.refresh_rate > 1


def test_on_a_cpu_lightnings_own_bar_stays(gpu):
    assert progress_bars("cpu", []) == []


def test_a_configured_bar_stays_alone(gpu):
    assert progress_bars("gpu", [TQDMProgressBar(refresh_rate=1)]) == []
