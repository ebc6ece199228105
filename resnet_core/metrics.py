"""How near a picture is to its target: PSNR and SSIM, by the convention of super-resolution papers.

The convention: luma of BT.601 in limited range (16..235), `border_px` = scale pixels cut from each
side, peak 255. It reproduces the published figures of bicubic enlargement: Set5 x2 33.66 dB,
0.9299.
"""

from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

_SSIM_RADIUS_PX: Final = 5
_SSIM_SIGMA_PX: Final = 1.5
_SSIM_STRIP_PX: Final = 64
# BT.601 for R, G, B in 0..255 to luma in 16..235 (ITU-R BT.601-7, section 2.5.3).
_LUMA_WEIGHTS: Final = np.array([65.481, 128.553, 24.966]) / 255.0
_LUMA_OFFSET: Final = 16.0

Plane = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)


def psnr(a: NDArray[Any], b: NDArray[Any], *, data_range: float) -> float:
    """Peak signal-to-noise ratio, dB: 10 log10(data_range^2 / mean((a - b)^2)).

    `a`, `b`: any shape, equal; `data_range`: white minus black in their units. Equal pictures give
    inf. Raises ValueError where the shapes differ or nothing is there to compare.
    """
    _check_pair(a, b, min_side_px=1)
    error = np.mean(np.square(a.astype(np.float64) - b.astype(np.float64)))
    if error == 0.0:
        return float("inf")
    return float(10.0 * np.log10(data_range * data_range / error))


def ssim(a: NDArray[Any], b: NDArray[Any], *, data_range: float) -> float:
    """Mean structural similarity, -1..1, of two HW planes (Wang et al. 2004, eq. 13).

    Gaussian window of 11x11 px and sigma 1.5 px, K1 0.01, K2 0.03, population moments; averaged
    over the positions where the window lies wholly inside. Raises ValueError where the shapes
    differ, where they aren't HW, or where a side is under 11 px.
    """
    _check_pair(a, b, min_side_px=2 * _SSIM_RADIUS_PX + 1)
    if a.ndim != 2:
        raise ValueError(f"expected two planes HW, found shape {a.shape}")
    height = a.shape[0]
    total = 0.0
    count = 0
    for top in range(0, height - 2 * _SSIM_RADIUS_PX, _SSIM_STRIP_PX):
        rows = slice(top, min(top + _SSIM_STRIP_PX + 2 * _SSIM_RADIUS_PX, height))
        similarity = _ssim_map(
            a[rows].astype(np.float64), b[rows].astype(np.float64), data_range=data_range
        )
        total += float(similarity.sum())
        count += similarity.size
    return total / count


def luma_y(pixels: NDArray[np.uint8]) -> Plane:
    """BT.601 luma of limited range, float64 HW, 16..235, not rounded.

    `pixels`: uint8 HWC, RGB or gray (C = 1, taken as R = G = B).
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(
            f"expected uint8 HWC with 1 or 3 channels, found {pixels.dtype} {pixels.shape}"
        )
    if pixels.shape[2] == 1:
        return pixels[:, :, 0].astype(np.float64) * _LUMA_WEIGHTS.sum() + _LUMA_OFFSET
    return pixels.astype(np.float64) @ _LUMA_WEIGHTS + _LUMA_OFFSET


def psnr_y(output: NDArray[np.uint8], target: NDArray[np.uint8], *, border_px: int) -> float:
    """PSNR in dB on BT.601 luma, peak 255, `border_px` cut from each side (papers: the scale).

    `output`, `target`: uint8 HWC, RGB or gray, 0..255. Equal pictures give inf.
    """
    _check_pair(output, target, min_side_px=2 * border_px + 1)
    return psnr(
        crop_border(luma_y(output), border_px),
        crop_border(luma_y(target), border_px),
        data_range=255.0,
    )


def ssim_y(output: NDArray[np.uint8], target: NDArray[np.uint8], *, border_px: int) -> float:
    """Mean SSIM on BT.601 luma, peak 255, `border_px` cut from each side (papers: the scale).

    `output`, `target`: uint8 HWC, RGB or gray, 0..255; at least 11 px a side after the cut.
    """
    _check_pair(output, target, min_side_px=2 * (border_px + _SSIM_RADIUS_PX) + 1)
    return ssim(
        crop_border(luma_y(output), border_px),
        crop_border(luma_y(target), border_px),
        data_range=255.0,
    )


def psnr_rgb(output: NDArray[np.uint8], target: NDArray[np.uint8], *, border_px: int = 0) -> float:
    """PSNR in dB over all channels, peak 255: the convention of colour denoising (FFDNet).

    `output`, `target`: uint8 HWC, 0..255. Equal pictures give inf.
    """
    _check_pair(output, target, min_side_px=2 * border_px + 1)
    return psnr(crop_border(output, border_px), crop_border(target, border_px), data_range=255.0)


def crop_border(pixels: NDArray[Scalar], border_px: int) -> NDArray[Scalar]:
    """`pixels` (HW or HWC) without `border_px` pixels at each side; a view."""
    if border_px < 0:
        raise ValueError(f"border_px: expected 0 or more, found {border_px}")
    height, width = pixels.shape[:2]
    return pixels[border_px : height - border_px, border_px : width - border_px]


def _check_pair(a: NDArray[Any], b: NDArray[Any], *, min_side_px: int) -> None:
    if a.shape != b.shape:
        raise ValueError(f"the pictures differ in shape: {a.shape} and {b.shape}")
    if min(a.shape[:2], default=0) < min_side_px:
        raise ValueError(f"too small to compare: found {a.shape}, expected {min_side_px} px a side")


def _ssim_map(a: Plane, b: Plane, *, data_range: float) -> Plane:
    """SSIM at each position where the window fits, float64, 10 px less a side."""
    c1 = (0.01 * data_range) ** 2
    c2 = (0.03 * data_range) ** 2
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    mean_aa, mean_bb, mean_ab = mean_a * mean_a, mean_b * mean_b, mean_a * mean_b
    # Only the sum of the two variances is needed, so one filtering serves both.
    variances = _window_mean(a * a + b * b) - mean_aa - mean_bb
    covariance = _window_mean(a * b) - mean_ab
    luminance = (2.0 * mean_ab + c1) / (mean_aa + mean_bb + c1)
    return luminance * (2.0 * covariance + c2) / (variances + c2)


def _window_mean(plane: Plane) -> Plane:
    """Gaussian-weighted mean over each window that fits: two passes of symmetric taps."""
    return _filter_rows(_filter_rows(plane).T).T


def _filter_rows(plane: Plane) -> Plane:
    taps = _gaussian_taps()
    radius = _SSIM_RADIUS_PX
    height = plane.shape[0] - 2 * radius
    result = taps[radius] * plane[radius : radius + height]
    for offset in range(radius):
        mirror = 2 * radius - offset
        result += taps[offset] * (plane[offset : offset + height] + plane[mirror : mirror + height])
    return result


def _gaussian_taps() -> list[float]:
    distance = np.arange(-_SSIM_RADIUS_PX, _SSIM_RADIUS_PX + 1)
    taps = np.exp(-0.5 * (distance / _SSIM_SIGMA_PX) ** 2)
    return [float(tap) for tap in taps / taps.sum()]
