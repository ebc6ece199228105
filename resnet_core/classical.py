"""The traditional ways to make a picture clearer: what a network has to beat.

Each takes uint8 HWC (RGB or gray, C = 3 or 1) and a whole `scale`, and gives uint8 HWC, `scale`
times as large. The filters work on the bicubic enlargement; at scale 1 that is the picture itself.
Their strengths were chosen on photographs apart from the test sets: sharpening for x2 and x4, the
bilateral filter for noise of 25 levels.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from resnet_core.levels import Levels, from_pil, to_levels, to_pil

Enhance = Callable[[Levels, int], Levels]

_STRIP_PX: Final = 64


def bicubic(pixels: Levels, scale: int) -> Levels:
    """Cubic convolution, a = -0.5 (Keys 1981, doi:10.1109/TASSP.1981.1163711), through Pillow."""
    return _resize(pixels, scale, Image.Resampling.BICUBIC)


def lanczos(pixels: Levels, scale: int) -> Levels:
    """Windowed sinc of three lobes (Duchon 1979), through Pillow."""
    return _resize(pixels, scale, Image.Resampling.LANCZOS)


def unsharp_mask(pixels: Levels, scale: int) -> Levels:
    """Bicubic, then 75 % of the difference to a blurred copy added (Gaussian of `scale` / 2 px)."""
    mask = ImageFilter.UnsharpMask(radius=scale / 2, percent=75, threshold=0)
    return from_pil(to_pil(bicubic(pixels, scale)).filter(mask))


def median(pixels: Levels, scale: int) -> Levels:
    """Bicubic, then the median of 3x3 px in each channel (Tukey 1977)."""
    return from_pil(to_pil(bicubic(pixels, scale)).filter(ImageFilter.MedianFilter(3)))


def bilateral(
    pixels: Levels,
    scale: int,
    *,
    radius_px: int = 3,
    sigma_px: float = 1.5,
    sigma_levels: float = 45.0,
) -> Levels:
    """Bicubic, then the mean of near and like neighbours (Tomasi and Manduchi 1998, eq. 5).

    Neighbours up to `radius_px` away in x and y, weighted by a Gaussian of the distance
    (`sigma_px`) and one of the colour difference (root mean square over the channels, of
    `sigma_levels`, 0..255).
    """
    enlarged = bicubic(pixels, scale)
    margin = (radius_px, radius_px)
    padded = np.pad(enlarged, (margin, margin, (0, 0)), mode="symmetric")
    strips = [
        _bilateral_strip(
            padded[rows].astype(np.float32),
            radius_px=radius_px,
            sigma_px=sigma_px,
            sigma_levels=sigma_levels,
        )
        for rows in _strips(enlarged.shape[0], radius_px)
    ]
    return to_levels(np.concatenate(strips) / np.float32(255.0))


CLASSICAL: Final[dict[str, Enhance]] = {
    "bicubic": bicubic,
    "lanczos": lanczos,
    "unsharp-mask": unsharp_mask,
    "median": median,
    "bilateral": bilateral,
}


def _resize(pixels: Levels, scale: int, resampling: Image.Resampling) -> Levels:
    if scale < 1:
        raise ValueError(f"scale: expected 1 or more, found {scale}")
    height, width = pixels.shape[:2]
    return from_pil(to_pil(pixels).resize((width * scale, height * scale), resampling))


def _strips(height: int, radius_px: int) -> Iterator[slice]:
    """Rows of the padded picture, in strips that stay in the cache."""
    for top in range(0, height, _STRIP_PX):
        yield slice(top, min(top + _STRIP_PX, height) + 2 * radius_px)


def _bilateral_strip(
    padded: NDArray[np.float32], *, radius_px: int, sigma_px: float, sigma_levels: float
) -> NDArray[np.float32]:
    """float32 HWC, levels, in and out; the result lacks the margin of `radius_px`."""
    planes_chw = np.ascontiguousarray(padded.transpose(2, 0, 1))
    channels, height, width = planes_chw.shape
    height, width = height - 2 * radius_px, width - 2 * radius_px
    centre = planes_chw[:, radius_px : radius_px + height, radius_px : radius_px + width]
    colour_factor = np.float32(-0.5 / (sigma_levels**2 * channels))
    total = np.zeros((channels, height, width), dtype=np.float32)
    weights = np.zeros((height, width), dtype=np.float32)
    for dy in range(-radius_px, radius_px + 1):
        for dx in range(-radius_px, radius_px + 1):
            top, left = radius_px + dy, radius_px + dx
            neighbour = planes_chw[:, top : top + height, left : left + width]
            squares = np.square(neighbour - centre).sum(axis=0)
            weight = np.exp(
                squares * colour_factor + np.float32(-0.5 * (dy * dy + dx * dx) / sigma_px**2)
            )
            total += weight * neighbour
            weights += weight
    return (total / weights).transpose(1, 2, 0)
