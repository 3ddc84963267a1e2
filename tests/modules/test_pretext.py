import itertools

import pytest
import torch

from wssl_pl.errors import WSSLError
from wssl_pl.modules import PretextModule
from wssl_pl.tasks import TASKS

PAPER = ["rotation", "saturation", "sharpness"]
COMBINATIONS = [combination for size in (1, 2, 3) for combination in itertools.combinations(PAPER, size)]


def batch(count=8, size=32):
    return {"image": torch.rand(count, 3, size, size), "random": torch.rand(count, 16)}


@pytest.fixture
def quiet(monkeypatch):
    """Modules that log into a dictionary instead of a trainer."""
    logged = {}
    monkeypatch.setattr(PretextModule, "log", lambda self, name, value, **kwargs: logged.__setitem__(name, value))
    monkeypatch.setattr(PretextModule, "log_dict", lambda self, figures, **kwargs: logged.update(figures))
    return logged


@pytest.mark.parametrize("tasks", COMBINATIONS)
def test_all_combinations_of_the_paper(tasks, quiet):
    module = PretextModule(list(tasks), width=4)
    loss = module.training_step(batch(), 0)
    loss.backward()
    assert set(module.heads) == set(tasks)
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert {f"train/loss/{task}" for task in tasks} | {f"train/accuracy/{task}" for task in tasks} <= set(quiet)


def test_the_loss_is_the_weighted_sum_of_the_cross_entropies(quiet):
    module = PretextModule(["sharpness", "rotation"], weights=[0.7, 0.3], width=4)
    loss = module.training_step(batch(), 0)
    expected = 0.7 * quiet["train/loss/sharpness"] + 0.3 * quiet["train/loss/rotation"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_an_untrained_head_is_at_chance(quiet):
    module = PretextModule(width=4)
    module.training_step(batch(64), 0)
    for task in PAPER:
        # log 4 = 1.386, the loss of guessing; a new head is not far off.
        assert 1.2 < quiet[f"train/loss/{task}"].item() < 2.5


def test_a_head_at_chance_is_named_at_the_end(quiet):
    module = PretextModule(["saturation", "masked"], width=4)
    module.validation_step(batch(32), 0)
    module.on_validation_epoch_end()
    assert module.remarks() == [
        "Still at chance: saturation, masked; train longer, or lower --model.lr, or use --model.norm=batch"
    ]
    known = {"saturation": torch.eye(4) * 8, "masked": torch.tensor([1.0, 2.0])}
    for name, state in known.items():
        module.val_tasks.states[name].update(state)
        module.val_tasks.losses[name].update(torch.tensor(1.0), count=1)
    module.on_validation_epoch_end()
    assert module.remarks() == []


def test_sharpness_beside_black_holes_gets_its_own_remedy(quiet):
    for fill, named in ((0.0, True), ("smooth", False)):
        module = PretextModule(["sharpness"], width=4, pretext_holes=True, fill=fill)
        module.val_tasks.latest = {"sharpness": torch.ones(4, 4)}
        assert ("--model.fill=smooth" in module.remarks()[0]) is named


def test_labels_belong_to_their_samples():
    module = PretextModule(["rotation"], width=4)
    images = torch.rand(16, 3, 32, 32)
    changed, record = module.transform(images, torch.rand(16, 16))
    assert len(record.targets["rotation"].unique()) > 1
    for before, after, label in zip(images, changed, record.targets["rotation"], strict=True):
        assert torch.equal(torch.rot90(after, -int(label), dims=(1, 2)), before)


def test_the_loss_compares_with_the_labels_of_the_same_samples(quiet, monkeypatch):
    module = PretextModule(["rotation", "saturation"], width=4)
    data = batch(32)
    _, record = module.transform(data["image"], data["random"])
    # A network that knows the answers: any shuffling of the labels would cost it.
    knows = {name: 50.0 * torch.nn.functional.one_hot(label, 4).float() for name, label in record.targets.items()}
    monkeypatch.setattr(PretextModule, "outputs", lambda self, images: (knows, images))
    assert module.training_step(data, 0).item() < 1e-6
    assert quiet["train/accuracy/rotation"] == quiet["train/accuracy/saturation"] == 1.0


def test_each_task_draws_its_own_label():
    _, record = PretextModule(width=4).transform(torch.rand(64, 3, 32, 32), torch.rand(64, 16))
    for one, other in itertools.combinations(record.targets.values(), 2):
        assert not torch.equal(one, other)


def test_validation_figures_are_exact_over_uneven_batches(quiet, monkeypatch):
    module = PretextModule(["saturation"], width=4)
    batches = [batch(6), batch(2)]
    whole = {key: torch.cat([part[key] for part in batches]) for key in batches[0]}
    for number, part in enumerate(batches):
        module.validation_step(part, number)
    module.on_validation_epoch_end()
    separate = dict(quiet)
    module.validation_step(whole, 0)
    module.on_validation_epoch_end()
    for name, value in quiet.items():
        assert value.item() == pytest.approx(separate[name].item(), abs=1e-5)
    assert module.val_tasks.latest["saturation"].sum() == 8


@pytest.mark.parametrize("name", ["masked", "autoencoder"])
def test_a_reconstruction_is_a_task_like_the_others(name, quiet):
    module = PretextModule(["rotation", name], weights=[1, 3], width=4)
    loss = module.training_step(batch(), 0)
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert loss.item() == pytest.approx(
        0.25 * quiet["train/loss/rotation"].item() + 0.75 * quiet[f"train/loss/{name}"].item(), rel=1e-6
    )
    assert {"train/accuracy/rotation", f"train/r2/{name}"} <= set(quiet)


def test_what_is_reconstructed_is_the_image_that_the_other_tasks_have_made():
    module = PretextModule(["masked", "rotation", "saturation"], width=4)
    others = PretextModule(["rotation", "saturation"], width=4)
    data = batch(size=48)
    images, record = module.transform(data["image"], data["random"])
    changed, before = others.transform(data["image"], data["random"])
    # The labels of a sample are the same with and without a task that comes later.
    assert all(torch.equal(before.targets[name], record.targets[name]) for name in before.targets)
    assert torch.equal(record.targets["masked"], changed)
    masked = (images == 0).all(dim=1, keepdim=True)
    assert torch.equal(record.mask, masked)
    assert before.mask is None
    assert torch.equal(images, changed * ~masked)
    assert masked.float().mean(dim=(1, 2, 3)).sub(0.4).abs().max() < 0.11


def test_the_best_checkpoint_is_by_the_mean_of_accuracy_and_r2(quiet):
    module = PretextModule(["rotation", "masked"], width=4)
    for number in range(2):
        module.validation_step(batch(), number)
    module.on_validation_epoch_end()
    both = [quiet["val/accuracy/rotation"].item(), quiet["val/r2/masked"].item()]
    assert quiet["val/score"].item() == pytest.approx(sum(both) / 2, abs=1e-6)
    assert set(module.validation_figures("epoch 0")) == {"val/confusion/rotation"}


def test_holes_of_the_data_are_set_to_zero_after_the_tasks():
    module = PretextModule(["saturation"], width=4, pretext_holes=True)
    data = batch() | {"mask": (torch.rand(8, 1, 32, 32) < 0.4).float()}
    inputs, targets = module.prepare_inputs(data)
    changed, record = module.transform(data["image"], data["random"])
    assert torch.equal(inputs, changed * (1 - data["mask"]))
    assert torch.equal(targets["saturation"], record.targets["saturation"])
    assert module.needs_masks
    assert not PretextModule(["saturation"], width=4).needs_masks


@pytest.mark.parametrize(("tasks", "holes"), [(["rotation"], True), (["masked"], False), (["masked"], True)])
def test_the_fourth_channel_is_the_mask_of_whatever(tasks, holes):
    module = PretextModule(tasks, width=4, pretext_holes=holes, mask_channel=True)
    data = batch(size=48) | {"mask": torch.zeros(8, 1, 48, 48)}
    data["mask"][..., 5:20, 7:30] = 1
    inputs, _ = module.prepare_inputs(data)
    masked = (inputs[:, :3] == 0).all(dim=1, keepdim=True)
    assert torch.equal(inputs[:, 3:], masked.float())
    assert bool(masked[..., 5:20, 7:30].all()) == holes
    assert set(module(inputs)) == set(tasks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width=0: must be at least 1"),
        ({"lr": 0.0}, "lr=0.0: must be a positive number"),
        ({"tasks": ["saturation"], "weights": [1.0, 2.0]}, "2 given for 1"),
        ({"weighting": "upgrad", "weights": [1.0, 2.0, 3.0]}, "finds its own"),
        ({"weighting": "upgrad", "compile": True}, "compile=true"),
        ({"mask_channel": True}, "mask_channel=true: nothing is masked"),
        ({"tasks": ["masked"], "levels": {"masked": [0.5]}}, "smallest and the largest"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(WSSLError, match=message):
        PretextModule(**{"width": 4, **settings})


def test_tasks_that_want_more_random_numbers_than_there_are(monkeypatch):
    monkeypatch.setattr(TASKS["masked"], "numbers", 16)
    with pytest.raises(WSSLError, match="take 17 random numbers"):
        PretextModule(["rotation", "masked"], width=4)


@pytest.mark.slow
def test_it_learns():
    # Chance is 0.25; images that are bright at the top and colourful tell both tasks.
    module = PretextModule(["rotation", "saturation"], width=8, lr=2e-3)
    module.log = lambda *args, **kwargs: None
    optimizer = module.configure_optimizers()
    ramp = torch.linspace(1, 0.3, 32).view(1, 1, 32, 1)
    generator = torch.Generator().manual_seed(0)

    def draw(count):
        tint = torch.tensor([0.9, 0.4, 0.3]).view(1, 3, 1, 1)
        noise = 0.9 + 0.1 * torch.rand(count, 3, 32, 32, generator=generator)
        return {"image": ramp * tint * noise, "random": torch.rand(count, 16, generator=generator)}

    for _ in range(60):
        optimizer.zero_grad()
        module.training_step(draw(32), 0).backward()
        optimizer.step()
    with torch.no_grad():
        data = draw(128)
        images, record = module.transform(data["image"], data["random"])
        logits = module(images)
    for name, label in record.targets.items():
        assert (logits[name].argmax(dim=1) == label).float().mean() > 0.6


@pytest.mark.parametrize(("before", "now"), [("upgrad", "fixed"), ("fixed", "upgrad"), ("fixed", "uncertainty")])
def test_another_weighting_is_refused_on_resume(before, now):
    """Lightning counts the steps of automatic and of manual optimisation apart; learned weights are parameters."""
    pytest.importorskip("torchjd")
    module = PretextModule(["rotation", "sharpness"], width=2, weighting=now)
    checkpoint = {"hyper_parameters": {"weighting": before}, "state_dict": module.state_dict()}
    with pytest.raises(WSSLError, match=f"weighting={now}: the resumed run has weighting={before}"):
        module.check_resumed(checkpoint)
    module.check_resumed(checkpoint | {"hyper_parameters": {"weighting": now}})


def test_the_validation_loss_is_weighted_as_that_of_training(quiet):
    module = PretextModule(["sharpness", "rotation"], weights=[0.9, 0.1], width=4)
    for _ in range(2):
        quiet.clear()
        module.validation_step(batch(), 0)
        module.log_metrics("val")
        losses = [quiet[f"val/loss/{name}"].item() for name in ("sharpness", "rotation")]
        assert quiet["val/loss"].item() == pytest.approx(0.9 * losses[0] + 0.1 * losses[1], rel=1e-6)
        assert losses[0] != pytest.approx(losses[1], rel=1e-6)
