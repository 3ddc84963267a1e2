"""Checkpoints of earlier formats, made by hand from today's, are read everywhere."""

import pytest
import torch

from wssl_pl.callbacks import checkpoint_callbacks
from wssl_pl.errors import WSSLError
from wssl_pl.models.weights import read_module
from wssl_pl.modules import InpaintModule, PretextModule, read_checkpoint
from wssl_pl.modules.migration import FORMAT, MIGRATIONS, OLDEST, add_slopes

MODULES = {
    "pretext": lambda **settings: PretextModule(["rotation"], width=2, **settings),
    "downstream": lambda **settings: InpaintModule(width=2, **settings),
}


def to_oldest(checkpoint):
    """What version 0.2 would have written: Lightning's keys of the callbacks, and heads with a ReLU."""
    checkpoint["format"] = OLDEST
    names = {"wssl.best": checkpoint["callbacks"]["wssl.best"]["monitor"], "wssl.last": None}
    for name, monitor in names.items():
        mode = "min" if monitor is None else "max"
        key = {"monitor": monitor, "mode": mode, "every_n_train_steps": 0, "every_n_epochs": 1}
        checkpoint["callbacks"][f"ModelCheckpoint{key}"] = checkpoint["callbacks"].pop(name)
    for key in [key for key in checkpoint["state_dict"] if key.endswith(".slope")]:
        del checkpoint["state_dict"][key]
    return checkpoint


@pytest.fixture(params=MODULES)
def stage(request):
    return request.param


@pytest.fixture
def run(fit, tmp_path, stage):
    """Train two epochs into a folder and make its checkpoints those of version 0.2."""
    (tmp_path / "run").mkdir()
    module = MODULES[stage]()
    callbacks = checkpoint_callbacks(str(tmp_path / "run"), module.monitor)
    fit(module, callbacks=callbacks, enable_checkpointing=True)
    for path in (tmp_path / "run").glob("*.ckpt"):
        torch.save(to_oldest(torch.load(path, weights_only=True)), path)
    return tmp_path / "run"


def test_there_is_a_migration_from_every_earlier_format():
    assert set(MIGRATIONS) == set(range(OLDEST, FORMAT))


def test_todays_checkpoints_say_their_format(fit, tmp_path, stage):
    fit(MODULES[stage](), max_steps=1).save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["format"] == FORMAT


@pytest.mark.parametrize("version", [None, 2])
def test_a_checkpoint_from_before_version_0_2_is_an_error(run, version):
    old = torch.load(run / "last.ckpt", weights_only=True)
    del old["format"]
    torch.save(old | ({} if version is None else {"format": version}), run / "last.ckpt")
    with pytest.raises(WSSLError, match=r"ckpt=.*last\.ckpt: is older than version 0\.2 of wssl-pl, which"):
        read_checkpoint(run / "last.ckpt")


@pytest.mark.parametrize("stage", ["pretext"], indirect=True)
def test_heads_of_an_old_checkpoint_keep_their_relu(run):
    module = PretextModule.load_from_checkpoint(run / "best.ckpt")
    first, _, last = module.heads["rotation"].layers
    features = torch.randn(8, first.in_features, 2, 2)
    expected = last(first(features.mean(dim=(2, 3))).relu())
    assert torch.equal(module.heads["rotation"](features), expected)
    assert MODULES["pretext"]().heads["rotation"].layers[1].slope > 0


def test_only_heads_get_a_slope():
    state = {key: torch.zeros(4, 4) for key in ("heads.a.layers.0.weight", "joint.heads.b.layers.0.weight")}
    others = {"encoder.layers.0.weight": torch.zeros(4, 4), "heads.masked.layers.0.weight": torch.zeros(4, 4, 3, 3)}
    found = state | others
    add_slopes(found)
    assert found.keys() - state.keys() - others.keys() == {"heads.a.layers.1.slope", "joint.heads.b.layers.1.slope"}


def test_the_callbacks_of_an_old_checkpoint_are_found_again(run):
    callbacks = read_checkpoint(run / "last.ckpt")["callbacks"]
    assert callbacks["wssl.best"]["best_model_path"] == str(run / "best.ckpt")
    assert callbacks["wssl.last"]["best_model_path"] == str(run / "last.ckpt")
    assert not any(key.startswith("ModelCheckpoint") for key in callbacks)


def test_an_old_run_resumes_and_keeps_its_best_checkpoint(fit, run, stage):
    best = (run / "best.ckpt").read_bytes()
    module = MODULES[stage](weight_decay=0.1)
    callbacks = checkpoint_callbacks(str(run), module.monitor)
    log = module.log
    # No epoch is as good as the best one before.
    module.log = lambda name, value, **kwargs: log(name, value * 0 - 1 if name == module.monitor else value, **kwargs)
    trainer = fit(module, resume=run / "last.ckpt", max_epochs=2, callbacks=callbacks, enable_checkpointing=True)
    assert trainer.current_epoch == 2
    assert (run / "best.ckpt").read_bytes() == best
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.1
    assert torch.load(run / "last.ckpt", weights_only=True)["format"] == FORMAT


@pytest.mark.parametrize("stage", ["downstream"], indirect=True)
def test_an_old_model_fills_holes_as_before(run):
    module, _ = read_module(run / "best.ckpt")
    weights = torch.load(run / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in weights.items())


@pytest.mark.parametrize("stage", ["pretext"], indirect=True)
def test_an_old_encoder_is_taken_over(run):
    encoder = InpaintModule(ckpt=str(run / "best.ckpt")).encoder
    weights = torch.load(run / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[f"encoder.{key}"]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (FORMAT + 1, rf"its format is {FORMAT + 1}, this version of wssl-pl reads up to {FORMAT}: update wssl-pl"),
        ("new", "is not a checkpoint of this project: its format is 'new'"),
        (0, "is not a checkpoint of this project: its format is 0"),
        (True, "is not a checkpoint of this project: its format is True"),
    ],
)
def test_a_newer_format_is_refused_by_every_reader(fit, tmp_path, stage, version, message):
    path = tmp_path / "a.ckpt"
    fit(MODULES[stage](), max_steps=1).save_checkpoint(path)
    torch.save(torch.load(path, weights_only=True) | {"format": version}, path)
    readers = [
        lambda: read_checkpoint(path),
        lambda: type(MODULES[stage]()).load_from_checkpoint(path),
        lambda: fit(MODULES[stage](), resume=path, max_steps=2, max_epochs=9),
    ]
    readers.append((lambda: InpaintModule(str(path))) if stage == "pretext" else lambda: read_module(path))
    for read in readers:
        with pytest.raises(WSSLError, match=message):
            read()


def test_the_heads_of_an_average_and_of_the_trained_weights_keep_their_relu():
    state = PretextModule(["rotation"], width=2).state_dict()
    old = {key: value for key, value in state.items() if not key.endswith(".slope")}
    checkpoint = {"stage": "pretext", "state_dict": dict(old), "current_model_state": dict(old)}
    MIGRATIONS[3](checkpoint)
    for name in ("state_dict", "current_model_state"):
        assert checkpoint[name].keys() == state.keys()
        assert checkpoint[name]["heads.rotation.layers.1.slope"] == 0
