"""What a device computes in."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]
"""`auto` is bfloat16 where the device computes in it, else float32."""


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of the convolutions on `device`."""
    if precision == "auto":
        precision = "bfloat16" if _computes_in_bfloat16(device) else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def fix_arithmetic(device: torch.device) -> None:
    """Float32 is float32 on a GPU too (no TF32), and convolutions give the same each time.

    For the whole process: torch has these settings but once.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # oneDNN takes bfloat16 on other CPUs too, but runs it many times slower than float32.
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
