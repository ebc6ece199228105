"""Whether a result still is the picture that it was made from.

A network is trained on what is usual, and may fail on what isn't. Two laws tell, measured
on the result made as small as its source again, in parts of about 32 px:

colour   the mean colour doesn't drift. Super-resolution of clean pictures (`sr-x2`) has no reason
         to change it in any part. The other tasks take noise away, which was cut off at black and
         white, and blur, which carried colour over edges: they may change a part by more.
detail   made small (bicubic, as the small pictures of training are), its luma is that of the
         source. For super-resolution of clean pictures alone: what the other tasks take away is a
         difference that is wanted. What a part may differ follows from the picture itself: its
         bicubic enlargement, made small again, has lost fine detail, and whoever enlarges it
         better than that has lost less.

With a strength s the output is (1 - s) times the base and s times what was learned, so that each
bound is multiplied by |1 - s| + |s|, which is 1 from 0 to 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from resnet_core.errors import SuspectResultError
from resnet_core.images.image import Image, round_to_8_bit
from resnet_core.images.transparency import fill_transparent
from resnet_core.levels import from_pil, to_pil

Guard = Literal["mark", "fail"]
"""What becomes of a result that is suspect."""

PART_PX: Final = 32
"""Side of the parts, about, in pixels of the source."""
MAX_DRIFT_LEVELS: Final = 5.0
"""Of the mean of a channel over the picture, or over a part of a clean one."""
CUT_OFF_LEVELS: Final = 40.0
"""More, times the share of values near black or white, where wear is taken away: noise of sigma 50
on black is cut off in half of the pixels, which lifts their mean by 20, and that goes with it."""
NEAR_LEVELS: Final = 16
"""From black or white: what was cut off may have been blurred since."""
MAX_PART_DRIFT_LEVELS: Final = 30.0
"""Of the mean of a channel over a part, where wear is taken away."""
DETAIL_MARGIN_LEVELS: Final = 1.0
"""Root mean square over a part, beside what the enlargement loses: rounding, and flat parts."""
BAND_PIXELS: Final = 1_000_000
"""Of the source, that are compared at once."""
MARGIN_PX: Final = 8
"""Of a band, where the filters would see its edge."""

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """How far a result is from its source."""

    share: float
    """Of what is allowed, by the law that comes off worst."""
    told: str
    """That law and its figures, on one line."""

    @property
    def is_suspect(self) -> bool:
        return self.share > 1


def deviation(source: Image, result: Image, *, task: str, strength: float) -> Deviation:
    """How far `result` is from `source`, its own size or a whole number of times as large.

    `task`: of the weights. Colour under fully transparent pixels is taken from around them, as the
    network took it.
    """
    seen = source.pixels
    if source.alpha is not None:
        seen = fill_transparent(seen, source.alpha)
    is_clean = task.startswith("sr-")
    factor = abs(1 - strength) + abs(strength)
    scale = result.height // source.height
    bands = [
        _measured(
            to_pil(round_to_8_bit(seen[rows])),
            to_pil(round_to_8_bit(result.pixels[rows.start * scale : rows.stop * scale])),
            inner,
            is_clean=is_clean,
        )
        for rows, inner in _bands(source.height, source.width)
    ]
    drift, cut_off, found, loss = (np.concatenate(each) for each in zip(*bands, strict=True))
    if is_clean:
        laws = [
            _drift("a part", drift, factor * MAX_DRIFT_LEVELS),
            _detail(found, factor * (loss + DETAIL_MARGIN_LEVELS)),
        ]
    else:
        allowed = MAX_DRIFT_LEVELS + CUT_OFF_LEVELS * cut_off.mean(0)
        laws = [
            _drift("the picture", drift.mean((0, 1)), factor * allowed),
            _drift("a part", drift, factor * MAX_PART_DRIFT_LEVELS),
        ]
    return max(laws, key=lambda law: law.share)


def check(found: Deviation, guard: Guard) -> None:
    """SuspectResultError where `guard` refuses what is suspect."""
    if guard == "fail" and found.is_suspect:
        raise SuspectResultError(f"the result is suspect: {found.told} (--guard)")


def _drift(where: str, means: Floats, allowed: Floats | float) -> Deviation:
    """`means` of each channel (the last axis), and what is allowed of each."""
    drift, allowed = (values.ravel() for values in np.broadcast_arrays(np.abs(means), allowed))
    worst = (drift / allowed).argmax()
    told = (
        f"the mean colour of {where} drifted by {drift[worst]:.1f} levels,"
        f" at most {allowed[worst]:.1f} expected"
    )
    return Deviation(share=float(drift[worst] / allowed[worst]), told=told)


def _detail(found: Floats, allowed: Floats) -> Deviation:
    shares = found / allowed
    worst = np.unravel_index(shares.argmax(), shares.shape)
    told = (
        f"made small again, a part differs from the source by {found[worst]:.1f} levels,"
        f" at most {allowed[worst]:.1f} expected"
    )
    return Deviation(share=float(shares[worst]), told=told)


def _bands(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows with a margin, and those of them that count: large pictures need no large copies."""
    count = min(max(round(height * width / BAND_PIXELS), 1), -(-height // PART_PX))
    edges = np.linspace(0, height, count + 1).astype(int).tolist()
    for top, bottom in pairwise(edges):
        first = max(top - MARGIN_PX, 0)
        yield slice(first, min(bottom + MARGIN_PX, height)), slice(top - first, bottom - first)


def _measured(
    small: PillowImage.Image, large: PillowImage.Image, inner: slice, *, is_clean: bool
) -> tuple[Floats, Floats, Floats, Floats]:
    """Of a band: drift of the parts (rows, columns, C), cut off (1, C), difference and loss of
    detail of the parts (rows, columns; only of clean pictures)."""
    drift = _parts(_difference(large.reduce(large.width // small.width), small)[inner])
    cut_off = _cut_off(small)[np.newaxis]
    if not is_clean:
        return drift, cut_off, drift[:0, :, 0], drift[:0, :, 0]
    luma = small.convert("L")
    base = luma.resize(large.size, PillowImage.Resampling.BICUBIC)
    found, loss = (_lost(picture, luma, inner) for picture in (large.convert("L"), base))
    return drift, cut_off, found, loss


def _cut_off(picture: PillowImage.Image) -> Floats:
    """The share of values near black or white, of each channel."""
    counts = np.array(picture.histogram(), np.float32).reshape(-1, 256)
    return 1 - counts[:, NEAR_LEVELS:-NEAR_LEVELS].sum(1) / counts.sum(1)


def _lost(large: PillowImage.Image, small: PillowImage.Image, inner: slice) -> Floats:
    """Root mean square of the difference, after `large` is made small, of each part."""
    made_small = large.resize(small.size, PillowImage.Resampling.BICUBIC)
    return np.sqrt(_parts(np.square(_difference(made_small, small)[inner]))[:, :, 0])


def _difference(a: PillowImage.Image, b: PillowImage.Image) -> Floats:
    return np.subtract(from_pil(a), from_pil(b), dtype=np.float32)


def _parts(values: Floats) -> Floats:
    """Means over parts of nearly equal size: float32 HWC to rows, columns, C."""
    for axis in (0, 1):
        length = values.shape[axis]
        starts = np.linspace(0, length, max(round(length / PART_PX), 1), endpoint=False).astype(int)
        sizes = np.diff(starts, append=length).astype(np.float32)
        shape = [1, 1, 1]
        shape[axis] = len(sizes)
        values = np.add.reduceat(values, starts, axis=axis) / sizes.reshape(shape)
    return values
