"""Which precision suits the device, and how many threads a CPU gives.

PyTorch is imported where it is asked, since what runs by onnxruntime needs the number of cores, but no PyTorch.
"""

import os
from pathlib import Path
from typing import Any


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX-512 BF16 or AMX), so that it is faster than float32."""
    capabilities = _capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _capabilities() -> dict[str, Any]:
    """What PyTorch knows of this CPU; nothing in releases before it could tell."""
    import torch

    return getattr(torch.cpu, "get_capabilities", dict)()


def choose_threads(processes: int = 1) -> int:
    """Threads for each of `processes` that train on this CPU: its cores, as far as this process may use them.

    The scheduler's affinity and the quota of a container count, which PyTorch does not look at; a second thread on a
    core's other half does not help a convolution, so physical cores are counted where the machine tells them.
    `OMP_NUM_THREADS` is taken as it is.
    """
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    usable = usable_cores()
    physical = _capabilities().get("num_physical_cores") or usable
    return max(1, min(usable, physical) // max(1, processes))


def usable_cores() -> int:
    """Cores that this process may use, by the scheduler's affinity and the quota of a container."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, _quota(usable)))


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
    threads = f"CPU with {torch.get_num_threads()} threads"
    if cpu_has_bf16():
        return "bf16-mixed", f"{threads} and native bfloat16"
    return "32-true", f"{threads}, without native bfloat16"
