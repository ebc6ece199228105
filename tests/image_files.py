"""Image files and profiles that the tests of images make for themselves."""

import struct
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image as PillowImage
from PIL import PngImagePlugin

ORIENTATION, SOFTWARE, GPS, CAMERA = 0x112, 0x131, 0x8825, 0x8769
LATITUDE = ((48, 1), (51, 1), (2996, 100))
METADATA_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")
# Written so that the pixels survive, or nearly.
BEST: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": "4:4:4"},
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4", "speed": 10},
    "GIF": {},
}
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" '
    b'exif:GPSLatitude="48,51.4993N" exif:ISOSpeed="100"><dc:title>Pont Neuf</dc:title>'
    b"<exif:GPSLongitude>2,20.7E</exif:GPSLongitude></rdf:Description></rdf:RDF></x:xmpmeta>"
    b'<?xpacket end="w"?>'
)


def noise(height: int, width: int, channels: int, dtype: Any = np.uint8, seed: int = 0) -> Any:
    """Random samples, HWC."""
    top = int(np.iinfo(dtype).max)
    rng = np.random.default_rng(seed)
    return rng.integers(0, top, (height, width, channels), dtype=dtype, endpoint=True)


def pillow(samples: Any) -> PillowImage.Image:
    """uint8 HWC of 1 to 4 channels as an image of Pillow."""
    return PillowImage.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)


def saved(image: PillowImage.Image, format: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def photo(format: str, orientation: int = 1, samples: Any = None) -> bytes:
    """With everything a camera and an editor put in: EXIF, XMP, a profile."""
    options: dict[str, Any] = {"xmp": XMP}
    if format == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode("utf-8"), zip=True)
        options = {"pnginfo": info}
    exif = photo_exif(orientation)
    if format == "TIFF":
        exif[700], options = XMP, {"compression": "raw"}  # else Pillow loses directories
    image = pillow(noise(8, 12, 3) if samples is None else samples)
    options = BEST[format] | options
    return saved(image, format, exif=exif.tobytes(), icc_profile=DISPLAY_P3, **options)


def tiff(samples: Any, **options: Any) -> bytes:
    """Through tifffile."""
    out = BytesIO()
    tifffile.imwrite(out, samples, metadata=None, **options)
    return out.getvalue()


def reopened(data: bytes) -> PillowImage.Image:
    return PillowImage.open(BytesIO(data))


def photo_exif(orientation: int = 1) -> PillowImage.Exif:
    """A camera's EXIF with a position, a size and a maker's note."""
    exif = PillowImage.Exif()
    exif[0x10F], exif[0x110], exif[SOFTWARE] = "Maker", "Model 7", "Camera 1.2"
    exif[ORIENTATION] = orientation
    exif.get_ifd(CAMERA).update({0x9003: "2024:05:06 07:08:09", 0xA002: 12, 0xA003: 8})
    exif.get_ifd(CAMERA)[0x927C] = b"NOTE" + bytes(range(40))
    exif.get_ifd(GPS).update({1: "N", 2: tuple(n / d for n, d in LATITUDE)})
    return exif


def still(format: str) -> bytes:
    """A small still image; TIFF is compressed, so that every byte counts."""
    return saved(pillow(noise(9, 14, 3)), format, **BEST[format])


def still_16_bit(format: str, channels: int = 3) -> bytes:
    samples = noise(9, 14, channels, np.uint16)
    if format == "PNG":
        return imagecodecs.png_encode(np.squeeze(samples, 2) if channels == 1 else samples)
    return tiff(samples, photometric="rgb", compression="zlib", predictor=True)


def _profile(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2.4."""
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78), **tags}
    body, table = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = bytearray(128)
    header[:24] = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02400000, kind, space,
                              connection)  # fmt: skip
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">3i", 63190, 65536, 54061)
    return bytes(header) + struct.pack(">I", len(tags)) + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


_GAMMA = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)

DISPLAY_P3 = _profile(b"RGB ", b"XYZ ", b"mntr", {
    b"wtpt": _xyz(0.9642, 1, 0.8249),
    b"rXYZ": _xyz(0.5151, 0.2412, -0.0011),
    b"gXYZ": _xyz(0.2919, 0.6922, 0.0419),
    b"bXYZ": _xyz(0.1572, 0.0666, 0.7841),
    b"rTRC": _GAMMA, b"gTRC": _GAMMA, b"bTRC": _GAMMA,
})  # fmt: skip

GRAY_LINEAR = _profile(b"GRAY", b"XYZ ", b"mntr", {
    b"wtpt": _xyz(0.9642, 1, 0.8249),
    b"kTRC": b"curv" + bytes(8),
})  # fmt: skip


def cmyk_profile() -> bytes:
    """Ink of a printer that has its own mind: any cyan gives a strong red."""
    ramp = bytes(range(256))
    corners = b""
    for corner in range(16):
        cyan, black = corner & 8, corner & 1
        lightness = 0 if black else 140 if cyan else 255
        corners += bytes((lightness, 198 if cyan and not black else 128, 128))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + ramp * 4 + corners + ramp * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", {b"wtpt": _xyz(0.9642, 1, 0.8249), b"A2B0": lut})
