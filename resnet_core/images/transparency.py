"""Colour under transparent pixels, so that an enlargement's edges aren't darkened.

What a file stores under fully transparent pixels is arbitrary, mostly black, and any filter that
reads across the edge mixes it into the visible side. Here it is replaced by the colour of the
visible neighbours, near ones first, by the pull-push pyramid of Gortler et al., "The Lumigraph"
(SIGGRAPH 1996).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.images.image import Pixels

Floats = NDArray[np.floating[Any]]


def fill_transparent(pixels: Pixels, alpha: Pixels) -> Pixels:
    """`pixels` with new colour where `alpha` is 0; every other value is kept exactly.

    pixels: uint8 or uint16 HWC; alpha: HW1 of the same dtype. Where nothing or everything is
    transparent, `pixels` itself is returned.
    """
    hidden = alpha[..., 0] == 0
    if not hidden.any() or hidden.all():
        return pixels
    weight = alpha.astype(np.float32) / np.float32(np.iinfo(alpha.dtype).max)
    colour = _pull_push(pixels.astype(np.float32), weight)
    filled = pixels.copy()
    filled[hidden] = np.rint(colour[hidden]).astype(pixels.dtype)
    return filled


def _pull_push(colour: Floats, weight: Floats) -> Floats:
    """colour float32 HWC and weight HW1 0..1: the same with colour wherever weight is 0."""
    if weight.min() > 0:
        return colour
    pulled_weight = _halve(weight)
    pulled = _halve(colour * weight) / np.maximum(pulled_weight, np.float32(1e-12))
    if max(weight.shape[:2]) > 2:
        pulled = _pull_push(pulled, np.minimum(pulled_weight, np.float32(1)))
    return np.where(weight > 0, colour, _double(pulled, weight.shape[0], weight.shape[1]))


def _halve(values: Floats) -> Floats:
    """Sums of 2x2 blocks, odd sizes padded by nothing."""
    height, width = values.shape[:2]
    padded = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    rows = padded[0::2] + padded[1::2]
    return rows[:, 0::2] + rows[:, 1::2]


def _double(values: Floats, height: int, width: int) -> Floats:
    """Twice as large, linear between the centres, cut to the size asked for."""
    return _double_rows(_double_rows(values).swapaxes(0, 1)).swapaxes(0, 1)[:height, :width]


def _double_rows(values: Floats) -> Floats:
    before = np.concatenate([values[:1], values[:-1]])
    after = np.concatenate([values[1:], values[-1:]])
    out = np.empty((2 * values.shape[0], *values.shape[1:]), np.float32)
    out[0::2] = 0.75 * values + 0.25 * before
    out[1::2] = 0.75 * values + 0.25 * after
    return out
