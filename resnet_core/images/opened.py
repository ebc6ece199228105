"""What a reader hands over before any pixel is decoded."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from resnet_core.images.image import Pixels


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An image's header, and the call that decodes its pixels.

    several: what more than one picture the file holds ("12 frames"), or "" for a still image.
    samples: decodes to uint8 or uint16 HWC, C = 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA.
    exif: an EXIF block as found; xmp: a packet as found; icc_profile: as found, of any space.
    jpeg_quality: what its quantisation tables stand for; None where it has none.
    """

    width: int
    height: int
    samples: Callable[[], Pixels]
    several: str = ""
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    lossless: bool = True
    jpeg_quality: int | None = None


def pillow_samples(image: PillowImage.Image) -> NDArray[np.uint8]:
    """Decodes any 8-bit image of Pillow but CMYK; palettes and masks are resolved."""
    image.load()
    masked = "transparency" in image.info
    modes = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA"}
    mode = modes.get(image.mode, "RGBA" if image.mode == "PA" else "RGB")
    if masked:
        mode = "LA" if mode in ("L", "LA") else "RGBA"
    if image.mode != mode:
        image = image.convert(mode)
    samples = np.array(image)
    return samples[..., None] if samples.ndim == 2 else samples
