import pytest
import torch

from wssl_pl.errors import WSSLError
from wssl_pl.losses import WSSLLoss
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.tasks import Jpeg, Rotation, Saturation

JOINT = {"width": 2, "freeze_layers": 0, "task_loss": 0.5}


@pytest.fixture(autouse=True)
def logged(monkeypatch):
    """Modules log into a dictionary instead of a trainer."""
    figures = {}
    monkeypatch.setattr(InpaintModule, "log", lambda self, name, value, **kwargs: figures.__setitem__(name, value))
    monkeypatch.setattr(InpaintModule, "log_dict", lambda self, values, **kwargs: figures.update(values))
    return figures


def batch(count=4, size=32):
    mask = torch.zeros(count, 1, size, size)
    mask[..., :10, :] = 1.0
    random = torch.rand(count, 16)
    return {"image": torch.rand(count, 3, size, size), "mask": mask, "random": random, "index": torch.arange(count)}


def save(module, path):
    torch.save({"stage": "pretext", "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    return str(path)


@pytest.fixture
def pretext(tmp_path):
    """A pretext module with weights and levels of its own, and its checkpoint."""
    levels = {"saturation": [0.0, 0.5, 1.0]}
    module = PretextModule(["rotation", "masked", "saturation"], weights=[1, 5, 3], levels=levels, width=2)
    return module, save(module, tmp_path / "pretext.ckpt")


def test_the_nearest_level_by_hand():
    assert Saturation().nearest(torch.tensor([0.0, 0.12, 0.13, 0.51, 0.9, 1.0])).tolist() == [0, 0, 1, 2, 3, 3]
    assert Jpeg().nearest(torch.tensor([19.0, 21.0, 90.0])).tolist() == [0, 1, 3]


def test_the_head_of_a_damage_reads_the_image_that_is_restored(logged):
    module, data = InpaintModule(ckpt="none", restore=["sharpness", "saturation"], **JOINT), batch()
    assert list(module.joint.tasks) == ["saturation", "sharpness"]
    assert not module.joint.others
    passes = []
    module.encoder.register_forward_hook(lambda *args: passes.append(args[2][0]))
    loss = module.training_step(data, 0)
    (features,) = passes
    strengths = {"saturation": data["random"][:, 0], "sharpness": data["random"][:, 2]}  # their levels are 0 to 1
    expected = 0.0
    for name, strength in strengths.items():
        labels = module.joint.tasks[name].nearest(strength)
        logits = module.joint.heads[name](features)
        task = torch.nn.functional.cross_entropy(logits, labels)
        assert logged[f"train/loss/{name}"].item() == pytest.approx(task.item(), abs=1e-6)
        assert logged[f"train/accuracy/{name}"] == (logits.argmax(dim=1) == labels).float().mean()
        expected = expected + 0.5 * 0.5 * task  # the factor, and the weight of one of two
    inpainting = WSSLLoss()(module(module.given(data), data["mask"]), data["image"])
    assert loss.item() == pytest.approx((inpainting + expected).item(), abs=1e-6)
    assert logged["train/loss"] is loss


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_other_tasks_look_at_clean_images_changed_by_all_in_the_same_batch(norm, logged):
    module = InpaintModule(ckpt="none", restore=["saturation"], tasks=["saturation", "rotation"], norm=norm, **JOINT)
    data, passes = batch(), []
    module.encoder.register_forward_hook(lambda _, args, outputs: passes.append((args[0], outputs[0])))
    module.training_step(data, 0)
    ((given, features),) = passes
    random, mask = data["random"], data["mask"]
    torch.testing.assert_close(given[:4], module.with_holes(module.given(data), mask))
    # The restoration's damage has taken the first two numbers.
    turns, levels = Rotation().labels(random[:, 2]), Saturation().labels(random[:, 3])
    torch.testing.assert_close(given[4:], Saturation()(Rotation()(data["image"], turns), levels))
    for name, part, labels in (("rotation", 4, turns), ("saturation", 0, Saturation().nearest(random[:, 0]))):
        logits = module.joint.heads[name](features[part : part + 4])
        expected = torch.nn.functional.cross_entropy(logits, labels)
        assert logged[f"train/loss/{name}"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_everything_is_trained(logged):
    module = InpaintModule(ckpt="none", restore=["blur"], tasks=["blur", "rotation"], norm="batch", **JOINT)
    module.training_step(batch(), 0).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    trained = {id(parameter) for group in module.parameter_groups() for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in module.parameters()}


def test_tasks_weights_levels_and_heads_are_the_checkpoints(pretext):
    saved, ckpt = pretext
    module = InpaintModule(ckpt=ckpt, freeze_layers=0, task_loss=0.5)
    assert module.hparams["tasks"] == ["rotation", "saturation"]
    assert module.hparams["weights"] == [0.25, 0.75]
    assert module.joint.weighting.weights == {"rotation": 0.25, "saturation": 0.75}
    assert module.joint.tasks["saturation"].levels == (0.0, 0.5, 1.0)
    for name, head in module.joint.heads.items():
        for key, value in head.state_dict().items():
            assert torch.equal(value, saved.heads[name].state_dict()[key])
    assert module.remarks() == ["task_loss trains without masked: the downstream stage reconstructs anyway"]
    name, task = next(iter(module.joint.tasks.items()))
    module.joint.metrics.latest = {name: torch.ones(task.state_shape)}
    assert module.remarks()[0].startswith(f"Still at chance: {name}; ")
    again = InpaintModule(**module.hparams)  # without the pretext checkpoint
    again.load_state_dict(module.state_dict())
    assert again.hparams == module.hparams
    assert again.joint.weighting.weights == module.joint.weighting.weights


def test_tasks_may_be_chosen(pretext):
    saved, ckpt = pretext
    module = InpaintModule(ckpt=ckpt, freeze_layers=0, task_loss=0.5, tasks=["blur", "saturation"], weights=[1, 3])
    assert module.joint.weighting.weights == {"blur": 0.25, "saturation": 0.75}
    assert torch.equal(module.joint.heads["saturation"].layers[0].weight, saved.heads["saturation"].layers[0].weight)
    assert module.crop_margin == 6  # of blur


def test_learned_weights_are_kept(tmp_path):
    module = PretextModule(["saturation", "rotation"], weighting="uncertainty", width=2)
    with torch.no_grad():
        module.weighting.log_variances.copy_(-torch.tensor([3.0, 1.0]).log())  # rotation comes first
    joint = InpaintModule(ckpt=save(module, tmp_path / "a.ckpt"), freeze_layers=0, task_loss=1.0).joint
    assert joint.weighting.weights == pytest.approx({"saturation": 0.25, "rotation": 0.75})


def test_validation_logs_every_task(logged):
    module, data = InpaintModule(ckpt="none", restore=["saturation"], **JOINT), batch()
    module.validation_step(data, 0)
    module.log_metrics("val")
    given, mask = module.given(data), data["mask"]
    labels = module.joint.tasks["saturation"].nearest(data["random"][:, 0])
    logits = module.joint.heads["saturation"](module._encode(given, mask)[0])
    assert logged["val/loss/saturation"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-6
    )
    assert logged["val/accuracy/saturation"] == (logits.argmax(dim=1) == labels).float().mean()
    assert list(module.validation_figures("epoch 0")) == ["val/confusion/saturation"]


def test_without_it_nothing_is_drawn_or_saved():
    torch.manual_seed(0)
    plain = InpaintModule(ckpt="none", width=2, freeze_layers=0)
    torch.manual_seed(0)
    joint = InpaintModule(ckpt="none", tasks=["rotation"], **JOINT)
    assert plain.joint is None
    state = joint.state_dict()
    assert all(torch.equal(value, state.pop(key)) for key, value in plain.state_dict().items())
    keys = ("0.weight", "0.bias", "1.slope", "2.weight", "2.bias")
    assert set(state) == {f"joint.heads.rotation.layers.{key}" for key in keys}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task_loss": -1.0}, "task_loss=-1.0: must be a number, 0 or more"),
        ({"task_loss": float("nan")}, "task_loss=nan: must be a number"),
        ({}, "task_loss=0.5: there are no tasks: give tasks=rotation"),
        ({"freeze_layers": 16, "tasks": ["rotation"]}, "task_loss=0.5: freeze_layers=16 freezes the whole encoder"),
        ({"tasks": ["masked"]}, r"tasks=\[masked\]: masked is what the downstream stage does anyway: omit it"),
        ({"task_loss": 0.0, "tasks": ["rotation"]}, r"tasks=\[rotation\]: no task is trained in this stage"),
        ({"task_loss": 0.0, "weights": [1.0]}, "weights=.*: no task is trained"),
        ({"tasks": ["rotation"], "weights": [1.0, 2.0]}, "2 given for 1 tasks"),
        ({"tasks": ["rotaton"]}, "did you mean rotation"),
        ({"tasks": ["noise"], "levels": {"blur": [0.0, 1.0]}}, "blur is not among the tasks"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(WSSLError, match=message):
        InpaintModule(ckpt="none", **JOINT | settings)


def test_checkpoints_that_cannot_be_used(pretext, tmp_path):
    _, ckpt = pretext
    with pytest.raises(WSSLError, match=r"levels=\[0.0,1.0\]: the head of saturation in ckpt=.* has \(0.0, 0.5, 1.0\)"):
        InpaintModule(ckpt=ckpt, freeze_layers=0, task_loss=1.0, levels={"saturation": [0.0, 1.0]})
    masked = save(PretextModule(["masked"], width=2), tmp_path / "masked.ckpt")
    with pytest.raises(WSSLError, match="there are no tasks"):
        InpaintModule(ckpt=masked, freeze_layers=0, task_loss=1.0)
    assert list(InpaintModule(ckpt=masked, freeze_layers=0, task_loss=1.0, restore=["blur"]).joint.tasks) == ["blur"]
    module = PretextModule(["masked", "rotation"], width=2, decoder=True, heads="both")
    with pytest.raises(WSSLError, match=r"task_loss: the heads of ckpt=.* read the decoder's features"):
        InpaintModule(ckpt=save(module, tmp_path / "both.ckpt"), freeze_layers=0, task_loss=1.0)
