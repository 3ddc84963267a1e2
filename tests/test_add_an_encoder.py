"""The page `docs/add_an_encoder.md`: its code and its commands run, and a class path of a file is never imported."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer
from PIL import Image

from tests.study.conftest import TINY as STUDY
from wssl_pl.cli import main
from wssl_pl.errors import WSSLError
from wssl_pl.models import open_model
from wssl_pl.modules import InpaintModule, PretextModule, read_checkpoint
from wssl_pl.modules.encoder import import_encoder
from wssl_pl.networks import Encoder

PAGE = (Path(__file__).parents[1] / "docs" / "add_an_encoder.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, flags=re.DOTALL)
CODE, USE = (code for language, code in BLOCKS if language == "python")
(SHELL,) = (code for language, code in BLOCKS if not language)
SMALL = [
    "--data.image_size=32", "--data.resize=36", "--data.batch_size=4", "--data.limit=8", "--data.num_workers=0",
    "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
]  # fmt: skip
TYPED = "--model.encoder=resnet.ResNet"
TINY = '''
import torch
from wssl_pl.networks import Encoder
open("imported", "a").close()

class Tiny(Encoder):
    """Five convolutions of stride 2 with batch normalisation."""

    def __init__(self, in_channels):
        super().__init__()
        self.out_channels = (in_channels, 4, 4, 6, 6, 8)
        pairs = list(zip(self.out_channels[:-1], self.out_channels[1:]))
        layers = [torch.nn.Sequential(torch.nn.Conv2d(a, b, 3, 2, 1), torch.nn.BatchNorm2d(b)) for a, b in pairs]
        self.down = torch.nn.ModuleList(layers)

    def layers(self):
        return list(self.down)

    def forward(self, images):
        outputs = [images]
        for layer in self.down:
            outputs.append(layer(outputs[-1]).relu())
        return outputs[-1], outputs[:-1]
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the page's program and a tiny encoder; both modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("resnet.py").write_text(CODE)
    Path("tiny.py").write_text(TINY)
    yield tmp_path
    forget()


def forget():
    for name in ("resnet", "tiny"):
        sys.modules.pop(name, None)


def batch(count=4, size=64):
    mask = torch.zeros(count, 1, size, size)
    mask[..., 8:20, 4:28] = 1.0
    return {"image": torch.rand(count, 3, size, size), "mask": mask, "random": torch.rand(count, 16)}


def test_the_commands_of_the_page_run(folder):
    for command in SHELL.splitlines():
        program, verb, *words = shlex.split(command)
        assert (program, verb) == ("wssl", "train")
        main([*words, *SMALL, *(["--run.dir=filled"] if "stage=downstream" in words else [])])
    checkpoint = read_checkpoint("filled/best.ckpt")
    assert checkpoint["hyper_parameters"]["encoder"] == "resnet.ResNet"
    pretext = read_checkpoint("runs/resnet/best.ckpt")["state_dict"]
    module = InpaintModule.load_from_checkpoint("filled/best.ckpt")
    for key, value in module.encoder.state_dict().items():
        assert torch.equal(value, pretext[f"encoder.{key}"]), key  # frozen, statistics included


def test_commands_open_a_model_with_the_encoder_that_is_typed(folder, capsys):
    import_encoder("tiny.Tiny")
    model = saved("model.ckpt", InpaintModule(encoder="tiny.Tiny", freeze_layers=0), "downstream")
    forget()
    photo = Image.new("RGBA", (80, 80), (90, 90, 90, 255))
    photo.paste((0, 0, 0, 0), (20, 20, 40, 40))
    photo.save("photo.png")
    export = ["export", "safetensors", f"ckpt={model}", "out=model.safetensors"]
    inpaint = ["inpaint", "photo.png", "out=filled.png", f"ckpt={model}", "device=cpu"]
    for command in (export, inpaint):
        with pytest.raises(SystemExit):
            main(command)
        assert "its module tiny is not imported" in capsys.readouterr().err
        main([*command, "encoder=tiny.Tiny"])
        forget()
    assert Path("filled.png").is_file()
    assert Path("model.safetensors").is_file()


def test_the_python_of_the_page_runs(folder):
    names = {}
    exec(USE, names)
    assert set(names["module"](torch.rand(2, 3, 64, 64))) == {"rotation"}


def test_both_stages_train_all_of_it_and_freeze_layers_counts_its_layers(folder):
    kind = import_encoder("tiny.Tiny")
    pretext = PretextModule(["rotation", "masked"], encoder=kind, mask_channel=True, fill="mean")
    pretext.log = lambda *args, **kwargs: None
    pretext.training_step(batch(), 0).backward()
    assert all(parameter.grad is not None for parameter in pretext.parameters())
    module = InpaintModule(encoder="tiny.Tiny", freeze_layers=2, norm="group", mask_channel=True)
    module.log = lambda *args, **kwargs: None
    module.train()
    before = {key: value.clone() for key, value in module.encoder.state_dict().items()}
    module.training_step(batch(), 0).backward()
    trained = [all(p.grad is not None for p in layer.parameters()) for layer in module.encoder.layers()]
    assert trained == [False, False, True, True, True]
    moved = {key.split(".")[1] for key, value in module.encoder.state_dict().items() if not value.equal(before[key])}
    assert moved == {"2", "3", "4"}
    assert module(torch.rand(1, 3, 50, 70), torch.ones(1, 1, 50, 70)).shape == (1, 3, 50, 70)
    again = InpaintModule(**module.hparams)
    again.load_state_dict(module.state_dict())


def saved(path, module, stage):
    torch.save({"stage": stage, "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    return str(path)


def test_a_class_path_in_a_checkpoint_is_found_but_never_imported(folder):
    import_encoder("tiny.Tiny")
    pretext = saved("pretext.ckpt", PretextModule(["rotation"], encoder="tiny.Tiny"), "pretext")
    trained = InpaintModule(pretext, freeze_layers=5)
    model = saved("model.ckpt", trained, "downstream")
    opened = InpaintModule.load_from_checkpoint(model)
    assert all(torch.equal(value, opened.state_dict()[key]) for key, value in trained.state_dict().items())
    assert open_model(model, "cpu").info.hyper_parameters["encoder"] == "tiny.Tiny"
    forget()
    Path("imported").unlink()
    for open_file in (
        lambda: InpaintModule.load_from_checkpoint(model),
        lambda: PretextModule.load_from_checkpoint(pretext),
        lambda: InpaintModule(pretext, freeze_layers=5),
    ):
        with pytest.raises(WSSLError, match=r"encoder=tiny\.Tiny: its module tiny is not imported: type encoder="):
            open_file()
    with pytest.raises(WSSLError, match=r"encoder=tiny\.Tiny: its module tiny is not imported"):
        open_model(model, "cpu")
    assert not Path("imported").exists()
    kind = import_encoder("tiny.Tiny")
    assert isinstance(InpaintModule.load_from_checkpoint(model, encoder=kind).encoder, kind)


def test_a_resumed_run_imports_no_encoder_that_is_not_typed(folder, capsys):
    main(["stage=pretext", "tasks=rotation", "--model.encoder=tiny.Tiny", *SMALL, "--run.dir=run"])
    forget()
    Path("imported").unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["resume=run/last.ckpt", "--trainer.max_epochs=2"])
    assert stopped.value.code == 2
    assert "its module tiny is not imported" in capsys.readouterr().err
    assert not Path("imported").exists()
    main(["resume=run/last.ckpt", "--model.encoder=tiny.Tiny", "--trainer.max_epochs=2"])
    assert read_checkpoint("run/last.ckpt")["epoch"] == 1


class Wrong(Encoder):
    """Says other channels than it has."""

    def __init__(self, in_channels):
        super().__init__()
        self.out_channels = (in_channels, 4, 4, 4, 4, 4)

    def forward(self, images):
        return images, [images] * 5


class Hidden(Wrong):
    """Has a parameter outside its layers."""

    def __init__(self, in_channels):
        super().__init__(in_channels)
        self.scale = torch.nn.Parameter(torch.ones(1))


class Bare(Encoder):
    """Takes no argument."""

    def __init__(self):
        super().__init__()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"encoder": Wrong},
            r"an image of 64 px gives skips and features of the shapes .* see docs/add_an_encoder\.md",
        ),
        ({"encoder": Hidden}, r"in none of its layers\(\)"),
        ({"encoder": Bare}, "cannot be built with in_channels=3"),
        ({"encoder": "resnet"}, "encoder=resnet: it is no class path"),
        ({"encoder": "pathlib.Path"}, r"no subclass of wssl_pl\.networks\.Encoder"),
        ({"encoder": Wrong, "width": 8}, "width=8: encoder=.* has its own width: omit width"),
        ({"encoder": Wrong, "norm": "batch"}, "norm=batch: encoder=.* has its own: omit norm"),
    ],
)
def test_an_encoder_that_cannot_be_used_is_one_line(settings, message):
    with pytest.raises(WSSLError, match=message):
        PretextModule(["rotation"], **settings)


def test_contradictions_with_the_checkpoint_are_refused(folder):
    import_encoder("tiny.Tiny")
    import_encoder("resnet.ResNet")
    pretext = saved("pretext.ckpt", PretextModule(["rotation"], encoder="tiny.Tiny"), "pretext")
    for settings, message in (
        ({"freeze_layers": 16}, "freeze_layers=16: is not between 0 and 5, the number of layers of Tiny: give 5"),
        ({"encoder": "resnet.ResNet"}, r"encoder=resnet\.ResNet: the encoder of ckpt=.* has encoder=tiny\.Tiny"),
        ({"mask_channel": True}, "mask_channel=true: the encoder of ckpt=.* has mask_channel=False"),
    ):
        with pytest.raises(WSSLError, match=message):
            InpaintModule(pretext, **settings)
    assert InpaintModule(pretext, freeze_layers=5, norm="batch").hparams["norm"] == "batch"


def test_the_pretext_trains_on_a_plain_data_set():
    data = [{"image": torch.rand(3, 32, 32)} for _ in range(8)]
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    trainer.fit(PretextModule(["rotation", "masked"], width=2), loader, loader)
    assert trainer.callback_metrics["val/score"].isfinite()


@pytest.mark.slow
def test_a_study_trains_with_the_encoder_in_its_workers(folder, capsys):
    common = {key: value for key, value in STUDY["common"].items() if key != "model.width"}
    arms = {"own": {"pretext": {"tasks": ["rotation"]}, "downstream": {"freeze_layers": 5}}}
    study = STUDY | {"seeds": [0], "arms": arms, "claims": [], "common": common | {"model.encoder": "tiny.Tiny"}}
    Path("own.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    main(["study", "own.yaml", "out=study", "--evaluate=false"])
    assert "2 of 2 runs done" in capsys.readouterr().out
