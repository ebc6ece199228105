"""Pictures for a page: the same window of two images, upright, 8-bit, at one size, small in bytes.

An enlargement scaled down to fit a page would hide what was gained, so a large picture is cut to
its most detailed window and shown at full size, with a thumbnail that tells where it lies.
"""

import io
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from resnet_core.images import decode
from resnet_core.images.image import round_to_8_bit

BYTES_PER_PIXEL = 0.45
"""Of a photograph as JPEG 4:4:4 at quality 90, generously."""
LONGEST_SIDE_PX = 16_383
"""Of a WebP file."""
SMALLEST_WINDOW_PX = 60_000
"""Shown whatever the budget."""
LARGEST_WINDOW_PX = 1_000_000
QUALITIES = (90, 85, 75, 60)
THUMBNAIL_PX = 112


@dataclass(frozen=True, kw_only=True)
class Box:
    """A window in pixels: left and top inclusive, from the upper left corner."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class EncodedView:
    """One picture as the page holds it."""

    data: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class PairView:
    """Two pictures of one size. `thumbnail` is None where `box` is the whole image."""

    before: EncodedView
    after: EncodedView
    source_width: int
    source_height: int
    full_width: int
    full_height: int
    box: Box
    thumbnail: EncodedView | None


def pair_view(before: bytes, after: bytes, *, budget_bytes: int) -> PairView:
    """Both pictures cut to the same window; `before` is enlarged by bicubic where it is smaller.

    `budget_bytes` for both together decides the size of the window, then the quality, which is the
    same for both. Raises ImageError where either can't be read.
    """
    source, result = _upright(before), _upright(after)
    area = min(budget_bytes / 2 / BYTES_PER_PIXEL, LARGEST_WINDOW_PX)
    while True:
        box = detail_window(result, max_pixels=max(int(area), SMALLEST_WINDOW_PX))
        cuts = (_enlarged_window(source, result.size, box), _cut(result, box))
        views = _encode(cuts, budget_bytes=budget_bytes)
        fits = sum(len(view.data) for view in views) <= budget_bytes
        if fits or area <= SMALLEST_WINDOW_PX:
            break
        area /= 2
    whole = (box.width, box.height) == result.size
    return PairView(
        before=views[0],
        after=views[1],
        source_width=source.width,
        source_height=source.height,
        full_width=result.width,
        full_height=result.height,
        box=box,
        thumbnail=None if whole else _thumbnail(result),
    )


def detail_window(image: PillowImage.Image, *, max_pixels: int) -> Box:
    """The window of at most `max_pixels`, near 3:2 or 2:3, with the most gradient in it."""
    width, height = image.size
    if width * height <= max_pixels and max(width, height) <= LONGEST_SIDE_PX:
        return Box(left=0, top=0, width=width, height=height)
    ratio = min(max(width / height, 2 / 3), 3 / 2)
    box_width = min(width, round(math.sqrt(max_pixels * ratio)))
    box_height = min(height, max_pixels // box_width, LONGEST_SIDE_PX)
    box_width = min(width, max_pixels // box_height, LONGEST_SIDE_PX)
    reduction = max(1, math.isqrt(width * height // 250_000))
    gray = np.asarray(image.convert("L").reduce(reduction), dtype=np.float64)
    found = densest_box(_gradient(gray), box_width // reduction, box_height // reduction)
    return Box(
        left=min(found.left * reduction, width - box_width),
        top=min(found.top * reduction, height - box_height),
        width=box_width,
        height=box_height,
    )


def _gradient(gray: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 HW; the square root keeps one hard edge from outweighing texture."""
    rows = np.abs(np.diff(gray, axis=0, append=gray[-1:]))
    columns = np.abs(np.diff(gray, axis=1, append=gray[:, -1:]))
    return np.sqrt(rows + columns)


def densest_box(values: NDArray[np.float64], width: int, height: int) -> Box:
    """The `width` x `height` window of `values` (HW) with the largest sum, a little to the middle.

    By an integral image; a side longer than that of `values` is shortened to it.
    """
    height, width = min(max(height, 1), values.shape[0]), min(max(width, 1), values.shape[1])
    total = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    sums = (
        total[height:, width:]
        - total[:-height, width:]
        - total[height:, :-width]
        + total[:-height, :-width]
    )
    sums = sums * _towards_centre(sums.shape[0])[:, None] * _towards_centre(sums.shape[1])
    top, left = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return Box(left=int(left), top=int(top), width=width, height=height)


def _towards_centre(length: int) -> NDArray[np.float64]:
    """Weights that prefer the middle a little: 1 there, 0.8 at the ends."""
    return 1 - 0.2 * np.linspace(-1, 1, length) ** 2


def _upright(data: bytes) -> PillowImage.Image:
    """Decoded as the project does it: 8-bit L, RGB or RGBA, the colour profile in `info`.

    No limit on size: these bytes were taken, or made, by the run before.
    """
    image = decode(data, max_pixels=sys.maxsize, max_bytes=sys.maxsize)
    channels = [round_to_8_bit(image.pixels)]
    if image.alpha is not None:
        colour = np.broadcast_to(channels[0], (image.height, image.width, 3))
        channels = [colour, round_to_8_bit(image.alpha)]
    pixels = np.concatenate(channels, axis=2)
    upright = PillowImage.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    upright.info = {"icc_profile": image.icc_profile} if image.icc_profile else {}
    return upright


def _cut(image: PillowImage.Image, box: Box) -> PillowImage.Image:
    cut = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    cut.info = dict(image.info)
    return cut


def _enlarged_window(
    source: PillowImage.Image, size: tuple[int, int], box: Box
) -> PillowImage.Image:
    """The window `box` of `source` enlarged to `size`, without enlarging the rest."""
    if source.size == size:
        return _cut(source, box)
    across, down = source.width / size[0], source.height / size[1]
    region = (
        box.left * across,
        box.top * down,
        (box.left + box.width) * across,
        (box.top + box.height) * down,
    )
    resized = source.resize((box.width, box.height), PillowImage.Resampling.BICUBIC, box=region)
    resized.info = dict(source.info)
    return resized


def _thumbnail(image: PillowImage.Image) -> EncodedView:
    small = image.copy()
    small.thumbnail((THUMBNAIL_PX * 2, THUMBNAIL_PX * 2), PillowImage.Resampling.LANCZOS)
    small.info = dict(image.info)
    return _encode((small,), budget_bytes=20_000)[0]


def _encode(images: Sequence[PillowImage.Image], *, budget_bytes: int) -> list[EncodedView]:
    """JPEG 4:4:4, or WebP where there is alpha: the best quality at which all fit the budget."""
    views: list[EncodedView] = []
    for quality in QUALITIES:
        views = [_encode_at(image, quality) for image in images]
        if sum(len(view.data) for view in views) <= budget_bytes:
            break
    return views


def _encode_at(image: PillowImage.Image, quality: int) -> EncodedView:
    buffer = io.BytesIO()
    profile = image.info.get("icc_profile")
    if image.mode == "RGBA":
        media_type = "image/webp"
        image.save(buffer, "WEBP", quality=quality, icc_profile=profile)
    else:
        media_type = "image/jpeg"
        image.save(buffer, "JPEG", quality=quality, subsampling=0, icc_profile=profile)
    return EncodedView(
        data=buffer.getvalue(), media_type=media_type, width=image.width, height=image.height
    )
