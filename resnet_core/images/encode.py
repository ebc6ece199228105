"""`Image` to bytes of a format.

Effort is chosen for speed at near-equal size, measured on photographs; the lossless formats give
their figures in `png.py` and `tiff.py`:

- JPEG: quality 93, full colour resolution (4:4:4), plain Huffman tables. At equal bytes 4:4:4 is as
  near to the pixels as 4:2:0 (both 41.1 dB at 3.3 bits a pixel) and keeps coloured edges clean,
  which is what an enlargement is made for. Optimised tables save 2 % in twice the time,
  progressive ones 7 % in seven times.
- WebP: method 2. Lossless sources stay lossless unless a quality is given.
- AVIF: speed 9, full colour resolution: 165 ms a megapixel on one thread; speed 6, Pillow's
  default, takes 1430 for 5 % fewer bytes and 0.4 dB more.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from resnet_core.errors import ConfigError, did_you_mean
from resnet_core.images import exif as exif_tree
from resnet_core.images import xmp as xmp_text
from resnet_core.images.bmp import encode_bmp
from resnet_core.images.colour import profile_mode, to_srgb
from resnet_core.images.exif import Exif
from resnet_core.images.formats import FALLBACK, FORMATS, Format, output_format
from resnet_core.images.image import Image, Pixels, round_to_8_bit
from resnet_core.images.png import encode_png
from resnet_core.images.tiff import encode_tiff

MetadataPolicy = Literal["keep", "no-gps", "strip"]
METADATA_POLICIES: tuple[MetadataPolicy, ...] = ("keep", "no-gps", "strip")

# One JPEG segment's 65,533 bytes, without the prefix of each.
_JPEG_EXIF_BYTES = 65_533 - len(b"Exif\0\0")
_JPEG_XMP_BYTES = 65_533 - len(b"http://ns.adobe.com/xap/1.0/\0")


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """An image file's bytes, its real format, the ending of its name (".jpg"), its media type."""

    data: bytes
    format: str
    extension: str
    media_type: str


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is written: samples as the format holds them, and what goes with them."""

    samples: Pixels
    quality: int | None
    icc_profile: bytes | None
    exif: Exif | None
    xmp: bytes | None

    @property
    def exif_bytes(self) -> bytes | None:
        return exif_tree.to_bytes(self.exif) if self.exif else None


def encode(
    image: Image,
    *,
    format: str | None = None,  # noqa: A002  the option's name
    quality: int | None = None,
    metadata: MetadataPolicy = "keep",
    provenance: str | None = None,
) -> Encoded:
    """The image in `format` (a name or an extension), or in its source's.

    What the format can't hold: 16 bits are rounded to 8; alpha is laid over white; an ICC profile
    that can't be written, or doesn't fit where gray must be stored as RGB, is applied (to sRGB).
    GIF, and sides longer than the format's limit, become PNG: `Encoded.format` tells.

    quality: in the format's own scale; lossless formats have none and pay no heed to it.
    metadata: "no-gps" takes the position out of EXIF and XMP; "strip" leaves nothing but the ICC
    profile, without which the colours would be wrong, and writes no provenance.
    provenance: one line, appended to the EXIF tag Software, which is the one place that JPEG, PNG,
    WebP, TIFF and AVIF all have (BMP has none).

    Raises ConfigError for an unknown format or policy and a quality out of the scale.
    """
    if metadata not in METADATA_POLICIES:
        hint = did_you_mean(metadata, METADATA_POLICIES)
        raise ConfigError(f"metadata {metadata!r} is unknown: {hint}")
    spec = FORMATS[output_format(image.format, format)]
    check_quality(spec, quality)
    if max(image.height, image.width) > spec.max_side_px:
        spec = FORMATS[FALLBACK]
    plan = _plan(image, spec, quality, metadata, provenance)
    data = _write(plan, spec.name)
    return Encoded(
        data=data, format=spec.name, extension=spec.extension, media_type=spec.media_type
    )


def check_quality(spec: Format, quality: int | None) -> None:
    """ConfigError for a quality out of the format's scale; where nothing is lost, any will do."""
    if quality is None or spec.quality is None:
        return
    low, high = spec.quality
    if not low <= quality <= high:
        raise ConfigError(f"quality {quality} is out of the scale of {spec.name}, {low} to {high}")


def _plan(
    image: Image,
    spec: Format,
    quality: int | None,
    metadata: MetadataPolicy,
    provenance: str | None,
) -> _Plan:
    samples, icc_profile = _fit(image, spec)
    keeps = spec.metadata and metadata != "strip"
    if quality is None and not (image.lossless and spec.name == "WEBP"):
        quality = spec.default_quality
    return _Plan(
        samples=samples,
        quality=quality,
        icc_profile=icc_profile,
        exif=_edited_exif(image, spec, metadata, provenance) if keeps else None,
        xmp=_edited_xmp(image.xmp, metadata) if keeps else None,
    )


def _edited_exif(
    image: Image, spec: Format, metadata: MetadataPolicy, provenance: str | None
) -> Exif | None:
    exif = exif_tree.parse(image.exif) if image.exif else None
    if exif:
        exif = exif_tree.upright(exif)
        exif = exif_tree.with_size(exif, width=image.width, height=image.height)
        exif = exif_tree.without_gps(exif) if metadata == "no-gps" else exif
        if spec.name == "AVIF":  # Pillow would move the tag into boxes, and rewrite the rest
            exif = exif_tree.without_orientation(exif)
    return exif_tree.with_provenance(exif or Exif(), provenance) if provenance else exif


def _edited_xmp(packet: bytes | None, metadata: MetadataPolicy) -> bytes | None:
    return xmp_text.without_gps(packet) if packet and metadata == "no-gps" else packet


def _fit(image: Image, spec: Format) -> tuple[Pixels, bytes | None]:
    """Samples HWC as the format holds them, and the profile that is written with them."""
    if spec.max_bits == 16:
        return _joined(image.pixels, image.alpha), image.icc_profile
    icc_profile = image.icc_profile
    pixels = round_to_8_bit(image.pixels)
    alpha = None if image.alpha is None else round_to_8_bit(image.alpha)
    if icc_profile and not _holds(spec, icc_profile):
        pixels, icc_profile = _apply_profile(pixels, icc_profile), None
    if alpha is not None and not spec.alpha:
        pixels, alpha = _over_white(pixels, alpha), None
    if alpha is not None and pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)  # no 8-bit format has gray + alpha
    return _joined(pixels, alpha), icc_profile


def _joined(pixels: Pixels, alpha: Pixels | None) -> Pixels:
    samples = pixels if alpha is None else np.concatenate([pixels, alpha], axis=2)
    return np.ascontiguousarray(samples)


def _holds(spec: Format, icc_profile: bytes) -> bool:
    """Gray is RGB to WebP, and to many readers of AVIF."""
    stored_as_rgb = spec.name in ("WEBP", "AVIF")
    return spec.icc and not (stored_as_rgb and profile_mode(icc_profile) == "L")


def _apply_profile(pixels: NDArray[np.uint8], icc_profile: bytes) -> NDArray[np.uint8]:
    try:
        return to_srgb(pixels, icc_profile)
    except ValueError:
        return pixels


def _over_white(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    wide = alpha.astype(np.uint32)
    mixed = pixels.astype(np.uint32) * wide + 255 * (255 - wide)
    return ((mixed + 127) // 255).astype(np.uint8)


def _write(plan: _Plan, name: str) -> bytes:
    if name == "PNG":
        return encode_png(
            plan.samples, icc_profile=plan.icc_profile, exif=plan.exif_bytes, xmp=plan.xmp
        )
    if name == "TIFF":
        return encode_tiff(
            plan.samples, icc_profile=plan.icc_profile, exif=plan.exif or Exif(), xmp=plan.xmp
        )
    if name == "BMP":
        return encode_bmp(round_to_8_bit(plan.samples))
    return _write_with_pillow(plan, name)


def _write_with_pillow(plan: _Plan, name: str) -> bytes:
    options: dict[str, Any] = {"quality": plan.quality}
    exif, xmp = plan.exif_bytes, plan.xmp
    if name == "JPEG":
        options["subsampling"] = "4:4:4"
        exif = exif if exif and len(exif) <= _JPEG_EXIF_BYTES else None
        xmp = xmp if xmp and len(xmp) <= _JPEG_XMP_BYTES else None
    elif name == "WEBP":
        options = {"lossless": True, "quality": 0, "method": 0, "exact": True}
        if plan.quality is not None:
            options = {"quality": plan.quality, "method": 2}
    else:
        gray = plan.samples.shape[2] == 1
        options |= {"speed": 9, "subsampling": "4:0:0" if gray else "4:4:4"}
    for key, value in (("icc_profile", plan.icc_profile), ("exif", exif), ("xmp", xmp)):
        if value:
            options[key] = b"Exif\0\0" + value if key == "exif" and name == "JPEG" else value
    samples = plan.samples
    out = BytesIO()
    image = PillowImage.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    image.save(out, name, **options)
    return out.getvalue()
