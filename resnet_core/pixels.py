"""The one crossing between images (integer, HWC) and tensors (float, NCHW, 0..1)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_nchw(pixels: NDArray[Any]) -> Tensor:
    """uint8 or uint16, HWC or NHWC -> float32 NCHW (N is 1 for HWC), 0..1, channels last."""
    batch = pixels if pixels.ndim == 4 else pixels[None]
    levels = batch.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return torch.from_numpy(levels).permute(0, 3, 1, 2)


def to_levels(x_nchw: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """float NCHW, 0..1 (clipped here) -> NHWC of `dtype` (uint8 or uint16), rounded to nearest.

    NaN has no level: what it becomes is undefined.
    """
    top = int(np.iinfo(dtype).max)
    scaled = x_nchw.detach().float().clamp(0, 1).mul(top).round()
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).cpu().numpy().astype(dtype))
