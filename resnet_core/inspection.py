"""What a picture shows of its wear, told from its pixels and from its file.

noise   Immerkaer's mask (Computer Vision and Image Understanding 64, 1996) answers to noise and to
        little of a picture's own structure. Its answer is taken in small blocks, and of them those
        where it is weakest, which have least of that structure (as Liu, Tanaka and Okutomi choose
        patches: IEEE Trans. Image Processing 22, 2013). Noise is everywhere about alike: what is
        much stronger in the middle block is texture, and there is no telling its noise.
grain   The same at half the size, where white noise is half as strong, and a picture's structure
        about as strong as before. What is stronger there than at the full size was blurred,
        resized or compressed since it was noise.
colour  The same of half the difference between red and green. Noise of each channel by itself is
        0.7 times as strong there; noise that the channels share isn't there, and that of a picture
        whose colour was stored at half the size (JPEG, WebP, AVIF) is weak.
blocks  JPEG leaves the coefficients of its 8x8 blocks at multiples of their steps, even where the
        pixels were saved again without loss (Fan and de Queiroz, IEEE Trans. Image Processing 12,
        2003). How far they keep to those of a quality is the mean cosine of their phase; its
        greatest value tells the quality.
blur    Second differences of neighbours beside first ones: the less, the fewer fine details.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resnet_core.images.image import Image, Pixels, round_to_8_bit
from resnet_core.jpeg_tables import LUMA_TABLES

Planes = NDArray[np.float32]
"""float32 NHW, levels 0..255: parts of one channel of a picture."""
Mask = NDArray[np.bool]
"""NHW: pixels that hide noise, black, white or transparent."""

SMALLEST_PX: Final = 160
"""Of the shorter side. In a smaller picture texture too often passes for noise."""
FEWEST_LEVELS: Final = 16
"""Of green. A picture with fewer is a drawing or a dither."""
PART_PX: Final = 256
"""Side of the parts of a large picture; a multiple of the side of JPEG's blocks."""
PARTS_A_SIDE: Final = 4
"""A picture with more pixels than so many parts is told from parts spread evenly."""
BLOCK_PX: Final = 16
WEAKEST: Final = 0.1
"""The share of the blocks that has less noise than the picture is said to have."""
OF_WHITE: Final = {16: 0.890, 8: 0.792}
"""What that share finds of white noise in blocks of so many px: their answers scatter."""
EVEN: Final = 1.7
"""So many times as strong as in the weakest blocks noise may be in the middle one."""
CUT_OFF: Final = 0.05
"""Of a block's pixels that hide noise; blocks with more are left out."""
FEWEST_BLOCKS: Final = 16
"""That are taken anyway, those with the fewest such pixels."""
GRID_PX: Final = 8
FREQUENCIES: Final = tuple((v, h) for v in range(4) for h in range(4) if v or h)
"""Of the coefficients that are looked at: the others are mostly zero."""
QUALITIES: Final = range(5, 96)
"""That leave traces: finer steps can't be told from rounding."""
LEAST_TRACE: Final = 0.15
FEWEST_COEFFICIENTS: Final = 50
"""Of slanting frequencies: those of a ramp are all along rows or columns, and of so few values that
they keep to some steps by chance."""
BINS_A_LEVEL: Final = 4
LARGEST_COEFFICIENT: Final = 512


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a picture shows of its wear; None where it can't be told."""

    noise_levels: float | None
    """Standard deviation in green, levels of 255; 0 of texture."""
    weakest_levels: float | None
    """The same, of texture too."""
    grain_levels: float | None
    """The same at half the size."""
    colour_levels: float | None
    """The same of half the difference between red and green; 0 of gray pictures."""
    sharpness: float | None
    """Second differences / first ones: 1.7 of white noise, 1 to 1.6 of most photographs, less of
    blurred ones."""
    file_quality: int | None
    """JPEG quality by the tables of the file."""
    blocks_quality: int | None
    """JPEG quality by the blocks of the pixels, 5 to 95."""

    @property
    def jpeg_quality(self) -> int | None:
        """The lower of the two: what was lost once isn't there again."""
        found = [each for each in (self.file_quality, self.blocks_quality) if each is not None]
        return min(found, default=None)


def inspect_image(image: Image) -> Findings:
    """Looks at pixels and file; a large image takes no longer than one of a megapixel."""
    noise_levels = weakest_levels = grain_levels = colour_levels = None
    sharpness = blocks_quality = None
    parts = round_to_8_bit(_parts(image.pixels))
    green = parts[..., parts.shape[3] // 2].astype(np.float32)
    is_told = min(image.height, image.width) >= SMALLEST_PX
    if is_told and np.unique(green).size >= FEWEST_LEVELS:
        red = parts[..., 0].astype(np.float32)
        is_hiding, hides_colour = _is_cut_off(green), _is_cut_off(green) | _is_cut_off(red)
        if image.alpha is not None:
            is_hidden = _parts(image.alpha)[..., 0] == 0
            is_hiding |= is_hidden
            hides_colour |= is_hidden
        noise_levels, weakest_levels = _noise_levels(green, is_hiding, BLOCK_PX)
        half = _blocks(green, 2).mean((-1, -2), dtype=np.float32)
        hides_half = np.asarray(_blocks(is_hiding, 2).all((-1, -2)))
        grain_levels, _ = _noise_levels(half, hides_half, BLOCK_PX // 2)
        colour_levels, _ = _noise_levels((red - green) * np.float32(0.5), hides_colour, BLOCK_PX)
        luma = _luma(parts)
        sharpness, blocks_quality = _sharpness(luma), _blocks_quality(luma)
    return Findings(
        noise_levels=noise_levels,
        weakest_levels=weakest_levels,
        grain_levels=grain_levels,
        colour_levels=colour_levels,
        sharpness=sharpness,
        file_quality=image.jpeg_quality,
        blocks_quality=blocks_quality,
    )


def _parts(pixels: Pixels) -> Pixels:
    """HWC to NHWC: the whole of a small picture, or parts, whose corners lie on JPEG's grid."""
    height, width = pixels.shape[:2]
    if height * width <= (PARTS_A_SIDE * PART_PX) ** 2:
        return pixels[np.newaxis]
    tops, lefts = (
        np.unique(np.linspace(0, max(side - PART_PX, 0), PARTS_A_SIDE).astype(int) // GRID_PX)
        * GRID_PX
        for side in (height, width)
    )
    return np.stack(
        [pixels[top : top + PART_PX, left : left + PART_PX] for top in tops for left in lefts]
    )


def _luma(parts: NDArray[np.uint8]) -> Planes:
    """JPEG's: BT.601 of full range."""
    if parts.shape[3] == 1:
        return parts[..., 0].astype(np.float32)
    return parts @ np.array([0.299, 0.587, 0.114], np.float32)


def _blocks(planes: NDArray[Any], side_px: int) -> NDArray[Any]:
    """NHW to N, rows, columns, side, side, without what is left at bottom and right."""
    count, height, width = planes.shape
    rows, columns = height // side_px, width // side_px
    even = planes[:, : rows * side_px, : columns * side_px]
    return even.reshape(count, rows, side_px, columns, side_px).swapaxes(2, 3)


def _is_cut_off(planes: Planes) -> Mask:
    return np.logical_or(planes == 0, planes == 255)


def _noise_levels(planes: Planes, is_hiding: Mask, block_px: int) -> tuple[float, float]:
    """Of the picture, 0 of texture, and where it is weakest, of texture too."""
    answer = np.diff(np.diff(planes, n=2, axis=1), n=2, axis=2) / 6
    levels = np.sqrt(_blocks(answer * answer, block_px).mean((-1, -2)))
    hiding = _blocks(is_hiding[:, 1:-1, 1:-1], block_px).mean((-1, -2))
    most = max(CUT_OFF, np.sort(hiding, axis=None)[FEWEST_BLOCKS - 1])
    weakest, middle = (float(each) for each in np.quantile(levels[hiding <= most], (WEAKEST, 0.5)))
    found = weakest / OF_WHITE[block_px]
    return found if middle <= EVEN * weakest else 0.0, found


def _sharpness(luma: Planes) -> float | None:
    """None of a flat picture."""
    first, second = (
        sum(float(np.abs(np.diff(luma, n=n, axis=axis)).mean()) for axis in (1, 2)) for n in (1, 2)
    )
    return second / first if first > 0 else None


def _blocks_quality(luma: Planes) -> int | None:
    """The JPEG quality whose steps the coefficients keep to, on the grid of the file or another."""
    corners = {(0, 0), (_grid_offset(luma.swapaxes(1, 2)), _grid_offset(luma))}
    traces = np.max([_traces(luma[:, top:, left:]) for top, left in corners], 0)
    best = int(traces.argmax())
    return QUALITIES[best] if traces[best] >= LEAST_TRACE else None


def _grid_offset(luma: Planes) -> int:
    """Columns before the first whole block, 0 to 7: where neighbours differ by more than beside."""
    steps = np.abs(np.diff(luma, axis=2))
    edges = steps[:, :, 1:-1] - (steps[:, :, :-2] + steps[:, :, 2:]) / 2
    columns = np.clip(edges, 0, 20).mean((0, 1))
    # Column 0 is the step from the picture's second column to its third.
    offsets = [columns[(offset - 2) % GRID_PX :: GRID_PX].mean() for offset in range(GRID_PX)]
    return int(np.argmax(offsets))


def _traces(luma: Planes) -> NDArray[np.float64]:
    """How far the coefficients keep to the steps of each of QUALITIES: 1 wholly, 0 not at all.

    Those of a picture that was turned by 90 degrees since count too.
    """
    blocks = _blocks(luma, GRID_PX).reshape(-1, GRID_PX * GRID_PX)
    coefficients = np.abs(blocks @ _basis())
    bins = np.rint(coefficients * BINS_A_LEVEL).astype(int)
    size = LARGEST_COEFFICIENT * BINS_A_LEVEL
    counts = np.stack([np.bincount(each, minlength=size)[:size] for each in bins.T])
    cosines, counted = _combs()
    # Of each frequency (rows) and step (columns), then of the steps of each quality.
    phases, numbers = counts @ cosines, counts @ counted
    vertical, horizontal = np.array(FREQUENCIES).T
    is_slanting = (vertical > 0) & (horizontal > 0)
    rows = np.arange(len(FREQUENCIES))
    traces: list[NDArray[np.float64]] = []
    for place in ((vertical, horizontal), (horizontal, vertical)):
        steps = LUMA_TABLES[:, *place][np.array(QUALITIES) - 1]
        each = numbers[rows, steps]
        tells = each[:, is_slanting].sum(1) >= FEWEST_COEFFICIENTS
        means = phases[rows, steps].sum(1) / np.maximum(each.sum(1), 1)
        traces.append(np.where(tells, means, 0))
    return np.max(traces, 0)


@cache
def _basis() -> NDArray[np.float32]:
    """The cosines of FREQUENCIES over a block's pixels: 64 rows, a column for each; orthonormal."""
    place = (2 * np.arange(GRID_PX) + 1) * np.pi / (2 * GRID_PX)
    waves = np.cos(np.arange(GRID_PX)[:, np.newaxis] * place) * np.sqrt(2 / GRID_PX)
    waves[0] /= np.sqrt(2)
    columns = [np.outer(waves[v], waves[h]).ravel() for v, h in FREQUENCIES]
    return np.stack(columns, 1).astype(np.float32)


@cache
def _combs() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each bin (rows) and step 0 to 255 (columns): the cosine of its phase, and whether it
    counts: what was rounded to zero would fit any step."""
    values = np.arange(LARGEST_COEFFICIENT * BINS_A_LEVEL)[:, np.newaxis] / BINS_A_LEVEL
    steps = np.maximum(np.arange(256), 1)
    counted = (values > steps / 2).astype(np.float64)
    return counted * np.cos(2 * np.pi * values / steps), counted
