import ddp
import pytest
import torch
from ceilings import count_flops, training_flops
from ddp import all_reduce_seconds, as_markdown, efficiency, gradient_bytes, model


def test_the_model_by_hand():
    # 100 MB over 25 Gbit/s: 0.032 s one way; two GPUs send half of it twice, four three quarters twice.
    assert all_reduce_seconds(1, 1e8, 25, 1e-5) == 0.0
    assert all_reduce_seconds(2, 1e8, 25, 0.0) == pytest.approx(0.032)
    assert all_reduce_seconds(4, 1e8, 25, 1e-3) == pytest.approx(1.5 * 0.032 + 6e-3)
    assert efficiency(0.032, 0.064, 0.032, overlap=False) == pytest.approx(0.096 / 0.128)
    assert efficiency(0.032, 0.064, 0.032, overlap=True) == pytest.approx(1.0)
    assert efficiency(0.008, 0.016, 0.032, overlap=True) == pytest.approx(0.024 / (0.008 + 0.032))
    assert efficiency(0.008, 0.016, 0.0, overlap=False) == 1.0


def test_the_operations_of_the_two_passes():
    # A backward pass takes the gradients of weights and inputs, but none in a frozen encoder.
    forward, backward = count_flops("pretext", 64, 224)
    assert backward / forward == pytest.approx(2, abs=0.05)
    assert training_flops("pretext", 64, 224) == forward + backward
    forward, backward = count_flops("downstream", 64, 224)
    assert 1.3 < backward / forward < 1.5


def test_the_gradients_that_are_exchanged():
    layers = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2).requires_grad_(False))
    assert gradient_bytes(layers) == 4 * (3 * 5 + 5)


def test_the_table():
    rows = model({"slow": 1.0, "fast": 1000.0}, batch=2, size=32, tflops=1.0, latency_s=0.0, widths=(2,))
    slow, fast = rows[:2]
    assert slow["efficiency"][64][0] < fast["efficiency"][64][0] <= fast["efficiency"][64][1] <= 1.0
    lines = as_markdown(rows).splitlines()
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.slow
def test_two_processes_are_measured():
    found = ddp.measure("downstream", 2, batch=2, size=32, steps=2, processes=2)
    assert found["bytes"] > 0
    assert 0.0 < found["all_reduce"]
    assert found["images_per_s"] == pytest.approx(4 / found["step"])
