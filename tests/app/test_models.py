"""Which models the page offers, and that visitors choose by name alone."""

import os
import pickle
import shutil

import pytest
import torch

from wssl_pl.app import models
from wssl_pl.app.models import Models, is_inpainting_model
from wssl_pl.app.work import describe
from wssl_pl.errors import WSSLError
from wssl_pl.export.weights import write_safetensors
from wssl_pl.models import ModelInfo, info
from wssl_pl.modules import InpaintModule


@pytest.fixture(autouse=True)
def _nothing_shipped(monkeypatch, tmp_path):
    monkeypatch.setattr(info, "SHIPPED", tmp_path / "none.safetensors")
    monkeypatch.chdir(tmp_path)


class Harmful:
    """A pickle that leaves a file behind when it is loaded without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_downstream_models_of_a_folder_are_offered_the_newest_first(runs, ckpt, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(runs, folder)
    module = InpaintModule(ckpt="none", width=4)
    facts = ModelInfo("", {"width": 4}, {"image_size": 64})
    write_safetensors(module.state_dict(), facts, folder / "export.safetensors")
    os.utime(folder / "downstream" / "today" / "best.ckpt", (1, 1))
    offered = Models(folder=folder, device="cpu")
    assert offered.names() == ["export.safetensors", "downstream/today/best.ckpt"]
    assert offered.get("").info.side == 64
    assert offered.get("downstream/today/best.ckpt").info.side == 224


def test_the_named_model_is_first_and_not_offered_twice(runs, ckpt):
    assert Models(ckpt=ckpt, folder=runs, device="cpu").names() == ["today/best.ckpt"]


def test_two_models_of_one_name_are_told_apart(runs, ckpt, tmp_path):
    folder = tmp_path / "runs"
    (folder / "today").mkdir(parents=True)
    shutil.copyfile(ckpt, folder / "today" / "best.ckpt")
    assert Models(ckpt=ckpt, folder=folder).names() == ["today/best.ckpt", "runs/today/best.ckpt"]


def test_an_error_of_a_chosen_model_does_not_tell_where_it_lies(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "mine")
    (tmp_path / "mine" / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(WSSLError) as caught:
        Models(folder=tmp_path / "mine").get("broken.onnx")
    assert "The model broken.onnx is not an ONNX model" in describe(caught.value)
    assert str(tmp_path) not in describe(caught.value)


def test_the_shipped_model_is_offered_before_those_that_are_found(runs, tmp_path, monkeypatch):
    shipped = tmp_path / "shipped.safetensors"
    write_safetensors(InpaintModule(ckpt="none", width=4).state_dict(), ModelInfo("", {"width": 4}), shipped)
    monkeypatch.setattr(info, "SHIPPED", shipped)
    assert Models(folder=runs).names() == ["shipped model", "downstream/today/best.ckpt"]


def test_runs_is_looked_through_where_no_folder_is_named(runs, tmp_path):
    (tmp_path / "runs").symlink_to(runs)
    assert Models().names() == ["downstream/today/best.ckpt"]


def test_a_model_that_comes_later_is_found(runs, ckpt, tmp_path):
    shutil.copytree(runs, tmp_path / "mine")
    offered = Models(folder=tmp_path / "mine", device="cpu")
    (tmp_path / "mine" / "new").mkdir()
    shutil.copyfile(ckpt, tmp_path / "mine" / "new" / "best.ckpt")
    with pytest.raises(WSSLError, match="no model"):
        offered.get("new/best.ckpt")
    assert set(offered.names()) == {"new/best.ckpt", "downstream/today/best.ckpt"}
    assert offered.get("new/best.ckpt").device == "cpu"


@pytest.mark.parametrize(
    "name", ["downstream/../downstream/today/best.ckpt", "/etc/passwd", "pretext/today/best.ckpt", ["a"], 3]
)
def test_what_is_not_in_the_table_is_not_opened(runs, name, monkeypatch):
    offered = Models(folder=runs, device="cpu")
    monkeypatch.setattr(models.Inpainter, "from_checkpoint", lambda *args, **options: pytest.fail("opened"))
    with pytest.raises(WSSLError, match="there is no model"):
        offered.get(name)


def test_an_absolute_path_is_no_name_either(runs, ckpt):
    with pytest.raises(WSSLError, match="there is no model"):
        Models(folder=runs).get(str(ckpt))


def test_code_in_a_checkpoint_is_not_run(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "mine")
    bad = tmp_path / "mine" / "bad" / "best.ckpt"
    bad.parent.mkdir()
    torch.save({"stage": "downstream", "state_dict": Harmful(tmp_path / "harm")}, bad)
    plain = tmp_path / "mine" / "plain" / "best.ckpt"
    plain.parent.mkdir()
    plain.write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    assert Models(folder=tmp_path / "mine").names() == ["downstream/today/best.ckpt"]
    with pytest.raises(WSSLError, match="could run code"):
        Models(ckpt=bad).get("")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["best.ckpt", "a.safetensors"])
def test_damaged_files_are_not_offered(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\3\4 and nothing else")
    assert not is_inpainting_model(tmp_path / name)


def test_few_models_are_kept_in_memory_and_a_new_file_is_loaded_anew(runs, ckpt, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        models.Inpainter, "from_checkpoint", lambda path, device, precision: loaded.append(path) or object()
    )
    folder = tmp_path / "mine"
    for name in "abc":
        (folder / name).mkdir(parents=True)
        shutil.copyfile(ckpt, folder / name / "best.ckpt")
    offered = Models(folder=folder)
    first = offered.get("a/best.ckpt")
    assert offered.get("a/best.ckpt") is first
    offered.get("b/best.ckpt")
    offered.get("c/best.ckpt")
    assert offered.get("a/best.ckpt") is not first
    os.utime(folder / "a" / "best.ckpt", (1, 1))
    offered.get("a/best.ckpt")
    assert [path.parent.name for path in loaded] == ["a", "b", "c", "a", "a"]


def test_without_any_model_the_remedy_is_told(tmp_path):
    with pytest.raises(WSSLError, match="ckpt=FILE or ckpts=DIR"):
        Models()


def test_a_named_folder_without_a_model_is_an_error_even_beside_another_model(ckpt, tmp_path):
    with pytest.raises(WSSLError, match=r"ckpts=.* holds no inpainting model"):
        Models(ckpt=ckpt, folder=tmp_path)
