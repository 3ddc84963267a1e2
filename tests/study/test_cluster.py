"""A study on two Ray nodes of this machine that share no folder, one of them lost in its middle."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.fuzz.kills_study import processes, report
from tests.processes import PATIENCE_S, wait_until
from tests.study.conftest import TINY
from wssl_pl.study.folder import StudyFolder

ROOT = Path(__file__).parents[2]
TEMPORARY = "/wssl-study-"  # in the name of the folder in which a node trains
LONG = 200  # pretext steps: a node is lost before the last one


@pytest.fixture
def nodes(monkeypatch, tmp_path, s3, only_cluster):
    """A Ray cluster of a head that runs nothing and two nodes of one core; one is `big`."""
    pytest.importorskip("ray")
    pytest.importorskip("s3fs")
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)  # Ray replaces it in the process that starts a node
    for name, value in {
        "AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret",
        "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "PYTHONPATH": str(ROOT),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    given = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=given | {"num_cpus": 0})
    nodes = [
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, resources=own)
        for own in ({"big": 1}, {"small": 1})
    ]
    cluster.wait_for_nodes()
    yield cluster, nodes
    cluster.shutdown()
    signal.signal(signal.SIGTERM, handler)


def trainings():
    """Return the training processes of studies with a storage, and the node's process that each one belongs to."""
    alive = processes()
    found = {
        number: parent for number, (parent, words) in alive.items() if "/wssl-study-" in words and "-m wssl_pl" in words
    }
    return {number: alive[worker][0] for number, worker in found.items() if worker in alive}


def study(*words):
    command = [sys.executable, "-m", "wssl_pl", "study", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_node_is_lost_and_the_report_is_that_of_one_machine(nodes, tmp_path, s3):
    cluster, machines = nodes
    file = tmp_path / "tiny.yaml"
    arms = {name: TINY["arms"][name] for name in ("frozen", "scratch")}
    declared = TINY | {"arms": arms, "seeds": [0], "steps": {"pretext": LONG, "downstream": 10}, "validations": 10}
    file.write_text(yaml.safe_dump(declared, sort_keys=False))
    storage, out = f"s3://studies/{tmp_path.name}", tmp_path / "out"
    driver = study(file, f"out={out}", f"storage={storage}", f"ray.address={cluster.address}")

    import s3fs

    bucket = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    wait_until(lambda: bucket.glob(f"{storage}/runs/pretext-*/last.ckpt"), "a checkpoint in the storage", driver)
    raylets = [node.all_processes["raylet"][0].process.pid for node in machines]
    # That of the pretext run: the other node trains the arm from scratch, if it has not ended.
    (pretext,) = [
        node
        for node, raylet in zip(machines, raylets, strict=True)
        if any(owner == raylet and "pretext-" in processes()[number][1] for number, owner in trainings().items())
    ]
    cluster.remove_node(pretext, allow_graceful=False)
    text, _ = driver.communicate(timeout=2 * PATIENCE_S)
    assert driver.returncode == 0, text
    assert "3 of 3 runs done, 0 failed" in text

    folder = StudyFolder(out)
    log = (folder.run(next(run for run in folder.plan().runs if run.startswith("pretext"))) / "log.txt").read_text()
    assert "$ wssl resume=" in log, "the other node started from the first step"
    assert str(out) not in log, "it was trained in the folder of the study"
    assert not any("last.ckpt" in path for path in bucket.find(storage))
    assert all((folder.run(run) / "best.ckpt").is_file() for run in folder.plan().runs)

    alone = study(file, f"out={tmp_path / 'alone'}", "parallel=1")
    text, _ = alone.communicate(timeout=2 * PATIENCE_S)
    assert alone.returncode == 0, text
    assert report(out) == report(tmp_path / "alone")
    assert json.loads((out / "storage.json").read_text()) == storage


@pytest.mark.slow
def test_runs_are_placed_on_machines_that_have_what_they_ask_for(nodes, tmp_path):
    cluster, machines = nodes
    file = tmp_path / "tiny.yaml"
    declared = TINY | {
        "arms": {"scratch": TINY["arms"]["scratch"]},
        "claims": [],
        "steps": {"pretext": 1, "downstream": 9},
    }
    file.write_text(yaml.safe_dump(declared, sort_keys=False))
    words = [file, f"out={tmp_path / 'out'}", f"ray.address={cluster.address}", "--evaluate=false"]
    refused = study(*words, "ray.resources={huge: 1}")
    text, _ = refused.communicate(timeout=PATIENCE_S)
    assert refused.returncode == 2
    assert "gpus_per_run=0: does not fit into 2 CPU cores and 0 GPUs, huge 0 of 3 machines" in text
    placed = study(*words, f"storage={tmp_path / 'storage'}", "ray.resources={big: 1}")
    owners = set()
    while placed.poll() is None:
        owners |= set(trainings().values())
        time.sleep(0.2)
    assert placed.returncode == 0, placed.stdout.read()
    assert owners == {machines[0].all_processes["raylet"][0].process.pid}
