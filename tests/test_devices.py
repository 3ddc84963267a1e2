import torch

from wssl_pl import devices


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
    assert devices.choose_precision("cpu")[0] == "bf16-mixed"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    precision, reason = devices.choose_precision("auto")
    assert precision == "32-true"
    assert "without native bfloat16" in reason


def test_precision_follows_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    for native, precision in ((True, "bf16-mixed"), (False, "16-mixed")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native, **kwargs: native)
        assert devices.choose_precision("auto")[0] == precision
