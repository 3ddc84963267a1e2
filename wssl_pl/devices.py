"""Which precision suits the device, and why."""

import torch


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX-512 BF16 or AMX), so that it is faster than float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_precision(accelerator: str = "auto") -> tuple[str, str]:
    """Lightning's `precision` for an accelerator (`auto`, `cpu`, `gpu`, `cuda`, `mps`), and the reason in words."""
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
