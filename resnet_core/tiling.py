"""Large images in windows: each holds a core and its surroundings, and the core is kept.

Where the surroundings (the halo) are at least the network's receptive field, the cores put together
are what the whole image would give (within float rounding), and memory follows the window's size,
not the image's. All windows of an image have one shape, in steps of WINDOW_STEP_PX, so that they
can be batched, and those of images of one size too. All figures are input pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.errors import ConfigError

WINDOW_STEP_PX = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """A part of an image."""

    pixels: NDArray[Any]
    """HWC."""
    core: tuple[slice, slice]
    """Its rows and columns that are kept: those of the image, and of no other window."""


WorkOnWindows = Callable[[Sequence[Window]], Iterable[NDArray[Any]]]
"""Gives each window of an image, HWC and enlarged by the scale, in order."""


@dataclass(frozen=True, kw_only=True)
class TileRules:
    """What windows a network takes."""

    halo_px: int
    """How far it sees on each side; a multiple of `multiple_of`."""
    multiple_of: int = 1
    """Of both sides, and of where a window begins."""
    least_px: int = 1
    """The shortest side; a multiple of `multiple_of` too, unless it is 1."""
    square: bool = False
    """Whether both sides must be equal."""
    least_tile_px: int = 1
    """Smaller tiles aren't made, whatever is asked for."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One tile along one axis: the core `start:stop`, and the window `low:high` around it."""

    start: int
    stop: int
    low: int
    high: int


def spans(length_px: int, *, tile_px: int, rules: TileRules) -> list[Span]:
    """As few windows as `tile_px` allows along an axis, of one length, at most tile and two halos.

    `length_px` is a multiple of the rules' `multiple_of`, and windows begin and end at its
    multiples. Raises ConfigError for a tile below one pixel.
    """
    if tile_px < 1:
        raise ConfigError(f"tile_px is {tile_px}, expected at least 1")
    unit_px, halo_px = rules.multiple_of, rules.halo_px
    tile_px = max(tile_px, rules.least_tile_px)
    longest_px = max(max(tile_px // unit_px, 1) * unit_px + 2 * halo_px, rules.least_px)
    if length_px <= longest_px:
        return [Span(start=0, stop=length_px, low=0, high=length_px)]
    count = -(-(length_px - 2 * halo_px) // (longest_px - 2 * halo_px))
    needed_px = -(-(length_px + 2 * halo_px * (count - 1)) // count)
    window_px = _up(needed_px, _up(WINDOW_STEP_PX, unit_px))
    window_px = min(max(window_px, rules.least_px), longest_px)
    free = (length_px - window_px) // unit_px
    lows = [index * free // (count - 1) * unit_px for index in range(count)]
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
    rules: TileRules,
) -> NDArray[Any]:
    """`work` over an image in windows: HWC -> (scale * H, scale * W, C) of the same dtype.

    Sides that break the rules are padded by the image's edge, and cropped after.
    """
    height, width, channels = pixels.shape
    lengths = [max(_up(length, rules.multiple_of), rules.least_px) for length in (height, width)]
    if rules.square:
        side_px = max(spans(each, tile_px=tile_px, rules=rules)[0].high for each in lengths)
        rules = replace(rules, least_px=side_px)
        lengths = [max(length, side_px) for length in lengths]
    padding = ((0, lengths[0] - height), (0, lengths[1] - width), (0, 0))
    if any(after for _, after in padding):
        pixels = np.pad(pixels, padding, mode="edge")
    rows, columns = (spans(length, tile_px=tile_px, rules=rules) for length in lengths)
    places = [(row, column) for row in rows for column in columns]
    windows = [
        Window(
            pixels=pixels[row.low : row.high, column.low : column.high],
            core=(_core(row, height), _core(column, width)),
        )
        for row, column in places
    ]
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


def _core(span: Span, length_px: int) -> slice:
    return slice(span.start - span.low, min(span.stop, length_px) - span.low)


def _up(length_px: int, unit_px: int) -> int:
    """The next multiple of `unit_px`."""
    return -(-length_px // unit_px) * unit_px


def _scaled(start: int, stop: int, scale: int) -> slice:
    return slice(scale * start, scale * stop)
