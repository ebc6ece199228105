"""Small made-up photographs: smooth colour, edges and texture, different for every seed."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def make_photograph(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 HWC RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.zeros((height, width, 3), np.float32)
    for _ in range(12):
        fx, fy = rng.uniform(-0.6, 0.6, 2)
        picture += rng.uniform(-1, 1, 3) * np.sin(fx * x + fy * y + rng.uniform(0, 6))[..., None]
    for _ in range(8):
        cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(3, height / 3)
        picture[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] += rng.uniform(-2, 2, 3)
    low, high = picture.min(), picture.max()
    return ((picture - low) / (high - low) * 255).round().astype(np.uint8)


def write_photographs(folder: Path, count: int, *, height: int = 240, width: int = 300) -> Path:
    """`count` PNG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = make_photograph(height, width, seed=index)
        Image.fromarray(pixels).save(folder / f"photograph-{index:03}.png", compress_level=1)
    return folder
