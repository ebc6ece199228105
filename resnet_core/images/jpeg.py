"""JPEG through Pillow (libjpeg-turbo).

The plugin's class is called rather than `PIL.Image.open`, which would warn of large images and
take a photograph with a second picture behind it (MPO: a gain map, a preview) for a sequence.
Here that is the still image that every viewer shows; what lies behind it isn't kept.

CMYK is taken as inverted, 255 = no ink, whether Adobe's marker says so or not: so do Pillow and the
programs that write such files.
"""

from io import BytesIO

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from resnet_core.errors import BrokenImageError
from resnet_core.images.colour import cmyk_to_srgb
from resnet_core.images.image import Pixels
from resnet_core.images.opened import Opened, pillow_samples
from resnet_core.jpeg_tables import nearest_quality


class _JpegFile(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Left out: it warns of corrupt EXIF, which is read elsewhere."""


def open_jpeg(data: bytes) -> Opened:
    """Reads the header; no pixel is decoded."""
    image = _JpegFile(BytesIO(data))
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
