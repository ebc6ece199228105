"""GIF: the blocks by hand, pixels by Pillow."""

import struct
from io import BytesIO

from PIL.GifImagePlugin import GifImageFile

from resnet_core.errors import BrokenImageError
from resnet_core.images.opened import Opened, pillow_samples

_TRAILER, _EXTENSION, _PICTURE = 0x3B, 0x21, 0x2C


def open_gif(data: bytes) -> Opened:
    """Walks the blocks; no pixel is decoded."""
    try:
        width, height, frames = _walk(data)
    except (IndexError, struct.error) as error:
        raise BrokenImageError("GIF is truncated") from error
    if not frames:
        raise BrokenImageError("GIF without a picture")
    return Opened(
        width=width,
        height=height,
        samples=lambda: pillow_samples(GifImageFile(BytesIO(data))),
        several=f"{frames} frames" if frames > 1 else "",
    )


def _walk(data: bytes) -> tuple[int, int, int]:
    """Width and height that hold the screen and every picture, and the number of pictures."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _table_bytes(flags)
    frames = 0
    while data[at] != _TRAILER:
        block = data[at]
        at += 1
        if block == _EXTENSION:
            at = _skip(data, at + 1)
        elif block == _PICTURE:
            x, y, columns, rows, flags = struct.unpack_from("<HHHHB", data, at)
            width, height = max(width, x + columns), max(height, y + rows)
            frames += 1
            at = _skip(data, at + 9 + _table_bytes(flags) + 1)
    return width, height, frames


def _table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip(data: bytes, at: int) -> int:
    """The offset after a chain of sub-blocks."""
    while data[at]:
        at += data[at] + 1
    return at + 1
