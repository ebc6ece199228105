"""BMP: read through Pillow, written by hand where there is alpha, which Pillow would lose."""

import struct
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL.BmpImagePlugin import BmpImageFile

from resnet_core.images.opened import Opened, pillow_samples

_V4_HEADER_BYTES = 108
_BITFIELDS = 3
_MASKS_BGRA = (0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000)


def open_bmp(data: bytes) -> Opened:
    """Reads the header; no pixel is decoded."""
    image = BmpImageFile(BytesIO(data))
    return Opened(width=image.width, height=image.height, samples=lambda: pillow_samples(image))


def encode_bmp(samples: NDArray[np.uint8]) -> bytes:
    """uint8 HWC: gray, RGB, or RGBA (as a BITMAPV4HEADER with masks)."""
    channels = samples.shape[2]
    if channels == 4:
        return _encode_rgba(samples)
    out = BytesIO()
    PillowImage.fromarray(samples[..., 0] if channels == 1 else samples).save(out, "BMP")
    return out.getvalue()


def _encode_rgba(samples: NDArray[np.uint8]) -> bytes:
    height, width = samples.shape[:2]
    rows = samples[::-1, :, [2, 1, 0, 3]].tobytes()
    offset = 14 + _V4_HEADER_BYTES
    file_header = struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset)
    header = struct.pack(
        "<IiiHHIIiiII4I4s36s12s",
        *(_V4_HEADER_BYTES, width, height, 1, 32, _BITFIELDS, len(rows), 2835, 2835, 0, 0),
        *_MASKS_BGRA,
        *(b"BGRs", b"", b""),
    )
    return file_header + header + rows
