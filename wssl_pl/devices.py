"""Which precision suits the device, and how many threads a CPU gives.

PyTorch is imported where it is asked, since what runs by onnxruntime needs the number of cores, but no PyTorch.
"""

import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, Literal

WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""How threads wait for each other at the end of a parallel operation, for GNU's OpenMP and for Intel's and LLVM's.

They spin for some 20 µs (KMP: 1 ms) and sleep then. The default of 300,000 rounds (200 ms) keeps a core busy on which
the awaited thread could work, where another program needs a core: a training step of width 16 took 31 times as long.
Sleeping at once (`OMP_WAIT_POLICY=passive`) is no better there, and small steps on a quiet machine take twice as long.
Measured by `benchmarks/neighbour.py`.
"""
BF16_ROUNDS = 5
WORTHWHILE = 0.8
"""bfloat16 is chosen below this fraction of float32's time. Measured ratios are far from it, so that the choice is the
same every time."""
MIN_WATCHED_S = 1.0  # seconds over which the load of other programs is meaningful

_start: tuple[float, float, float] | None = None  # time, busy seconds of all cores, and those of this process


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX-512 BF16 or AMX)."""
    capabilities = _capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@cache
def bf16_cost() -> float:
    """Return the time of a convolution's step in bfloat16 as a multiple of float32's, measured here in some 0.1 s.

    Native instructions alone say little: a step of `wssl train` takes half as long in bfloat16 on an AMD EPYC 9004, and
    1.4 times as long on an Intel Xeon of the fourth generation whose virtual machine hides AMX. On one thread, in its
    own time and the best of several, so that other programs on the machine do not decide.
    """
    import torch

    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    images, weights = torch.ones(4, 32, 64, 64), torch.ones(32, 32, 3, 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(BF16_ROUNDS):
            for dtype, found in times.items():
                ours = images.to(dtype, memory_format=torch.channels_last).requires_grad_()
                theirs = weights.to(dtype, memory_format=torch.channels_last).requires_grad_()
                started = time.thread_time()
                torch.nn.functional.conv2d(ours, theirs, padding=1).sum().backward()
                found.append(time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return min(times[torch.bfloat16]) / min(times[torch.float32])


def _capabilities() -> dict[str, Any]:
    """What PyTorch knows of this CPU; nothing in releases before it could tell."""
    import torch

    return getattr(torch.cpu, "get_capabilities", dict)()


def share_cores() -> None:
    """Prepare this process for other programs on its cores; to be called before PyTorch is imported.

    Sets how OpenMP's threads wait, which is read once when PyTorch loads it, unless the user has set it. From here on
    the load of other programs is watched, for `choose_threads`.
    """
    global _start
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in (*WAITING, "OMP_WAIT_POLICY")):
        os.environ.update(WAITING)
    _start = _load_now()


def busy_cores() -> float:
    """Return how many of this process's cores other programs have used, on average, since `share_cores`.

    0 where this is not known: outside Linux, and within the first second.
    """
    now = _load_now()
    if _start is None or now is None or now[0] - _start[0] < MIN_WATCHED_S:
        return 0.0
    seconds, busy, own = (after - before for after, before in zip(now, _start, strict=True))
    return max(0.0, (busy - own) / seconds)


def _load_now(path: Path = Path("/proc/stat")) -> tuple[float, float, float] | None:
    """Return the time, the seconds that the usable cores were busy, and those that this process has used."""
    try:
        lines = path.read_text().splitlines()
        cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        tick = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None  # not Linux
    busy = 0.0
    for name, *counts in map(str.split, lines):
        if name in cores:
            user, nice, system, _idle, _iowait, *interrupts = map(int, counts)
            # Interrupts and time stolen by the host; what guests use is part of the user's.
            busy += (user + nice + system + sum(interrupts[:3])) / tick
    return time.monotonic(), busy, sum(os.times()[:4])


def choose_threads(processes: int = 1) -> int:
    """Threads for each of `processes` that train on this CPU: its cores, as far as this process may use them.

    The scheduler's affinity and the quota of a container count, which PyTorch does not look at; a second thread on a
    core's other half does not help a convolution, so physical cores are counted where the machine tells them. Cores
    that other programs keep busy are left to them: a thread there makes all others wait for its turn at every
    operation. `OMP_NUM_THREADS` is taken as it is.
    """
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    usable = usable_cores()
    physical = _capabilities().get("num_physical_cores") or usable
    if processes > 1:
        return max(1, min(usable, physical) // processes)  # they see each other's load
    free = _affinity() - round(busy_cores())
    return max(1, min(usable, physical, free))


def usable_cores() -> int:
    """Cores that this process may use, by the scheduler's affinity and the quota of a container."""
    usable = _affinity()
    return max(1, min(usable, _quota(usable)))


def _affinity() -> int:
    """Return the number of cores that the scheduler gives this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota(default: int, path: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The cores that a Linux control group grants, rounded up; `default` without a limit."""
    try:
        quota, period = path.read_text().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        # No such file, or "max" where a number would stand.
        return default


def has_accelerator() -> bool:
    """Return whether Lightning's `accelerator=auto` would choose something else than the CPU."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def choose_precision(accelerator: str = "auto") -> tuple[str, str]:
    """Lightning's `precision` for an accelerator (`auto`, `cpu`, `gpu`, `cuda`, `mps`), and the reason in words."""
    import torch

    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", f"{name} computes bfloat16 natively"
        return "16-mixed", f"{name} has no native bfloat16"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true", "MPS device"
    count = torch.get_num_threads()
    threads = f"CPU with {count} thread{'' if count == 1 else 's'}"
    if busy := round(busy_cores()):
        threads += f" ({busy} of {_affinity()} cores busy with other programs; OMP_NUM_THREADS sets the number)"
    if not cpu_has_bf16():
        return "32-true", f"{threads}, without native bfloat16"
    cost = bf16_cost()
    if cost < WORTHWHILE:
        return "bf16-mixed", f"{threads} and native bfloat16"
    return "32-true", f"{threads}, on which bfloat16 takes {cost:.1f} times as long as float32"


def choose_inference_precision(device: str) -> Literal["32-true", "bf16-mixed"]:
    """Return `bf16-mixed` on a CPU where it is measured to be faster, else `32-true`.

    Args:
        device: `cpu`, `cuda` or `mps`.
    """
    return "bf16-mixed" if device == "cpu" and cpu_has_bf16() and bf16_cost() < WORTHWHILE else "32-true"
