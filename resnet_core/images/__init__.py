"""Images in and out: `decode` bytes, `encode` bytes, and nothing lost between them in silence.

Read: JPEG, PNG, WebP, TIFF, BMP, AVIF, still GIF. Written: the same but GIF. `FORMATS` says what
each can hold. Kept: 8 and 16 bits, gray and RGB, straight alpha, the ICC profile, EXIF, XMP. Not
kept: thumbnails, gain maps, IPTC records, text chunks of PNG, resolution outside EXIF.

    decode.py, encode.py    the two ways, the same for every format
    formats.py, image.py    what formats hold; what an image is
    jpeg.py ... avif.py     one file a format: its header before, its pixels after the limits
    exif.py, xmp.py         metadata, read and edited
    colour.py               ICC profiles and CMYK
    transparency.py         colour under transparent pixels
"""

from resnet_core.images.decode import Header, decode, read_header
from resnet_core.images.encode import (
    METADATA_POLICIES,
    Encoded,
    MetadataPolicy,
    check_quality,
    encode,
)
from resnet_core.images.formats import FORMATS, Format, output_format, sniff
from resnet_core.images.image import Image, Pixels, round_to_8_bit
from resnet_core.images.transparency import fill_transparent

__all__ = [
    "FORMATS",
    "METADATA_POLICIES",
    "Encoded",
    "Format",
    "Header",
    "Image",
    "MetadataPolicy",
    "Pixels",
    "check_quality",
    "decode",
    "encode",
    "fill_transparent",
    "output_format",
    "read_header",
    "round_to_8_bit",
    "sniff",
]
