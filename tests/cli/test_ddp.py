"""Two processes on the CPU train and measure as one."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.fakes import image_tree
from tests.processes import PATIENCE_S, run_both_ranks, unused_port
from wssl_pl.cli import main
from wssl_pl.models import open_model
from wssl_pl.modules import read_checkpoint

TRAIN = Path(__file__).parents[2] / "train.py"
SMALL = [
    "--data.image_size=32", "--data.resize=36", "--data.limit=10", "--data.num_workers=0", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--trainer.precision=32-true",
]  # fmt: skip
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TRAIN.parent), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
ROUNDING = {"rel": 1e-6, "abs": 1e-6}


def figures(run):
    """Return the values of the last validation of a run, by name."""
    with (run / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items() if v and k.startswith("val/")} for row in csv.DictReader(file)]
    return [row for row in rows if row][-1]


def weights_of(run):
    state = read_checkpoint(run / "last.ckpt")["state_dict"]
    return {name: value.double().numpy() for name, value in state.items() if value.is_floating_point()}


def assert_same(run, other):
    """Check that two runs have the same metrics and weights but for rounding.

    Adam divides by the size of the gradient, and so makes of the rounding of a small one some thousandths of a step.
    """
    assert figures(run) == pytest.approx(figures(other), **ROUNDING)
    assert weights_of(run).keys() == weights_of(other).keys()
    for name, value in weights_of(other).items():
        np.testing.assert_allclose(weights_of(run)[name], value, rtol=1e-6, atol=1e-5, err_msg=name)


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
def test_two_processes_give_the_weights_and_metrics_of_one(tmp_path, monkeypatch, stage):
    monkeypatch.chdir(tmp_path)
    # 10 images over 2 processes in batches of 3 would be measured as 12 by a sampler that pads.
    options, expected = STAGES[stage]
    args = [f"stage={stage}", *options, *SMALL, "--model.width=4", "--model.lr=1e-3", "--trainer.max_epochs=2"]
    main([*args, "--data.batch_size=6", "--run.dir=one"])
    code, said = run_both_ranks(TRAIN, *args, *TWO, "--data.batch_size=3", folder=tmp_path)
    assert code == 0, said
    assert "sync_dist" not in said  # the metrics are those of all processes already
    # Both processes shared one folder, made by the first.
    (two,) = (tmp_path / "runs" / stage).iterdir()
    assert_same(two, tmp_path / "one")
    assert expected <= set(figures(two))
    assert sorted(path.name for path in two.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]


@pytest.mark.slow
def test_sharded_training_gives_the_weights_of_one_process_in_an_ordinary_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["stage=downstream", "ckpt=none", *SMALL, "--model.width=2", "--model.lr=1e-3", "--model.norm=group"]
    args += ["--model.freeze_layers=4", "--trainer.max_epochs=1", "--data.limit=13"]  # 3 and 2 batches to validate
    sharded = ["--trainer.devices=2", "--trainer.strategy=fsdp", "--data.batch_size=3"]
    for name, words in (("ddp", [*TWO, "--data.batch_size=3"]), ("sharded", sharded)):
        code, said = run_both_ranks(TRAIN, *args, *words, f"--run.dir={name}", folder=tmp_path)
        assert code == 0, said
    assert_same(tmp_path / "sharded", tmp_path / "ddp")
    image = np.full((1, 3, 32, 32), 0.5, np.float32)
    found, expected = (open_model(f"{name}/best.ckpt")(image, image[:, :1] > 1) for name in ("sharded", "ddp"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # Either continues the other's run.
    more = ["--trainer.max_epochs=2", *SMALL]
    code, said = run_both_ranks(TRAIN, "resume=ddp/last.ckpt", "--run.dir=there", *more, *sharded, folder=tmp_path)
    assert code == 0, said
    code, said = run_both_ranks(
        TRAIN, "resume=sharded/last.ckpt", "--run.dir=back", *more, *TWO, "--data.batch_size=3", folder=tmp_path
    )
    assert code == 0, said
    assert_same(tmp_path / "there", tmp_path / "back")


@pytest.mark.slow
def test_two_nodes_of_torchrun_train_as_one_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["stage=downstream", "ckpt=none", *SMALL, "--model.width=2", "--model.lr=1e-3", "--trainer.max_epochs=1"]
    main([*args, "--data.batch_size=6", "--run.dir=one"])
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d",
        f"--rdzv_endpoint=127.0.0.1:{unused_port()}", "--rdzv_id=test", "--local_addr=127.0.0.1",
    ]  # fmt: skip
    words = [*args, "--data.batch_size=3", "--run.dir=two", "--trainer.num_nodes=2", "--trainer.devices=1"]
    outputs = [tmp_path / f"node{node}.txt" for node in range(2)]
    nodes = []
    for output in outputs:
        with output.open("w") as file:
            command = [*torchrun, str(TRAIN), *words, "--trainer.strategy=ddp"]
            nodes.append(subprocess.Popen(command, env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT))
    try:
        codes = [node.wait(PATIENCE_S) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert codes == [0, 0], [output.read_text() for output in outputs]
    assert_same(tmp_path / "two", tmp_path / "one")
    assert sum("Finished after 1 steps" in output.read_text() for output in outputs) == 1
    assert sorted(path.name for path in (tmp_path / "two").glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]


OTHER_STRATEGIES = {
    "spawn": (["stage=downstream", "ckpt=none"], "ddp_spawn"),
    "rival": (["stage=shift_net", "--model.downs=5"], "ddp"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHER_STRATEGIES)
def test_spawned_processes_and_a_rival_leave_one_whole_run(tmp_path, case):
    words, strategy = OTHER_STRATEGIES[case]
    words = [*words, *SMALL, "--model.width=2", "--data.batch_size=3", "--trainer.max_epochs=1", "--run.dir=run"]
    words += ["--trainer.devices=2", f"--trainer.strategy={strategy}"]
    if strategy == "ddp":
        code, said = run_both_ranks(TRAIN, *words, folder=tmp_path)
    else:
        command = [sys.executable, str(TRAIN), *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        code, said = done.returncode, done.stdout + done.stderr
    assert code == 0, said
    assert all(map(math.isfinite, figures(tmp_path / "run").values()))
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] in (1, 2)  # with a discriminator, both count
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "finished"


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
