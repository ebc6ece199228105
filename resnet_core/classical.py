"""The traditional ways to make a picture clearer: what a network has to beat.

Each takes uint8 HWC (RGB or gray, C = 3 or 1) and a whole `scale`, and gives uint8 HWC, `scale`
times as large. The filters work on the bicubic enlargement; at scale 1 that is the picture itself.
Their strengths were chosen on photographs apart from the test sets: sharpening for x2 and x4, the
bilateral filter for noise of 25 levels. Non-local means have their authors' and estimate the noise.
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


def non_local_means(pixels: Levels, scale: int, *, radius_px: int = 10) -> Levels:
    """Bicubic, then the mean of pixels whose surroundings are alike.

    Buades, Coll and Morel 2011, doi:10.5201/ipol.2011.bcm_nlm, with its values for colour images up
    to a sigma of 55: 3x3 px are compared up to 25, 5x5 above it. The noise's sigma is estimated.
    Looked at are pixels up to `radius_px` away in x and y, as in the paper up to a sigma of 25;
    above it 17 is up to 0.5 dB better at 2.8 times the cost.
    """
    enlarged = bicubic(pixels, scale)
    sigma_levels = noise_sigma_levels(enlarged)
    if sigma_levels == 0:
        return enlarged
    margin_px = radius_px + _like_radius_px(sigma_levels)
    margin = (margin_px, margin_px)
    padded = np.pad(enlarged, (margin, margin, (0, 0)), mode="symmetric")
    strips = [
        _non_local_strip(
            padded[rows].astype(np.float32), radius_px=radius_px, sigma_levels=sigma_levels
        )
        for rows in _strips(enlarged.shape[0], margin_px)
    ]
    return to_levels(np.concatenate(strips) / np.float32(255.0))


def noise_sigma_levels(pixels: Levels) -> float:
    """Standard deviation of the noise in a photograph (uint8 HWC), levels of 255.

    From what a mask answers that knows no planes and no edges along x or y (Immerkaer 1996,
    doi:10.1006/cviu.1996.0060); the median, since edges aside are few.
    """
    levels = pixels.astype(np.float32)
    rows = levels[2:] - 2 * levels[1:-1] + levels[:-2]
    answers = rows[:, 2:] - 2 * rows[:, 1:-1] + rows[:, :-2]
    return float(np.median(np.abs(answers)) / (0.6745 * 6)) if answers.size else 0.0


CLASSICAL: Final[dict[str, Enhance]] = {
    "bicubic": bicubic,
    "lanczos": lanczos,
    "unsharp-mask": unsharp_mask,
    "median": median,
    "bilateral": bilateral,
    "non-local-means": non_local_means,
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


def _like_radius_px(sigma_levels: float) -> int:
    return 1 if sigma_levels <= 25 else 2


def _non_local_strip(
    padded: NDArray[np.float32], *, radius_px: int, sigma_levels: float
) -> NDArray[np.float32]:
    """float32 HWC, levels, in and out; the result lacks both margins."""
    like_px = _like_radius_px(sigma_levels)
    planes_chw = np.ascontiguousarray(padded.transpose(2, 0, 1))
    channels, height, width = planes_chw.shape
    height, width = height - 2 * radius_px, width - 2 * radius_px
    centre = planes_chw[:, radius_px : radius_px + height, radius_px : radius_px + width]
    expected = np.float32(2 * sigma_levels**2)
    steepness = np.float32(-1 / ((0.55 if like_px == 1 else 0.4) * sigma_levels) ** 2)
    inner = slice(like_px, -like_px)
    total = np.zeros((channels, height - 2 * like_px, width - 2 * like_px), dtype=np.float32)
    weights = np.zeros(total.shape[1:], dtype=np.float32)
    for top in range(2 * radius_px + 1):
        for left in range(2 * radius_px + 1):
            neighbour = planes_chw[:, top : top + height, left : left + width]
            distance = _box_mean(np.square(neighbour - centre).mean(axis=0), like_px)
            weight = np.exp(np.maximum(distance - expected, 0) * steepness)
            total += weight * neighbour[:, inner, inner]
            weights += weight
    return (total / weights).transpose(1, 2, 0)


def _box_mean(plane: NDArray[np.float32], radius_px: int) -> NDArray[np.float32]:
    """Means over squares that lie wholly inside: float32 HW, `radius_px` less at each side."""
    side = 2 * radius_px + 1
    height, width = plane.shape[0] - side + 1, plane.shape[1] - side + 1
    rows = sum((plane[k : k + height] for k in range(1, side)), plane[:height])
    total = sum((rows[:, k : k + width] for k in range(1, side)), rows[:, :width])
    return total / np.float32(side * side)
