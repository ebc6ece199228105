"""Pictures and generators for the tests of degradations."""

import numpy as np
from numpy.typing import NDArray


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(height: int = 48, width: int = 48, channels: int = 3) -> NDArray[np.uint8]:
    """uint8 HWC: waves and edges."""
    y, x = np.mgrid[:height, :width][..., np.newaxis]
    waves = 110 + 70 * np.sin(x / 5 + np.arange(channels)) * np.cos(y / 9)
    return (waves + 50 * ((x // 12 + y // 12) % 2)).clip(0, 255).astype(np.uint8)


def flat(level: int, size_px: int = 128, channels: int = 3) -> NDArray[np.float32]:
    """float32 HWC, 0..1, of one level of 0..255."""
    return np.full((size_px, size_px, channels), level / 255, dtype=np.float32)
