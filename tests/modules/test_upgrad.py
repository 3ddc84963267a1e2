"""Steps of UPGrad: on a hand example, against an ordinary step, and in small runs."""

import sys

import pytest
import torch
from torch import nn

from wssl_pl.errors import WSSLError
from wssl_pl.modules import PretextModule
from wssl_pl.modules.upgrad import UPGrad


def batch(count=8, size=32):
    return {"image": torch.rand(count, 3, size, size), "random": torch.rand(count, 16)}


class Pair(nn.Module):
    """Two tasks on two shared numbers, each with a head of one number; gradients (1, 0) and (-2, 1) at the start."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Parameter(torch.zeros(2))
        self.heads = nn.ParameterList([torch.ones(1), torch.ones(1)])

    def losses(self):
        features = self.shared * 1.0
        x, y = features
        return {"one": (self.heads[0] * x).sum(), "other": (self.heads[1] * (y - 2.0 * x)).sum()}, features


def step(pair, gradient):
    with torch.no_grad():
        pair.shared -= 0.01 * gradient
    return {name: loss.item() for name, loss in pair.losses()[0].items()}


def test_no_loss_rises_where_gradients_conflict():
    pair = Pair()
    upgrad = UPGrad()
    losses, features = pair.losses()
    weights = upgrad.backward(losses, features, [pair.shared], [[head] for head in pair.heads])
    # The sum of the gradients, (-1, 1), would raise the first task's loss.
    assert step(Pair(), torch.tensor([-1.0, 1.0]))["one"] > 0
    # By hand: the projection of (1, 0) is (0.2, 0.4), that of (-2, 1) is (0, 1); halved and added.
    assert pair.shared.grad.tolist() == pytest.approx([0.1, 0.7], abs=1e-3)
    assert weights["one"] > weights["other"] > 0
    assert max(step(pair, pair.shared.grad).values()) < 0


def test_a_head_gets_the_gradient_of_its_own_task():
    pair = Pair()
    pair.shared.data = torch.tensor([2.0, 5.0])
    upgrad = UPGrad()
    losses, features = pair.losses()
    upgrad.backward(losses, features, [pair.shared], [[head] for head in pair.heads])
    assert [head.grad.item() for head in pair.heads] == [2.0, 1.0]


class Optimisers:
    """What the module asks its trainer for in manual optimisation."""

    def __init__(self, module, monkeypatch):
        optimizer = module.configure_optimizers()
        monkeypatch.setattr(module, "optimizers", lambda: optimizer)
        monkeypatch.setattr(module, "lr_schedulers", lambda: None)
        monkeypatch.setattr(module, "log", lambda name, value, **kwargs: self.logged.__setitem__(name, value))
        self.optimizer, self.logged = optimizer, {}


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_with_one_task_it_is_an_ordinary_step(monkeypatch, norm):
    data = batch()
    fixed, upgrad = (PretextModule(["rotation"], width=4, lr=0.01, norm=norm, weighting=w) for w in ("fixed", "upgrad"))
    upgrad.load_state_dict(fixed.state_dict())
    optimisers = [Optimisers(module, monkeypatch) for module in (fixed, upgrad)]
    for _ in range(2):
        optimisers[0].optimizer.zero_grad()
        fixed.training_step(data, 0).backward()
        optimisers[0].optimizer.step()
        upgrad.training_step(data, 0)
    for (name, expected), got in zip(fixed.named_parameters(), upgrad.parameters(), strict=True):
        assert torch.allclose(got, expected, atol=1e-4), name
    assert optimisers[1].logged["train/weight/rotation"].item() == pytest.approx(1.0, abs=1e-3)


def test_the_jacobians_are_not_rounded_under_autocast(monkeypatch):
    module = PretextModule(["rotation", "saturation"], width=4, weighting="upgrad")
    Optimisers(module, monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module.training_step(batch(), 0)
    gradient = module.encoder.stages[0].first.conv.weight.grad
    assert gradient.dtype == torch.float32
    assert not torch.equal(gradient, gradient.bfloat16().float())


@pytest.mark.parametrize("missing", ["torchjd", "quadprog"])
def test_a_package_that_is_not_there(missing, monkeypatch):
    if missing == "torchjd":
        monkeypatch.setitem(sys.modules, "torchjd", None)
    else:
        from torchjd import _mixins

        find = _mixins.find_spec
        monkeypatch.setattr(_mixins, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(WSSLError, match=r"pip install 'torchjd\[quadprog-projector\]"):
        PretextModule(["rotation"], width=4, weighting="upgrad")
