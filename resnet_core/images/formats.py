"""The formats that are read and written, told apart by their first bytes."""

from dataclasses import dataclass

from resnet_core.errors import (
    BrokenImageError,
    ConfigError,
    NoImageError,
    UnsupportedImageError,
    did_you_mean,
)


@dataclass(frozen=True, kw_only=True)
class Format:
    """What one format can hold.

    extensions: file name endings, the first is the one that is written.
    max_bits: bits of one sample that are written; more are rounded.
    max_side_px: the longest side that can be written; a longer image becomes PNG.
    quality: the lowest and highest quality, or None where nothing is lost.
    """

    name: str
    extensions: tuple[str, ...]
    media_type: str
    writes: bool = True
    max_bits: int = 8
    alpha: bool = True
    icc: bool = True
    metadata: bool = True
    max_side_px: int
    quality: tuple[int, int] | None = None
    default_quality: int | None = None

    @property
    def extension(self) -> str:
        """The ending of a file that is written, ".jpg"."""
        return self.extensions[0]


FORMATS: dict[str, Format] = {
    spec.name: spec
    for spec in (
        Format(
            name="JPEG",
            extensions=(".jpg", ".jpeg", ".jpe", ".jfif"),
            media_type="image/jpeg",
            alpha=False,
            max_side_px=65_500,
            quality=(1, 100),
            default_quality=93,
        ),
        Format(
            name="PNG",
            extensions=(".png", ".apng"),
            media_type="image/png",
            max_bits=16,
            max_side_px=1_000_000,
        ),
        Format(
            name="WEBP",
            extensions=(".webp",),
            media_type="image/webp",
            max_side_px=16_383,
            quality=(0, 100),
            default_quality=90,
        ),
        Format(
            name="TIFF",
            extensions=(".tif", ".tiff"),
            media_type="image/tiff",
            max_bits=16,
            max_side_px=1_000_000,
        ),
        Format(
            name="BMP",
            extensions=(".bmp", ".dib"),
            media_type="image/bmp",
            icc=False,
            metadata=False,
            max_side_px=1_000_000,
        ),
        Format(
            name="AVIF",
            extensions=(".avif",),
            media_type="image/avif",
            max_side_px=16_384,
            quality=(0, 100),
            default_quality=85,
        ),
        Format(
            name="GIF",
            extensions=(".gif",),
            media_type="image/gif",
            writes=False,
            icc=False,
            metadata=False,
            max_side_px=65_535,
        ),
    )
}

FALLBACK = "PNG"
"""Written where the source's format can't hold the result."""

_STARTS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "BMP": (b"BM",),
}

# The start of other files that people have among photographs, to name them in the error.
_UNREAD_IMAGES = (
    (b"8BPS", "a Photoshop document"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"FUJIFILMCCD-RAW", "a raw photograph"),
    (b"IIU\0", "a raw photograph"),
    (b"IIRO", "a raw photograph"),
)
_NO_IMAGES = (
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"<!DOCTYPE html", "HTML"),
    (b"<html", "HTML"),
    (b"\x1f\x8b", "gzip"),
)


def sniff(data: bytes) -> str:
    """The format's name, a key of `FORMATS`, from the first bytes alone.

    Raises UnsupportedImageError for images of other formats, NoImageError for anything else, and
    BrokenImageError where there is nothing.
    """
    if not data:
        raise BrokenImageError("empty: no bytes")
    for name, starts in _STARTS.items():
        if data.startswith(starts) and (name != "BMP" or _is_bmp(data)):
            return name
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and _is_avif(data):
        return "AVIF"
    expected = f"expected one of {', '.join(FORMATS)}"
    if image := _unread_image(data):
        raise UnsupportedImageError(f"{expected}, found {image}")
    raise NoImageError(f"{expected}, found {_describe(data)}")


def _is_bmp(data: bytes) -> bool:
    """Text may begin with BM too, but not with a zero among its first bytes."""
    return b"\0" in data[:18]


def _brands(data: bytes) -> list[bytes]:
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return [box[:4], *(box[at : at + 4] for at in range(8, len(box), 4))]


def _is_avif(data: bytes) -> bool:
    brands = _brands(data)
    return b"avif" in brands or b"avis" in brands


def _unread_image(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        brands = _brands(data)
        if b"crx " in brands:
            return "a raw photograph"
        return "HEIC" if any(brand[:3] in (b"hei", b"hev", b"mif") for brand in brands) else None
    return next((name for start, name in _UNREAD_IMAGES if data.startswith(start)), None)


def _describe(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "a video or another ISO media file"
    named = (name for start, name in _NO_IMAGES if data.startswith(start))
    return next(named, f"bytes that begin with {data[:8].hex(' ')}")


def output_format(source_format: str, requested: str | None) -> str:
    """The format that is written, a key of `FORMATS`.

    requested: a format's name or one of its extensions, in any case ("jpg", ".TIFF"); None keeps
    the source's, and what isn't written (GIF) becomes PNG. Raises ConfigError for a name that is
    unknown or isn't written.
    """
    if requested is None:
        return source_format if FORMATS[source_format].writes else FALLBACK
    names = {name.lower(): name for name in FORMATS} | {
        extension[1:]: spec.name for spec in FORMATS.values() for extension in spec.extensions
    }
    known = [name.lower() for name, spec in FORMATS.items() if spec.writes]
    name = names.get(requested.lower().removeprefix("."))
    if name is None:
        raise ConfigError(f"format {requested!r} is unknown: {did_you_mean(requested, known)}")
    if not FORMATS[name].writes:
        raise ConfigError(f"format {requested!r} is read, not written: use {', '.join(known)}")
    return name
