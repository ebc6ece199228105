"""WebP: the container by hand, pixels by Pillow. The specification: RFC 9649.

Pillow would allocate the whole canvas when it opens a file, before any limit can be checked.

Writing: see `encode.py`.
"""

import struct
from collections.abc import Iterator
from io import BytesIO

from PIL.WebPImagePlugin import WebPImageFile

from resnet_core.errors import BrokenImageError
from resnet_core.images.opened import Opened, pillow_samples


def open_webp(data: bytes) -> Opened:
    """Reads the chunks; no pixel is decoded."""
    chunks = list(_chunks(data))
    first = dict(reversed(chunks))
    frames = sum(kind == b"ANMF" for kind, _ in chunks)
    width, height = _size(chunks[0] if chunks else (b"", b""))
    return Opened(
        width=width,
        height=height,
        samples=lambda: pillow_samples(WebPImageFile(BytesIO(data))),
        several=f"{frames} frames" if frames > 1 else "",
        icc_profile=first.get(b"ICCP"),
        exif=first.get(b"EXIF"),
        xmp=first.get(b"XMP "),
        lossless=b"VP8L" in first,
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    (size,) = struct.unpack_from("<I", data, 4)
    end = 8 + size
    if end > len(data):
        raise BrokenImageError(f"WebP is truncated: {len(data)} of {end} bytes")
    at = 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > end:
            raise BrokenImageError("WebP is truncated within a chunk")
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _size(chunk: tuple[bytes, bytes]) -> tuple[int, int]:
    kind, body = chunk
    if kind == b"VP8X" and len(body) >= 10:
        return (
            int.from_bytes(body[4:7], "little") + 1,
            int.from_bytes(body[7:10], "little") + 1,
        )
    if kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(body) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise BrokenImageError("WebP without a picture")
