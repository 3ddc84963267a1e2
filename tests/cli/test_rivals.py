"""Each rival from the command line: trained, resumed, measured, used, exported; and where it does not belong."""

import signal

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.checkpoints import same, weights
from tests.cli.interruptions import interrupt_at
from wssl_pl.cli import main
from wssl_pl.errors import WSSLError
from wssl_pl.export import HubModel
from wssl_pl.models import open_model
from wssl_pl.modules import MODULES, read_checkpoint
from wssl_pl.stages import RIVALS

DATA = [
    "--data.images=synthetic", "--data.masks=synthetic", "--data.image_size=64", "--data.resize=70",
    "--data.batch_size=2", "--data.limit=4", "--data.num_workers=0",
]  # fmt: skip
SMALL = [*DATA, "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
MODEL = {
    "shift_net": ["--model.width=2", "--model.downs=6"],
    "pic": ["--model.width=2"],
    "pconv": [
        "--model.width=2",
        "--model.downs=5",
        "--model.perceptual=0",
        "--model.style=0",
        "--model.second_phase=0",
    ],
}
TRAINED = [name for name in RIVALS if name in MODULES]


@pytest.fixture(scope="module", params=TRAINED)
def rival(request, tmp_path_factory):
    """The name of a rival, and its run of two steps."""
    folder = tmp_path_factory.mktemp(request.param)
    main([f"stage={request.param}", *SMALL, *MODEL[request.param], f"--run.dir={folder}/run"])
    return request.param, folder / "run"


def test_a_run_goes_on_where_it_was(rival, tmp_path):
    name, run = rival
    main([f"resume={run}/last.ckpt", "--trainer.max_epochs=2", f"--run.dir={tmp_path}/on"])
    whole = [f"stage={name}", *SMALL, *MODEL[name], "--trainer.max_epochs=2", f"--run.dir={tmp_path}/whole"]
    main(whole)
    resumed, once = (
        torch.load(tmp_path / part / "last.ckpt", weights_only=True)["state_dict"] for part in ("on", "whole")
    )
    assert resumed.keys() == once.keys()
    for key, value in resumed.items():
        torch.testing.assert_close(value, once[key], rtol=0, atol=0)


def test_sigterm_within_an_epoch_leaves_a_checkpoint_that_resumes_exactly(rival, tmp_path, monkeypatch):
    name, run = rival
    whole = [f"stage={name}", *SMALL, *MODEL[name]]
    with monkeypatch.context() as patch:
        interrupt_at(patch, MODULES[name], [0], signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            main([*whole, f"--run.dir={tmp_path}/parts"])
    assert ended.value.code == 143
    assert (
        read_checkpoint(tmp_path / "parts" / "last.ckpt")["global_step"]
        < read_checkpoint(run / "last.ckpt")["global_step"]
    )
    main([f"resume={tmp_path}/parts/last.ckpt", "--trainer.enable_progress_bar=false"])
    assert same(weights(run / "last.ckpt"), weights(tmp_path / "parts" / "last.ckpt"))


def test_a_model_is_measured_used_and_exported(rival, tmp_path, capsys):
    name, run = rival
    random = np.random.default_rng(0)
    photo, mask = random.integers(0, 256, (90, 70, 3), np.uint8), np.zeros((90, 70), np.uint8)
    mask[20:50, 20:40] = 255
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for form in ("model", "model.safetensors"):
        main(["export", "safetensors", f"ckpt={run}/best.ckpt", f"out={tmp_path / form}"])
        assert open_model(tmp_path / form).info.stage == name
    main(["inpaint", str(tmp_path / "photo.png"), str(tmp_path / "mask.png"), f"ckpt={tmp_path}/model.safetensors",
          "-o", str(tmp_path / "filled.png"), "device=cpu"])  # fmt: skip
    filled = np.array(Image.open(tmp_path / "filled.png"))
    np.testing.assert_array_equal(filled[mask == 0], photo[mask == 0])
    main(["test", f"ckpt={run}/best.ckpt", *DATA])
    assert "test/psnr_composite" in capsys.readouterr().out
    card = (tmp_path / "model" / "README.md").read_text()
    assert "of width 2" in card
    assert "HubModel" not in card
    with pytest.raises(WSSLError, match=f"is a {name} model"):
        HubModel.from_pretrained(str(tmp_path / "model"))


@pytest.mark.slow
def test_an_onnx_file_gives_the_same(rival, tmp_path, capsys):
    _, run = rival
    main(["export", "onnx", f"ckpt={run}/best.ckpt", f"out={tmp_path}/model.onnx"])
    assert "differs from PyTorch by at most" in capsys.readouterr().out  # refused where it is more than 1e-3


def test_a_checkpoint_of_another_stage_is_refused(rival, tmp_path, capsys):
    name, run = rival
    downstream, own = ["stage=downstream", *SMALL], [f"stage={name}", *SMALL, *MODEL[name]]
    for line, message in (
        ([*downstream, f"ckpt={run}/best.ckpt"], f"is a {name} checkpoint; a pretext one is needed"),
        ([*downstream, f"resume={run}/last.ckpt", "ckpt=none"], "a downstream one is needed"),
        ([*own, "freeze_layers=3"], "unknown option 'model.freeze_layers': it belongs to stage=downstream"),
        ([*own, "ckpt=none"], "unknown option 'model.ckpt': it belongs to stage=downstream"),
    ):
        with pytest.raises(SystemExit):
            main([*line, f"--run.dir={tmp_path}/run"])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
