"""Large images in tiles: each is worked with a halo of its surroundings, and its core is kept.

Where the halo is at least the network's receptive field, the tiles' cores put together are what the
whole image would give (within float rounding), and memory follows the tile's size, not the image's.
All figures are input pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Span:
    """One tile along one axis: the core `start:stop`, and the window `low:high` around it."""

    start: int
    stop: int
    low: int
    high: int


def spans(length_px: int, *, tile_px: int, halo_px: int, multiple_of: int = 1) -> list[Span]:
    """The tiles along an axis: as few as `tile_px` allows, of nearly equal length.

    Cores begin at multiples of `multiple_of` (the network's `unshuffle`), and so do windows where
    `halo_px` is one. Raises ConfigError for a tile below one pixel.
    """
    if tile_px < 1:
        raise ConfigError(f"tile_px is {tile_px}, expected at least 1")
    units = -(-length_px // multiple_of)
    count = -(-units // max(1, tile_px // multiple_of))
    edges = [min(length_px, index * units // count * multiple_of) for index in range(count)]
    edges.append(length_px)
    return [
        Span(
            start=start, stop=stop, low=max(0, start - halo_px), high=min(length_px, stop + halo_px)
        )
        for start, stop in pairwise(edges)
    ]


def tile_windows(
    height: int, width: int, *, tile_px: int, halo_px: int, multiple_of: int = 1
) -> Iterator[tuple[Span, Span]]:
    """Row and column span of every tile of an image, row by row."""
    rows = spans(height, tile_px=tile_px, halo_px=halo_px, multiple_of=multiple_of)
    columns = spans(width, tile_px=tile_px, halo_px=halo_px, multiple_of=multiple_of)
    return ((row, column) for row in rows for column in columns)


def map_tiles(
    work: Callable[[NDArray[Any]], NDArray[Any]],
    pixels: NDArray[Any],
    *,
    scale: int,
    tile_px: int,
    halo_px: int,
    multiple_of: int = 1,
) -> NDArray[Any]:
    """`work` over an image in tiles: HWC -> (scale * H, scale * W, C) of the same dtype.

    `work` takes a window, HWC, and returns it enlarged by `scale`.
    """
    height, width, channels = pixels.shape
    output = np.empty((scale * height, scale * width, channels), pixels.dtype)
    windows = tile_windows(height, width, tile_px=tile_px, halo_px=halo_px, multiple_of=multiple_of)
    for row, column in windows:
        result = work(pixels[row.low : row.high, column.low : column.high])
        output[_scaled(row.start, row.stop, scale), _scaled(column.start, column.stop, scale)] = (
            result[
                _scaled(row.start - row.low, row.stop - row.low, scale),
                _scaled(column.start - column.low, column.stop - column.low, scale),
            ]
        )
    return output


def _scaled(start: int, stop: int, scale: int) -> slice:
    return slice(scale * start, scale * stop)
