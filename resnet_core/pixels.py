"""The one crossing between images (integer, HWC) and tensors (float, NCHW, 0..1)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_TORCH_DTYPES = {"uint8": torch.uint8, "uint16": torch.uint16}


def to_nchw(pixels: NDArray[Any], device: torch.device | str = "cpu") -> Tensor:
    """uint8 or uint16, HWC or NHWC -> float32 NCHW (N is 1 for HWC), 0..1, channels last."""
    batch = pixels if pixels.ndim == 4 else pixels[None]
    # Levels travel to the device, not floats: a quarter of the bytes. The copy is writable.
    levels = torch.from_numpy(batch.copy())
    if torch.device(device).type == "cuda":
        levels = levels.pin_memory()  # the copy then doesn't wait for what the GPU has to do
    levels = levels.to(device, non_blocking=True)
    return levels.float().div_(np.iinfo(pixels.dtype).max).permute(0, 3, 1, 2)


def to_levels(x_nchw: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """float NCHW, 0..1 (clipped here) -> NHWC of `dtype` (uint8 or uint16), rounded to nearest.

    NaN has no level: what it becomes is undefined.
    """
    top = int(np.iinfo(dtype).max)
    # Conversion cuts off: half a level more rounds to nearest.
    scaled = torch.add(0.5, x_nchw.detach().float(), alpha=top).clamp_(0, top + 0.5)
    nhwc = scaled.permute(0, 2, 3, 1)
    if nhwc.device.type == "cpu":  # numpy converts five times as fast as torch
        return nhwc.numpy().astype(dtype, order="C")
    # Levels travel from the device, not floats.
    return nhwc.to(_TORCH_DTYPES[dtype.name]).contiguous().cpu().numpy()
