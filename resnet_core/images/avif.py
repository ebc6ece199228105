"""AVIF: the boxes by hand, pixels by Pillow (libavif).

The boxes give the size before the decoder sees the file, and the EXIF item, which is hidden from
Pillow because it warns where that is corrupt. Orientation comes from the `irot` and `imir` boxes
alone, as the format has it. Pictures of 10 and 12 bits are read at 8; imagecodecs would keep them,
but its AVIF decoder (2026.3.6) corrupts memory on truncated files. The specifications: ISO/IEC
14496-12 and 23008-12, AV1 Image File Format 1.1.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from PIL.AvifImagePlugin import AvifImageFile

from resnet_core.errors import BrokenImageError, ImageTooLargeError
from resnet_core.images import exif as exif_tree
from resnet_core.images.colour_space import HDR_TRANSFERS, UNSPECIFIED, ColourSpace
from resnet_core.images.opened import Opened, pillow_samples

_DECODER_PIXELS = 16_384**2
_DECODER_SIDE_PX = 32_768


@dataclass(frozen=True, kw_only=True)
class _Box:
    kind: bytes
    start: int
    end: int


def open_avif(data: bytes) -> Opened:
    """Reads the boxes and lets libavif parse them; no pixel is decoded."""
    meta = _find(data, 0, len(data), b"meta")
    width, height = _largest_size(data, meta)
    if width * height > _DECODER_PIXELS or max(width, height) > _DECODER_SIDE_PX:
        raise ImageTooLargeError(
            f"{width} x {height} pixels are over the AVIF decoder's limit "
            f"of {_DECODER_PIXELS / 1e6:.0f} megapixels and {_DECODER_SIDE_PX} a side"
        )
    exif, visible = _take_exif(data, meta)
    image = AvifImageFile(BytesIO(visible))
    icc_profile = image.info.get("icc_profile")
    primaries, transfer = _colour_codes(data, meta)
    if not icc_profile or transfer in HDR_TRANSFERS:
        icc_profile = ColourSpace.of_codes(primaries, transfer).profile()
    frames = int(getattr(image, "n_frames", 1))
    return Opened(
        width=max(width, image.width),
        height=max(height, image.height),
        samples=lambda: pillow_samples(image),
        several=f"{frames} frames" if frames > 1 else "",
        icc_profile=icc_profile,
        exif=_with_orientation(exif, image.info.get("exif")),
        xmp=image.info.get("xmp"),
        lossless=False,
    )


def _boxes(data: bytes, start: int, end: int) -> Iterator[_Box]:
    at = start
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        stop = end if size == 0 else at + size
        if not body <= stop <= end:
            raise BrokenImageError(f"AVIF is truncated within box {kind.decode('latin-1')!r}")
        yield _Box(kind=kind, start=body, end=stop)
        at = stop
    if at < end:
        raise BrokenImageError("AVIF is truncated between boxes")


def _find(data: bytes, start: int, end: int, kind: bytes) -> _Box | None:
    found: _Box | None = None
    for box in _boxes(data, start, end):
        if box.kind == kind and found is None:
            found = box
    return found


def _children(data: bytes, meta: _Box | None) -> dict[bytes, _Box]:
    if meta is None:
        return {}
    return {box.kind: box for box in _boxes(data, meta.start + 4, meta.end)}


def _properties(data: bytes, meta: _Box | None) -> list[_Box]:
    properties = _children(data, meta).get(b"iprp")
    container = _find(data, properties.start, properties.end, b"ipco") if properties else None
    return list(_boxes(data, container.start, container.end)) if container else []


def _largest_size(data: bytes, meta: _Box | None) -> tuple[int, int]:
    """Width and height of the largest picture that the boxes speak of; 0, 0 if of none."""
    sizes = [
        struct.unpack_from(">II", data, box.start + 4)
        for box in _properties(data, meta)
        if box.kind == b"ispe"
    ]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def _colour_codes(data: bytes, meta: _Box | None) -> tuple[int, int]:
    """The first primaries and transfer (H.273) in the boxes."""
    for box in _properties(data, meta):
        if box.kind == b"colr" and data[box.start : box.start + 4] == b"nclx":
            return struct.unpack_from(">HH", data, box.start + 4)
    return UNSPECIFIED, UNSPECIFIED


def _take_exif(data: bytes, meta: _Box | None) -> tuple[bytes | None, bytes]:
    """The EXIF item's bytes, and the file with that item under a name that nobody reads."""
    children = _children(data, meta)
    items, places = children.get(b"iinf"), children.get(b"iloc")
    if not (meta and items and places):
        return None, data
    for item, kind_at in _items(data, items):
        if data[kind_at : kind_at + 4] == b"Exif":
            hidden = data[:kind_at] + b"hide" + data[kind_at + 4 :]
            payload = _payload(data, places, children.get(b"idat"), item)
            return _tiff_stream(payload), hidden
    return None, data


def _items(data: bytes, items: _Box) -> Iterator[tuple[int, int]]:
    """Each item's number, and where its kind is written."""
    start = items.start + (6 if data[items.start] == 0 else 8)
    for box in _boxes(data, start, items.end):
        version = data[box.start]
        if box.kind == b"infe" and version in (2, 3):
            number_bytes = 2 if version == 2 else 4
            at = box.start + 4
            yield int.from_bytes(data[at : at + number_bytes], "big"), at + number_bytes + 2


def _payload(data: bytes, places: _Box, inline: _Box | None, wanted: int) -> bytes:
    """The bytes of an item, from the table of places ("iloc")."""
    reader = _Reader(data, places.start)
    version = reader.number(1)
    reader.number(3)
    sizes = reader.number(2)
    offset_bytes, length_bytes, base_bytes = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_bytes = sizes & 15 if version else 0
    for _ in range(reader.number(2 if version < 2 else 4)):
        item = reader.number(2 if version < 2 else 4)
        method = reader.number(2) & 15 if version else 0
        reader.number(2)
        base = reader.number(base_bytes)
        parts: list[bytes] = []
        for _ in range(reader.number(2)):
            reader.number(index_bytes)
            start = base + reader.number(offset_bytes)
            start += inline.start if method == 1 and inline else 0
            parts.append(data[start : start + reader.number(length_bytes)])
        if item == wanted:
            return b"".join(parts)
    return b""


class _Reader:
    """Big-endian numbers, one after another."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def number(self, size: int) -> int:
        end = self._at + size
        if end > len(self._data):
            raise BrokenImageError("AVIF is truncated within its table of items")
        value = int.from_bytes(self._data[self._at : end], "big")
        self._at = end
        return value


def _tiff_stream(payload: bytes) -> bytes | None:
    """An EXIF item begins with the distance to its TIFF header."""
    return payload[4 + int.from_bytes(payload[:4], "big") :] or None


def _with_orientation(exif: bytes | None, boxes: bytes | None) -> bytes | None:
    """The file's EXIF with the orientation that Pillow found in the boxes."""
    tree = exif_tree.parse(exif) if exif else None
    turn = exif_tree.parse(boxes) if boxes else None
    value = exif_tree.orientation(turn) if turn else 1
    if tree is None and value == 1:
        return None
    tree = exif_tree.upright(tree or exif_tree.Exif())
    return exif_tree.to_bytes(exif_tree.with_orientation(tree, value) if value > 1 else tree)
