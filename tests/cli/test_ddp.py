"""Two processes on the CPU measure what one measures; each command line runs on its own, as DDP starts it anew."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.fakes import image_tree

ROOT = Path(__file__).parents[2]
SMALL = [
    "--data.image_size=32", "--data.resize=36", "--data.limit=10", "--data.num_workers=0", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--trainer.precision=32-true",
]  # fmt: skip


def run(folder, *args, code=0):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(ROOT / "train.py"), *args]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == code, done.stderr[-2000:]
    if code:
        return done.stderr
    assert "sync_dist" not in done.stderr  # the metrics are those of all processes already
    return done.stdout


def figures(output):
    return {name: float(value) for name, value in re.findall(r"(val/\w+) (-?[\d.]+)", output)}


STAGES = {
    "downstream": (["ckpt=none"], {"val/psnr", "val/ssim_composite"}),
    # What is logged of both tasks goes into `val/score`.
    "pretext": (
        ["tasks=rotation,masked", "weighting=uncertainty", "--model.probe_steps=3"],
        {"val/score", "val/loss", "val/probe_psnr", "val/rankme"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_give_the_metrics_of_one(tmp_path, stage):
    # A learning rate that moves nothing, so that both measure the same weights; 10 images over 2 processes in
    # batches of 3 would be measured as 12 by a sampler that pads.
    options, expected = STAGES[stage]
    args = [f"stage={stage}", *options, "--model.width=4", "--model.lr=1e-30", "--trainer.max_epochs=1"]
    one = run(tmp_path, *args, *SMALL, "--data.batch_size=6", "--run.dir=one")
    two = run(
        tmp_path, *args, *SMALL, "--data.batch_size=3", "--trainer.devices=2", "--trainer.strategy=ddp"
    )  # fmt: skip
    assert figures(two) == pytest.approx(figures(one), abs=2e-4)
    assert expected <= set(figures(one))
    # Both processes shared one folder, made by the first.
    (folder,) = (tmp_path / "runs" / stage).iterdir()
    assert (folder / "best.ckpt").exists()


@pytest.mark.slow
def test_fewer_validation_images_than_processes_are_one_line(tmp_path):
    image_tree(tmp_path / "images", {"train": 8, "val": 1})
    args = ["stage=pretext", "tasks=rotation", "--model.width=2", "--data.batch_size=4", "--data.images=images"]
    errors = run(tmp_path, *args, *SMALL, "--trainer.devices=2", "--trainer.strategy=ddp", code=2)
    assert "Traceback" not in errors
    # Each process that gets so far says it.
    found = {line for line in errors.splitlines() if line.startswith("error: ")}
    assert found == {"error: data.images=images: has 1 val images for 2 processes: add images, or use fewer devices"}
    assert not list((tmp_path / "runs").glob("*/*"))
