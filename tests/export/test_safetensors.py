import json
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.inference.fakes import hostile_files, plane, square
from wssl_pl.cli import main
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.results import Machine, MeasuredPairs, Result, Table
from wssl_pl.export import HubModel
from wssl_pl.export.card import model_card
from wssl_pl.export.weights import write_safetensors
from wssl_pl.inference import Inpainter
from wssl_pl.models import ModelInfo, open_heads, open_model
from wssl_pl.models.weights import read_module
from wssl_pl.modules import InpaintModule


@pytest.fixture
def exported(model_files, tmp_path, monkeypatch):
    """A folder of `wssl export safetensors`."""
    monkeypatch.chdir(tmp_path)
    main(["export", "safetensors", f"ckpt={model_files['ckpt']}", "-o", "exported"])
    return tmp_path / "exported"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_folder_gives_the_model_back(exported, tiny_module):
    assert sorted(path.name for path in exported.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    inpainter = Inpainter.from_checkpoint(exported, "cpu")
    for key, value in tiny_module.state_dict().items():
        assert torch.equal(inpainter.predictor.module.state_dict()[key], value)
    assert inpainter.info.side == 64


def test_huggingface_hub_loads_it_without_network(exported, tiny_module, no_network):
    model = HubModel.from_pretrained(exported)
    images, masks = torch.rand(2, 3, 40, 50), torch.zeros(2, 1, 40, 50)
    masks[:, :, 10:20, 10:20] = 1
    with torch.no_grad():
        assert torch.equal(model(images, masks), tiny_module(images, masks))
    assert not model.training
    assert model.learnt_from["image_size"] == 64
    model.save_pretrained("again")
    again = Inpainter.from_checkpoint("again", "cpu")
    assert again.info.side == 64
    assert again.info.hyper_parameters == dict(tiny_module.hparams)
    assert torch.equal(HubModel.from_pretrained("again")(images, masks), model(images, masks))


def test_what_a_later_version_adds_to_the_settings_is_ignored(exported, tmp_path, no_network):
    shutil.copytree(exported, tmp_path / "later")
    config = tmp_path / "later" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"future": 1}))
    assert HubModel.from_pretrained(tmp_path / "later").learnt_from["image_size"] == 64


def test_the_hub_s_class_runs_no_pickle(tmp_path, monkeypatch, no_network):
    monkeypatch.chdir(tmp_path)
    for folder in hostile_files(tmp_path / "hostile"):
        if folder.is_dir():
            with pytest.raises(WSSLError):
                HubModel.from_pretrained(folder)
    with pytest.raises(WSSLError, match="could run code"):
        HubModel._load_as_pickle(None, "pytorch_model.bin", "cpu", True)
    assert not Path("was_run").exists()


def test_settings_that_do_not_fit_the_weights(exported):
    config = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps(config | {"width": 100_000}))
    with pytest.raises(WSSLError, match="other shapes"):
        HubModel.from_pretrained(exported)


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "wssl_pl.export.hub", raising=False)
    with pytest.raises(WSSLError, match="huggingface_hub"):
        from wssl_pl.export import HubModel as _  # noqa: F401


def test_the_card_tells_what_is_known_and_what_is_not(exported, model_files, tmp_path):
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: wssl-pl\n")
    for words in ("width 2", "64 x 64 pixels", "30 to 50 %", "Not measured yet", "data was not named", "30 steps"):
        assert words in card
    assert "/some/where" not in card, "where the data lay on somebody's disk is nobody's business"
    result = tmp_path / "result"
    names, values = np.arange(400).astype(str), np.full((400, 1), 24.97)
    table = Table(names, np.full(400, 0.4), np.full(400, "30-40"), ("psnr_composite",), values)
    pairs = MeasuredPairs(hash="0123456789abcdef" * 4, count=400, evaluated=400)
    Result(table, {"name": "m"}, pairs, Machine(2, "CPU", "3.12", "2.15", "2.0")).save(result)
    main([
        "export", "safetensors", f"ckpt={model_files['ckpt']}", "-o", "told", "data=Drawn faces.", "license=apache-2.0",
        "title=Faces", f"figures={result}", "half=true",
    ])  # fmt: skip
    card = Path("told/README.md").read_text()
    for words in ("license: apache-2.0", "# Faces", "Drawn faces.", "24.97", "400 pairs (hash 0123456789abcdef)"):
        assert words in card
    assert Path("told/model.safetensors").stat().st_size < 0.6 * (exported / "model.safetensors").stat().st_size


def test_a_card_has_the_model_s_own_licence():
    card = model_card(ModelInfo("m", {}, {"license": "for research: only"}), 1, "title", "file", None, None, None)
    assert yaml.safe_load(card.split("---")[1])["license_name"] == "for research: only"
    assert "Licence of the weights: for research: only." in card
    card = model_card(ModelInfo("m", {}, {"license": "a\nb"}), 1, "title", "file", None, None, None)
    assert yaml.safe_load(card.split("---")[1])["license_name"] == "a b"


def test_a_folder_that_has_the_checkpoint_is_no_other_model(model_files, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    shutil.copy(model_files["ckpt"], tmp_path / "run" / "best.ckpt")
    monkeypatch.chdir(tmp_path / "run")
    main(["export", "safetensors", "ckpt=best.ckpt", "out=."])
    assert {path.name for path in Path().iterdir()} == {"best.ckpt", "model.safetensors", "config.json", "README.md"}
    assert "ckpt=run" in Path("README.md").read_text()


def test_what_is_for_a_card_and_what_would_be_replaced(exported, model_files, capsys):
    for words, message in (
        (["out=x.safetensors", "license=mit"], "license=mit: is for the model card, and a single file has none"),
        (["out=x", "figures=nowhere"], "figures=nowhere: "),
        (["out=exported", "--overwrite", "ckpt=exported/model.safetensors"], "out=exported: is the model itself"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["export", "safetensors", f"ckpt={model_files['ckpt']}", *words])
        assert stopped.value.code != 0
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("training", [{"hole_ratio": 1}, {"hole_ratio": ["a", "b"]}, {"steps": "many"}, {"license": 5}])
def test_a_card_of_forged_settings(training):
    with pytest.raises(WSSLError, match=r"^ckpt=model: what it says about its training cannot be read"):
        model_card(ModelInfo("model", {}, training), 1, "title", "file", None, None, None)


def test_a_single_file_as_it_is_shipped(model_files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["export", "safetensors", f"ckpt={model_files['ckpt']}", "out=wssl-w2.safetensors", "half=true"]
    main(words)
    assert "Written wssl-w2.safetensors" in capsys.readouterr().out
    hole = square(50, 60, 10, 10, 20)
    filled = Inpainter.from_checkpoint("wssl-w2.safetensors", "cpu")(plane(50, 60), hole)
    assert np.array_equal(filled[~hole], plane(50, 60)[~hole])
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "add --overwrite" in capsys.readouterr().err
    main([*words, "hole_depth=0.3", "--overwrite"])
    assert open_model("wssl-w2.safetensors", "cpu").info.hole_depth == 0.3
    with pytest.raises(SystemExit):
        main([*words, "hole_depth=0.8", "--overwrite"])
    assert "hole_depth=0.8: must be above 0 and at most 0.5" in capsys.readouterr().err


def test_heads_are_omitted_on_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = InpaintModule(width=2, freeze_layers=0, task_loss=0.1, tasks=["rotation"]).eval()
    write_safetensors(
        module.state_dict(), ModelInfo("", dict(module.hparams), {"image_size": 64}), Path("a.safetensors")
    )
    main(["export", "safetensors", "ckpt=a.safetensors", "out=b.safetensors", "heads=false"])
    assert list(open_heads("a.safetensors", "cpu").tasks) == ["rotation"]
    with pytest.raises(WSSLError, match="has no heads"):
        open_heads("b.safetensors", "cpu")
    images, masks = np.random.default_rng(0).random((1, 3, 64, 64), np.float32), np.zeros((1, 1, 64, 64), np.float32)
    masks[..., 20:40, 20:40] = 1
    before, after = (open_model(name, "cpu")(images, masks) for name in ("a.safetensors", "b.safetensors"))
    assert np.array_equal(before, after)
    assert not any(key.startswith("joint.") for key in read_module(Path("b.safetensors"))[0].state_dict())
