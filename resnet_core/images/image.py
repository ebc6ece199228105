"""`Image`: decoded pixels and what travels with them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """One decoded image, upright: the orientation tag is already applied to the pixels.

    pixels: uint8 0..255 or uint16 0..65535, HWC, C = 1 (gray) or 3 (RGB), C-contiguous.
    alpha: the same dtype and size, HW1, straight (not premultiplied), or None.
    format: the real format of the source, a key of `FORMATS`.
    icc_profile: the profile of `pixels`; None means sRGB.
    exif: a TIFF stream (without the "Exif" prefix) whose orientation is 1, without thumbnail.
    xmp: the XMP packet as found, its orientation reset where the pixels were turned.
    lossless: the source's compression kept every value; a WebP goes out the way it came in.
    jpeg_quality: of the source, 1..100, by its quantisation tables; None where it has none.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    format: str
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    lossless: bool = False
    jpeg_quality: int | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype.name not in ("uint8", "uint16"):
            raise ValueError(f"pixels: expected uint8 or uint16, found {dtype}")
        if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape:
            raise ValueError(f"pixels: expected height x width x 1 or 3, found {shape}")
        if self.alpha is None:
            return
        if self.alpha.shape != (*shape[:2], 1) or self.alpha.dtype != dtype:
            raise ValueError(
                f"alpha: expected {dtype} {(*shape[:2], 1)}, "
                f"found {self.alpha.dtype} {self.alpha.shape}"
            )

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return self.pixels.shape[1]


def round_to_8_bit(samples: Pixels) -> NDArray[np.uint8]:
    """uint16 0..65535 to the nearest of 0..255; uint8 as it is."""
    if samples.dtype == np.uint8:
        return samples.astype(np.uint8, copy=False)
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
