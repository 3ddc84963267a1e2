"""Two processes on the CPU measure what one measures."""

import re
from pathlib import Path

import pytest

from tests.data.fakes import image_tree
from tests.processes import run_both_ranks
from wssl_pl.cli import main

TRAIN = Path(__file__).parents[2] / "train.py"
SMALL = [
    "--data.image_size=32", "--data.resize=36", "--data.limit=10", "--data.num_workers=0", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--trainer.precision=32-true",
]  # fmt: skip
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


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
def test_two_processes_give_the_metrics_of_one(tmp_path, monkeypatch, capsys, stage):
    monkeypatch.chdir(tmp_path)
    # A learning rate that moves nothing, so that both measure the same weights; 10 images over 2 processes in
    # batches of 3 would be measured as 12 by a sampler that pads.
    options, expected = STAGES[stage]
    args = [f"stage={stage}", *options, "--model.width=4", "--model.lr=1e-30", "--trainer.max_epochs=1"]
    main([*args, *SMALL, "--data.batch_size=6", "--run.dir=one"])
    one = capsys.readouterr().out
    code, two = run_both_ranks(TRAIN, *args, *SMALL, *TWO, "--data.batch_size=3", folder=tmp_path)
    assert code == 0, two
    assert "sync_dist" not in two  # the metrics are those of all processes already
    assert figures(two) == pytest.approx(figures(one), abs=2e-4)
    assert expected <= set(figures(one))
    # Both processes shared one folder, made by the first.
    (folder,) = (tmp_path / "runs" / stage).iterdir()
    assert (folder / "best.ckpt").exists()


@pytest.mark.slow
def test_fewer_validation_images_than_processes_are_one_line(tmp_path):
    image_tree(tmp_path / "images", {"train": 8, "val": 1})
    args = ["stage=pretext", "tasks=rotation", "--model.width=2", "--data.batch_size=4", "--data.images=images"]
    code, errors = run_both_ranks(TRAIN, *args, *SMALL, *TWO, folder=tmp_path)
    assert code == 2
    assert "Traceback" not in errors
    # Each process that gets so far says it.
    found = {line for line in errors.splitlines() if line.startswith("error: ")}
    assert found == {"error: data.images=images: has 1 val images for 2 processes: add images, or use fewer devices"}
    assert not list((tmp_path / "runs").glob("*/*"))
