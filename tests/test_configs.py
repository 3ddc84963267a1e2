"""Every shipped configuration runs, at a small size."""

from pathlib import Path

import pytest
import torch
import yaml
from torchvision.models import alexnet

from wssl_pl.cli import main

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SMALL = [
    "--data.image_size=32", "--data.resize=36", "--data.batch_size=4", "--data.limit=8", "--data.num_workers=0",
    "--data.images=synthetic", "--data.masks=synthetic", "--model.width=4", "--model.warmup_steps=0",
    "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with an AlexNet as it is drawn, as far as its features are compared."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = {f"features.{name}": value for name, value in alexnet().features.state_dict().items()}
    torch.save(state, folder / "alexnet_features.pth")
    return str(folder)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_runs(config, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WSSL_WEIGHTS", weights)
    settings = yaml.safe_load(config.read_text())
    needs_start = settings["stage"] == "downstream" and "ckpt" not in settings["model"]
    if needs_start:
        finished = settings["model"].get("reuse") == "all"
        start = ["stage=downstream", "ckpt=none", "freeze_layers=0"] if finished else ["stage=pretext"]
        main([*start, *SMALL, "--run.dir=start"])
    main([f"--config={config}", *SMALL, "--run.dir=run", *(["ckpt=start/best.ckpt"] if needs_start else [])])
    saved = yaml.safe_load(Path("run/config.yaml").read_text())
    assert saved["stage"] == settings["stage"]
    assert saved["model"]["width"] == 4
