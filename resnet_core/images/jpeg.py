"""JPEG through Pillow (libjpeg-turbo).

The plugin's class is called rather than `PIL.Image.open`, which would warn of large images and
take a photograph with a second picture behind it (MPO: a gain map, a preview) for a sequence.
Here that is the still image that every viewer shows; what lies behind it isn't kept.

CMYK is taken as inverted, 255 = no ink, whether Adobe's marker says so or not: so do Pillow and the
programs that write such files.
"""

import re
from io import BytesIO

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from resnet_core.errors import BrokenImageError, UnsupportedImageError
from resnet_core.images.colour import cmyk_to_srgb
from resnet_core.images.image import Pixels
from resnet_core.images.opened import Opened, pillow_samples
from resnet_core.jpeg_tables import nearest_quality

MOST_SCANS = 100
"""Encoders write about ten. Each passes over all of the picture, so a few bytes can cost much."""

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


class _JpegFile(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Left out: it warns of corrupt EXIF, which is read elsewhere."""


def open_jpeg(data: bytes) -> Opened:
    """Reads the header; no pixel is decoded.

    Raises UnsupportedImageError for more than MOST_SCANS scans.
    """
    stream = BytesIO(data)
    image = _JpegFile(stream)
    _check_scans(data, stream.tell())
    return Opened(
        width=image.width,
        height=image.height,
        samples=lambda: _samples(image, data),
        icc_profile=image.info.get("icc_profile"),
        exif=image.info.get("exif"),
        xmp=image.info.get("xmp"),
        lossless=False,
        jpeg_quality=_quality(image),
    )


def _check_scans(data: bytes, at: int) -> None:
    """`at`: behind the header of the first scan."""
    scans = 1
    while marker := _MARKER.search(data, at):
        at = marker.end()
        if data[at - 1] == _END_OF_IMAGE:
            break
        scans += data[at - 1] == _START_OF_SCAN
        if scans > MOST_SCANS:
            raise UnsupportedImageError(f"JPEG with more than {MOST_SCANS} scans")
        at += int.from_bytes(data[at : at + 2], "big")


def _quality(image: JpegImageFile) -> int | None:
    """By the table of luma, whichever that is; None without one."""
    _, _, _, number = image.layer[0]
    table = image.quantization.get(number)
    return None if table is None else nearest_quality(table)


def _samples(image: JpegImageFile, data: bytes) -> Pixels:
    if b"\xff\xd9" not in data:
        raise BrokenImageError("JPEG is truncated: its end marker is missing")
    if image.mode == "CMYK":
        return cmyk_to_srgb(np.array(image), image.info.get("icc_profile"))
    return pillow_samples(image)
