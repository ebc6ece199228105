"""Bytes to `Image`: limits first, then pixels, upright."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from resnet_core.errors import (
    BrokenImageError,
    ImageError,
    ImageTooLargeError,
    UnsupportedImageError,
)
from resnet_core.images import exif as exif_tree
from resnet_core.images import xmp as xmp_text
from resnet_core.images.avif import open_avif
from resnet_core.images.bmp import open_bmp
from resnet_core.images.colour import fitting_profile
from resnet_core.images.formats import sniff
from resnet_core.images.gif import open_gif
from resnet_core.images.image import Image, Pixels
from resnet_core.images.jpeg import open_jpeg
from resnet_core.images.opened import Opened
from resnet_core.images.png import open_png
from resnet_core.images.tiff import open_tiff
from resnet_core.images.webp import open_webp

_OPENERS: dict[str, Callable[[bytes], Opened]] = {
    "JPEG": open_jpeg,
    "PNG": open_png,
    "WEBP": open_webp,
    "TIFF": open_tiff,
    "BMP": open_bmp,
    "AVIF": open_avif,
    "GIF": open_gif,
}


def decode(data: bytes, *, max_pixels: int = 100_000_000, max_bytes: int = 256 * 1024**2) -> Image:
    """A still image of any format in `FORMATS`, told by its content.

    Palettes, masks and fewer than 8 bits come out as 8-bit gray or RGB; 16-bit PNG and TIFF stay
    16-bit; CMYK becomes 8-bit sRGB through its profile. Safe to call from many threads.

    Raises UnsupportedImageError (another format, an animation, several pages), NoImageError (other
    content), BrokenImageError (truncated, corrupt) and ImageTooLargeError, this one before any
    pixel is decoded.
    """
    _check_bytes(data, max_bytes)
    name, opened = _open(data)
    _check(name, opened, max_pixels)
    with _told(name):
        samples = opened.samples()
    if samples.shape[:2] != (opened.height, opened.width) and name != "AVIF":
        raise BrokenImageError(
            f"{name}: expected {opened.width} x {opened.height} pixels, "
            f"found {samples.shape[1]} x {samples.shape[0]}"
        )
    return _image(name, opened, samples)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an image says of itself: a key of FORMATS, and pixels as stored, before orientation."""

    format: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read_header(
    data: bytes, *, max_pixels: int = 100_000_000, max_bytes: int = 256 * 1024**2
) -> Header:
    """The header alone: raises what `decode` raises before any pixel is decoded."""
    _check_bytes(data, max_bytes)
    name, opened = _open(data)
    _check(name, opened, max_pixels)
    return Header(format=name, width=opened.width, height=opened.height)


def _check_bytes(data: bytes, max_bytes: int) -> None:
    if len(data) > max_bytes:
        raise ImageTooLargeError(
            f"{len(data) / 1e6:.1f} MB are over the limit of {max_bytes / 1e6:.1f} MB (--max-bytes)"
        )


def _open(data: bytes) -> tuple[str, Opened]:
    name = sniff(data)
    with _told(name):
        return name, _OPENERS[name](data)


@contextmanager
def _told(name: str) -> Generator[None]:
    """What a codec raises, as an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageTooLargeError(f"{name}: not enough memory for its pixels") from error
    except Exception as error:  # a codec may raise anything on corrupt bytes
        raise BrokenImageError(f"{name} is truncated or corrupt: {_reason(error)}") from error


def _check(name: str, opened: Opened, max_pixels: int) -> None:
    width, height = opened.width, opened.height
    if width < 1 or height < 1:
        raise BrokenImageError(f"{name} of {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{width} x {height} pixels, {_megapixels(width * height)}, are over the limit "
            f"of {_megapixels(max_pixels)} (--max-pixels)"
        )
    if opened.several:
        raise UnsupportedImageError(f"{name} with {opened.several}: expected a still image")


def _megapixels(count: int) -> str:
    return f"{count / 1e6:.1f} megapixels" if count >= 100_000 else f"{count} pixels"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _image(name: str, opened: Opened, samples: Pixels) -> Image:
    colours = 1 if samples.shape[2] < 3 else 3
    exif = exif_tree.parse(opened.exif) if opened.exif else None
    turn = exif_tree.orientation(exif) if exif else 1
    upright = _turn(samples, turn)
    has_alpha = samples.shape[2] in (2, 4)
    return Image(
        pixels=np.ascontiguousarray(upright[..., :colours]),
        alpha=np.ascontiguousarray(upright[..., colours:]) if has_alpha else None,
        format=name,
        icc_profile=fitting_profile(opened.icc_profile, colours),
        exif=exif_tree.to_bytes(exif_tree.upright(exif)) if exif else None,
        xmp=xmp_text.upright(opened.xmp) if opened.xmp and turn > 1 else opened.xmp,
        lossless=opened.lossless,
        jpeg_quality=opened.jpeg_quality,
    )


def _turn(samples: Pixels, orientation: int) -> Pixels:
    """HWC as EXIF's orientation 1 to 8 wants it shown."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples
