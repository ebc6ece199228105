"""Large images in windows: each holds a core and its surroundings, and the core is kept.

Where the surroundings (the halo) are at least the network's receptive field, the cores put together
are what the whole image would give (within float rounding), and memory follows the window's size,
not the image's. All windows of an image have one shape, in steps of WINDOW_STEP_PX, so that they
can be batched, and those of images of one size too. All figures are input pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.errors import ConfigError

WINDOW_STEP_PX = 16

WorkOnWindows = Callable[[Sequence[NDArray[Any]]], Iterable[NDArray[Any]]]
"""Takes the windows of an image, HWC, and gives each one enlarged by the scale, in order."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One tile along one axis: the core `start:stop`, and the window `low:high` around it."""

    start: int
    stop: int
    low: int
    high: int


def spans(length_px: int, *, tile_px: int, halo_px: int, multiple_of: int = 1) -> list[Span]:
    """As few windows as `tile_px` allows along an axis, of one length, at most tile and two halos.

    `length_px` and `halo_px` are multiples of `multiple_of` (the network's `unshuffle`), and
    windows begin and end at its multiples. Raises ConfigError for a tile below one pixel.
    """
    if tile_px < 1:
        raise ConfigError(f"tile_px is {tile_px}, expected at least 1")
    core_px = max(tile_px // multiple_of, 1) * multiple_of
    longest_px = core_px + 2 * halo_px
    if length_px <= longest_px:
        return [Span(start=0, stop=length_px, low=0, high=length_px)]
    count = -(-(length_px - 2 * halo_px) // core_px)
    needed_px = -(-(length_px + 2 * halo_px * (count - 1)) // count)
    step_px = max(multiple_of, WINDOW_STEP_PX)
    window_px = min(-(-needed_px // step_px) * step_px, longest_px)
    free = (length_px - window_px) // multiple_of
    lows = [index * free // (count - 1) * multiple_of for index in range(count)]
    edges = [0, *(low + halo_px for low in lows[1:]), length_px]
    return [
        Span(start=start, stop=stop, low=low, high=low + window_px)
        for low, (start, stop) in zip(lows, pairwise(edges), strict=True)
    ]


def map_tiles(
    work: WorkOnWindows,
    pixels: NDArray[Any],
    *,
    scale: int,
    tile_px: int,
    halo_px: int,
    multiple_of: int = 1,
) -> NDArray[Any]:
    """`work` over an image in windows: HWC -> (scale * H, scale * W, C) of the same dtype.

    Sides that are no multiple of `multiple_of` are padded by the image's edge, and cropped after.
    """
    height, width, channels = pixels.shape
    padding = ((0, -height % multiple_of), (0, -width % multiple_of), (0, 0))
    if any(after for _, after in padding):
        pixels = np.pad(pixels, padding, mode="edge")
    rows, columns = (
        spans(length, tile_px=tile_px, halo_px=halo_px, multiple_of=multiple_of)
        for length in pixels.shape[:2]
    )
    places = [(row, column) for row in rows for column in columns]
    windows = [pixels[row.low : row.high, column.low : column.high] for row, column in places]
    results = iter(work(windows))
    if len(places) == 1:
        return next(results)[: scale * height, : scale * width]
    output = np.empty((scale * height, scale * width, channels), pixels.dtype)
    for (row, column), result in zip(places, results, strict=True):
        target = output[
            _scaled(row.start, row.stop, scale), _scaled(column.start, column.stop, scale)
        ]
        target[:] = result[
            _scaled(row.start - row.low, row.stop - row.low, scale),
            _scaled(column.start - column.low, column.stop - column.low, scale),
        ][: target.shape[0], : target.shape[1]]
    return output


def _scaled(start: int, stop: int, scale: int) -> slice:
    return slice(scale * start, scale * stop)
