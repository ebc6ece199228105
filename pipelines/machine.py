"""The machine that figures were measured on, in words."""

import platform
from pathlib import Path

import torch


def machine_name(device: str | None = None) -> str:
    """Processor, threads, GPU and torch: "AMD EPYC 9R14, 2 threads, torch 2.14.1"."""
    parts = [_processor(), f"{torch.get_num_threads()} threads", f"torch {torch.__version__}"]
    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    if on_gpu:
        parts.insert(0, torch.cuda.get_device_name(device))
    return ", ".join(parts)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
