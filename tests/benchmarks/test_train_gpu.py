import json

import pytest
import torch
import train_gpu
from train_gpu import epochs_of

from wssl_pl.modules import InpaintModule

pytestmark = pytest.mark.slow
SMALL = [
    "--images=synthetic", "--masks=synthetic", "--width=4", "--size=32", "--resize=36", "--batch=4", "--limit=8",
    "--epochs-scale=0.05", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu",
]  # fmt: skip


class Ticks:
    """A clock on which every look takes a second."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1.0
        return self.now


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_calls_that_stop_in_time_end_with_what_one_call_gives(tmp_path, monkeypatch, capsys):
    assert train_gpu.main([*SMALL, f"--out={tmp_path / 'whole'}"])
    monkeypatch.setattr(train_gpu, "time", Ticks())
    calls = 1
    while not train_gpu.main([*SMALL, f"--out={tmp_path / 'parts'}", "--budget-s=6", "--in-memory"]):
        calls += 1
        assert calls < 20
    assert calls > 2
    for run in train_gpu.RUNS:
        whole, parts = (weights(tmp_path / name / run / "last.ckpt") for name in ("whole", "parts"))
        assert all(torch.equal(whole[key], parts[key]) for key in whole)
    results = json.loads((tmp_path / "parts" / "results.json").read_text())
    assert results["runs"]["scratch"]["steps"] == results["pretext"]["steps"] + results["runs"]["downstream"]["steps"]
    assert results["runs"]["scratch"]["test/ssim"] > 0
    assert len((tmp_path / "parts" / "scratch" / "curve.jsonl").read_text().splitlines()) == 3
    assert "| scratch |" in (tmp_path / "parts" / "results.md").read_text()
    # Images of the data set are written nowhere.
    assert {path.name for path in tmp_path.rglob("*.png")} == {"images_downstream.png", "images_scratch.png"}
    assert not list(tmp_path.rglob("events*"))

    # Finished runs are not trained again; their weights are exported in pieces that make a checkpoint again.
    monkeypatch.setattr(train_gpu, "PIECE", 20_000)
    before = (tmp_path / "parts" / "scratch" / "last.ckpt").stat().st_mtime_ns
    assert train_gpu.main([*SMALL, f"--out={tmp_path / 'parts'}", f"--export-dir={tmp_path / 'export'}"])
    assert (tmp_path / "parts" / "scratch" / "last.ckpt").stat().st_mtime_ns == before
    pieces = sorted((tmp_path / "export").glob("scratch.ckpt.*"))
    assert len(pieces) > 1
    assert max(piece.stat().st_size for piece in pieces) <= 20_000
    joined = tmp_path / "joined.ckpt"
    joined.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    module = InpaintModule.load_from_checkpoint(joined, weights_only=True)
    best = weights(tmp_path / "parts" / "scratch" / "best.ckpt")
    torch.testing.assert_close(module.state_dict(), best, atol=1e-3, rtol=1e-3)
    assert module.decoder.project.weight.dtype == torch.float32

    # Results are never those of runs with other settings.
    for option in ("--width=8", "--trainer.benchmark=true", "--masks=elsewhere"):
        with pytest.raises(SystemExit):
            train_gpu.main([*SMALL, option, f"--out={tmp_path / 'parts'}"])
        assert "name another --out" in capsys.readouterr().err


def test_the_control_has_the_epochs_of_both_stages():
    assert [epochs_of(name, 1.0) for name in train_gpu.RUNS] == [40, 20, 60]
    for scale in (0.03, 0.12, 0.55):
        assert epochs_of("scratch", scale) == epochs_of("pretext", scale) + epochs_of("downstream", scale)
