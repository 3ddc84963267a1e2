import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wssl_pl import devices

ROOT = Path(__file__).parents[1]


def test_threads_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"num_physical_cores": 16})
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(devices, "_quota", lambda default: default)
    assert devices.choose_threads() == 8
    assert devices.choose_threads(processes=2) == 4
    assert devices.choose_threads(processes=99) == 1
    monkeypatch.setattr(devices, "_quota", lambda default: 3)
    assert devices.choose_threads() == 3


def test_a_typed_number_of_threads_is_taken_as_it_is(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert devices.choose_threads() == torch.get_num_threads()


def test_the_quota_of_a_container(tmp_path):
    limit = tmp_path / "cpu.max"
    limit.write_text("150000 100000\n")
    assert devices._quota(8, limit) == 2
    limit.write_text("max 100000\n")
    assert devices._quota(8, limit) == 8
    assert devices._quota(8, tmp_path / "none") == 8


def test_precision_follows_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(devices, "bf16_cost", lambda: 0.5)
    assert devices.choose_precision("cpu")[0] == "bf16-mixed"
    monkeypatch.setattr(devices, "bf16_cost", lambda: 1.4)
    precision, reason = devices.choose_precision("cpu")
    assert precision == "32-true"
    assert "bfloat16 takes 1.4 times as long as float32" in reason
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    precision, reason = devices.choose_precision("auto")
    assert precision == "32-true"
    assert "without native bfloat16" in reason


def test_the_cost_of_bfloat16_is_measured_without_changing_anything():
    torch.manual_seed(0)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert 0.05 < devices.bf16_cost() < 50.0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_precision_follows_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    for native, precision in ((True, "bf16-mixed"), (False, "16-mixed")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native, **kwargs: native)
        assert devices.choose_precision("auto")[0] == precision


STAT = """cpu  900 0 0 100 0 0 0 0 0 0
cpu0 {busy} 10 20 1000 500 1 2 3 {busy} 0
cpu1 0 0 0 9000 0 0 0 0 0 0
cpu2 700000 0 0 0 0 0 0 0 0 0
intr 12345
"""


def test_the_load_of_other_programs_is_what_the_cores_did_beside_this_process(monkeypatch, tmp_path):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(devices.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(devices.os, "times", lambda: (1.0, 0.5, 0.2, 0.3, 99.0))
    monkeypatch.setattr(devices.time, "monotonic", lambda: 10.0)
    (tmp_path / "stat").write_text(STAT.format(busy=400))
    assert devices._load_now(tmp_path / "stat") == (10.0, pytest.approx(4.36), 2.0)
    assert devices._load_now(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("now", "busy"),
    [((4.0, 8.0, 3.0), 1.25), ((4.0, 3.0, 3.0), 0.0), ((0.5, 8.0, 0.0), 0.0), (None, 0.0)],
    ids=["a neighbour", "this process alone", "too early", "not Linux"],
)
def test_busy_cores(monkeypatch, now, busy):
    monkeypatch.setattr(devices, "_start", (0.0, 0.0, 0.0))
    monkeypatch.setattr(devices, "_load_now", lambda: now)
    assert devices.busy_cores() == busy


def test_a_busy_core_is_left_to_the_neighbour(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"num_physical_cores": 4})
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    monkeypatch.setattr(devices, "_quota", lambda default: default)
    chosen = []
    for busy in (0.0, 0.4, 1.1, 2.0, 9.0):
        monkeypatch.setattr(devices, "busy_cores", lambda busy=busy: busy)
        chosen.append(devices.choose_threads())
    assert chosen == [4, 4, 3, 2, 1]
    assert devices.choose_threads(processes=2) == 2  # they see each other's load
    # Hyperthreads and a container's quota leave room for the neighbour beside our threads.
    monkeypatch.setattr(devices, "busy_cores", lambda: 2.0)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"num_physical_cores": 2})
    assert devices.choose_threads() == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "2 of 4 cores busy with other programs" in devices.choose_precision("cpu")[1]


WATCH = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print({key: value for key, value in os.environ.items() if key.startswith(("GOMP", "KMP", "OMP_WAIT"))})
            os._exit(0)

sys.meta_path.insert(0, Watch())
sys.argv[1:] = ["stage=pretext", "tasks=[rotation]"]
import runpy
runpy.run_module("wssl_pl", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, devices.WAITING),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_how_threads_wait_is_set_before_pytorch_is_imported(given, found):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP", "KMP", "OMP_WAIT"))}
    command = [sys.executable, "-c", WATCH]
    done = subprocess.run(command, cwd=ROOT, env=kept | given, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert ast.literal_eval(line) == found
