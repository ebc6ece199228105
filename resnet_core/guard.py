"""Whether a result still is the picture that it was made from.

A network is trained on what is usual, and may fail on what isn't. Two laws tell, measured on the
result made as small as its source again (bicubic, as the small pictures of training are made), in
each part of about 32 px:

colour   the mean colour doesn't drift, neither of the whole picture nor of a part.
detail   the small picture is the source. Only for super-resolution of clean pictures (`sr-x2`):
         what the other tasks take away, noise or blocks, is a difference that is wanted. What a
         part may differ follows from the picture itself: its bicubic enlargement, made small
         again, has lost fine detail, and whoever enlarges it better than that has lost less.

With a strength s the output is (1 - s) times the base and s times what was learned, so that each
bound is multiplied by |1 - s| + |s|, which is 1 from 0 to 1.
"""

from dataclasses import dataclass
from typing import Final, Literal

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
"""Of the mean of a channel over the whole picture."""
MAX_PART_DRIFT_LEVELS: Final = 30.0
"""Of the mean of a channel over a part: noise that was cut off at black or white leaves some."""
DETAIL_MARGIN_LEVELS: Final = 2.0
"""Root mean square over a part, beside what the enlargement loses: rounding, and flat parts."""

Floats = NDArray[np.float32]


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
    small, large = to_pil(round_to_8_bit(seen)), to_pil(round_to_8_bit(result.pixels))
    change = _difference(_made_small(large, small.size), small)
    factor = abs(1 - strength) + abs(strength)
    drift = _parts(change)
    laws = [
        _drift("the picture", drift.mean((0, 1)), factor * MAX_DRIFT_LEVELS),
        _drift("a part of it", drift, factor * MAX_PART_DRIFT_LEVELS),
    ]
    if task.startswith("sr-"):
        base = small.resize(large.size, PillowImage.Resampling.BICUBIC)
        loss = _rms_of_parts(_difference(_made_small(base, small.size), small))
        laws.append(_detail(_rms_of_parts(change), factor * (loss + DETAIL_MARGIN_LEVELS)))
    return max(laws, key=lambda law: law.share)


def check(found: Deviation, guard: Guard) -> None:
    """SuspectResultError where `guard` refuses what is suspect."""
    if guard == "fail" and found.is_suspect:
        raise SuspectResultError(f"the result is suspect: {found.told} (--guard)")


def _drift(where: str, means: Floats, allowed: float) -> Deviation:
    found = float(np.abs(means).max())
    told = (
        f"the mean colour of {where} drifted by {found:.1f} levels, at most {allowed:.1f} expected"
    )
    return Deviation(share=found / allowed, told=told)


def _detail(found: Floats, allowed: Floats) -> Deviation:
    shares = found / allowed
    worst = np.unravel_index(shares.argmax(), shares.shape)
    told = (
        f"made small again, a part differs from the source by {found[worst]:.1f} levels,"
        f" at most {allowed[worst]:.1f} expected"
    )
    return Deviation(share=float(shares[worst]), told=told)


def _made_small(picture: PillowImage.Image, size: tuple[int, int]) -> PillowImage.Image:
    return picture.resize(size, PillowImage.Resampling.BICUBIC)


def _difference(a: PillowImage.Image, b: PillowImage.Image) -> Floats:
    return np.subtract(from_pil(a), from_pil(b), dtype=np.float32)


def _rms_of_parts(difference: Floats) -> Floats:
    return np.sqrt(_parts(np.square(difference)).mean(2))


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
