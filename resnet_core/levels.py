"""Pictures of 8 bits: as an array, as floats, and as Pillow's."""

from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Levels = NDArray[np.uint8]
"""uint8 HWC, 0..255, RGB or gray (C = 3 or 1)."""
Pixels = NDArray[np.float32]
"""float32 HWC, 0..1, RGB or gray."""


def to_levels(picture: Levels | Pixels) -> Levels:
    """uint8 0..255 from float32 0..1, clipped and rounded to the nearest level; uint8 as it is."""
    if picture.dtype == np.uint8:
        return cast("Levels", picture)
    return np.rint(np.clip(picture, 0.0, 1.0) * np.float32(255.0)).astype(np.uint8)


def to_pixels(picture: Levels | Pixels) -> Pixels:
    """float32 0..1 from uint8 0..255; float32 as it is."""
    if picture.dtype == np.float32:
        return cast("Pixels", picture)
    return picture.astype(np.float32) / np.float32(255.0)


def to_pil(image: Levels) -> Image.Image:
    """Pillow's picture (mode RGB or L) of uint8 HWC, C = 3 or 1."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def from_pil(image: Image.Image) -> Levels:
    """uint8 HWC, C = 3 or 1, writable, of Pillow's picture of mode RGB or L."""
    levels = np.array(image, dtype=np.uint8)
    return levels[:, :, np.newaxis] if levels.ndim == 2 else levels
