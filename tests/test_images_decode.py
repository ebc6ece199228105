"""Laws of `decode`: every row of the image contract that is about reading."""

import resource
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from image_files import (
    BEST,
    CAMERA,
    DISPLAY_P3,
    METADATA_FORMATS,
    ORIENTATION,
    XMP,
    cmyk_profile,
    noise,
    photo,
    photo_exif,
    pillow,
    reopened,
    saved,
    still,
    still_16_bit,
    tiff,
)
from PIL import Image as PillowImage
from PIL import ImageFile

from resnet_core.errors import (
    BrokenImageError,
    ImageError,
    ImageTooLargeError,
    NoImageError,
    UnsupportedImageError,
)
from resnet_core.images import FORMATS, decode, read_header

LOSSLESS = ("PNG", "WEBP", "TIFF", "BMP")


def samples_of(data: bytes):
    """Pixels and alpha side by side, HWC."""
    image = decode(data)
    if image.alpha is None:
        return image.pixels
    return np.concatenate([image.pixels, image.alpha], axis=2)


# Pixels


@pytest.mark.parametrize("format", LOSSLESS)
@given(height=st.integers(1, 9), width=st.integers(1, 17))
@settings(max_examples=12)
def test_rgb_of_any_size_is_read_exactly(format, height, width):
    samples = noise(height, width, 3)
    image = decode(saved(pillow(samples), format, **BEST[format]))
    assert image.format == format
    assert (image.height, image.width) == (height, width)
    assert image.alpha is None
    assert np.array_equal(image.pixels, samples)


@pytest.mark.parametrize("format", FORMATS)
def test_a_single_pixel(format):
    image = decode(saved(PillowImage.new("RGB", (1, 1), (255, 255, 255)), format, **BEST[format]))
    assert image.pixels.shape[:2] == (1, 1)
    assert image.pixels.min() >= 253


@pytest.mark.parametrize("format", FORMATS)
def test_pixels_can_be_written_to_and_lie_in_order(format):
    pixels = decode(still(format)).pixels
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP"])
def test_gray_stays_gray(format):
    samples = np.tile(np.arange(0, 255, 5, dtype=np.uint8), (6, 1))[..., None]
    pixels = decode(saved(pillow(samples), format, **BEST[format])).pixels
    assert pixels.shape == samples.shape
    assert np.abs(pixels.astype(int) - samples).max() <= (1 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("width", [1, 7, 8, 9])
def test_one_bit(format, width):
    bits = noise(5, width, 1)[..., 0] > 127
    pixels = decode(saved(PillowImage.fromarray(bits), format)).pixels
    assert np.array_equal(pixels[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_gray_with_alpha(format):
    samples = noise(5, 6, 2)
    bands = [PillowImage.fromarray(np.ascontiguousarray(samples[..., i])) for i in (0, 1)]
    data = saved(PillowImage.merge("LA", bands), format)
    assert np.array_equal(samples_of(data), samples)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_rgb_with_alpha_keeps_colour_under_transparent_pixels(format):
    samples = noise(5, 6, 4)
    samples[0, :, 3] = 0
    assert np.array_equal(samples_of(saved(pillow(samples), format, **BEST[format])), samples)


def palette_image() -> PillowImage.Image:
    image = PillowImage.new("P", (3, 2))
    image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    image.putdata([0, 1, 2, 2, 1, 0])
    return image


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF"])
def test_palette(format):
    pixels = decode(saved(palette_image(), format)).pixels
    assert pixels[0].tolist() == [[10, 20, 30], [200, 100, 50], [1, 2, 3]]


def test_palette_with_transparency():
    samples = samples_of(saved(palette_image(), "PNG", transparency=b"\x00\x80"))
    assert samples[0].tolist() == [[10, 20, 30, 0], [200, 100, 50, 128], [1, 2, 3, 255]]
    samples = samples_of(saved(palette_image(), "GIF", transparency=1))
    assert samples[0, :, 3].tolist() == [255, 0, 255]


@pytest.mark.parametrize("interlaced", [False, True])
def test_png_of_a_transparent_colour(interlaced):
    gray = PillowImage.fromarray(np.array([[5, 6], [7, 5]], np.uint8))
    assert samples_of(saved(gray, "PNG", transparency=5))[..., 1].tolist() == [[0, 255], [255, 0]]
    colour = pillow(noise(2, 2, 3))
    first = colour.getpixel((0, 0))
    data = saved(colour, "PNG", transparency=first, interlace=interlaced)
    assert samples_of(data)[..., 3].tolist() == [[0, 255], [255, 255]]


# 16 bits


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(channels):
    samples = noise(7, 5, channels, np.uint16)
    data = imagecodecs.png_encode(samples[..., 0] if channels == 1 else samples)
    found = samples_of(data)
    assert found.dtype == np.uint16
    assert np.array_equal(found, samples)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib", "predictor": True}, {"compression": "lzw"}, {"tile": (16, 16)},
     {"bigtiff": True}, {"rowsperstrip": 3}],
    ids=str,
)  # fmt: skip
def test_tiff_of_16_bits(order, channels, options):
    samples = noise(19, 21, channels, np.uint16)
    kind = "rgb" if channels >= 3 else "minisblack"
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    values = samples[..., 0] if channels == 1 else samples
    found = samples_of(tiff(values, photometric=kind, byteorder=order, **extra, **options))
    assert found.dtype == np.uint16
    assert np.array_equal(found, samples)


def test_tiff_in_planes():
    samples = noise(6, 5, 3, np.uint16)
    data = tiff(np.moveaxis(samples, 2, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(decode(data).pixels, samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_with_white_as_zero(dtype):
    samples = noise(6, 5, 1, dtype)
    data = tiff(samples[..., 0], photometric="miniswhite")
    assert np.array_equal(decode(data).pixels, np.iinfo(dtype).max - samples)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiff_of_few_bits_is_stretched_to_8(bits, white_is_zero):
    values = noise(4, 8, 1)[..., 0] >> (8 - bits)
    strips = np.packbits(np.unpackbits(values[..., None], axis=2)[..., -bits:]).tobytes()
    tags = {256: 8, 257: 4, 258: bits, 259: 1, 262: 1 - white_is_zero, 273: 8, 277: 1, 278: 4,
            279: len(strips)}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8 + len(strips)) + strips + directory
    levels = values * (255 // (2**bits - 1))
    expected = 255 - levels if white_is_zero else levels
    assert np.array_equal(decode(data).pixels[..., 0], expected)


def test_tiff_with_premultiplied_alpha_comes_out_straight():
    straight = noise(8, 8, 4)
    straight[..., 3] = np.maximum(straight[..., 3], 40)
    straight[0, 0] = 0
    opacity = straight[..., 3:] / 255
    stored = straight.copy()
    stored[..., :3] = np.rint(straight[..., :3] * opacity)
    found = samples_of(tiff(stored, photometric="rgb", extrasamples=["assocalpha"]))
    assert np.array_equal(found[..., 3], straight[..., 3])
    assert np.abs(found.astype(int) - straight).max() <= 4  # half a level over 40/255


@pytest.mark.parametrize("compression", ["jpeg", "packbits", "group4"])
def test_tiff_of_other_compressions_agrees_with_pillow(compression):
    picture = pillow(noise(16, 16, 3)).convert("1" if compression == "group4" else "RGB")
    data = saved(picture, "TIFF", compression=compression)
    expected = np.array(reopened(data).convert("L" if compression == "group4" else "RGB"))
    assert np.array_equal(np.squeeze(decode(data).pixels), expected)


def test_tiff_of_floats_is_refused():
    with pytest.raises(UnsupportedImageError, match=r"16 are read|floating"):
        decode(tiff(np.zeros((4, 4), np.float32)))


# Colour


def cmyk() -> PillowImage.Image:
    """Four flat patches: no ink, cyan, black, magenta with yellow."""
    inks = np.zeros((16, 64, 4), np.uint8)
    inks[:, 16:32, 0] = 255
    inks[:, 32:48, 3] = 255
    inks[:, 48:, 1:3] = 255
    return PillowImage.frombytes("CMYK", (64, 16), inks.tobytes())


def patches(data: bytes):
    return decode(data).pixels[8, 8::16].astype(int)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_without_profile_is_mixed_plainly(format):
    found = patches(saved(cmyk(), format, **BEST[format]))
    expected = [[255, 255, 255], [0, 255, 255], [0, 0, 0], [255, 0, 0]]
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_profile_to_srgb(format):
    data = saved(cmyk(), format, icc_profile=cmyk_profile(), **BEST[format])
    white, cyan, black, _ = patches(data)
    assert white.min() >= 250
    assert black.max() <= 5
    assert cyan[0] > cyan[1] + 80, "this profile's cyan is red"
    assert decode(data).icc_profile is None


def test_cmyk_jpeg_is_inverted_with_or_without_adobes_marker():
    marked = saved(cmyk(), "JPEG", **BEST["JPEG"])
    at = marked.index(b"\xff\xee")
    length = int.from_bytes(marked[at + 2 : at + 4], "big")
    bare = marked[:at] + marked[at + 2 + length :]
    assert patches(marked)[0].min() >= 250, "no ink is white"
    assert np.array_equal(patches(bare), patches(marked))


def test_adobes_ycck_jpeg():
    inks = np.array(cmyk())
    data = imagecodecs.jpeg8_encode(255 - inks, 100, colorspace="CMYK", outcolorspace="YCCK")
    expected = [[255, 255, 255], [0, 255, 255], [0, 0, 0], [255, 0, 0]]
    assert np.abs(patches(data) - expected).max() <= 6


@pytest.mark.parametrize("damage", [b"", b"junk", b"\0" * 200])
def test_cmyk_with_a_useless_profile_is_mixed_plainly(damage):
    profile = cmyk_profile()[:128] + damage
    assert patches(saved(cmyk(), "JPEG", icc_profile=profile, quality=100))[0].min() >= 250


@pytest.mark.parametrize("format", METADATA_FORMATS)
def test_display_p3_is_kept(format):
    data = saved(pillow(noise(4, 5, 3)), format, icc_profile=DISPLAY_P3)
    assert decode(data).icc_profile == DISPLAY_P3


def test_a_profile_that_does_not_fit_the_pixels_is_dropped():
    gray = saved(pillow(noise(4, 5, 1)), "JPEG", icc_profile=DISPLAY_P3)
    assert decode(gray).icc_profile is None


# Orientation and metadata

STORE = {  # how the upright picture must be stored for the tag to turn it back
    1: None,
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_90,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("format", METADATA_FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_and_reset(format, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = (250, 40, 40)
    upright[8:, 16:24] = (40, 40, 250)
    picture = pillow(upright)
    how = STORE[orientation]
    stored = picture.transpose(how) if how is not None else picture
    exif = photo_exif(orientation)
    image = decode(saved(stored, format, exif=exif, **BEST[format]))
    assert image.pixels.shape == upright.shape
    assert np.abs(image.pixels.astype(int) - upright).max() <= 12
    assert image.exif
    kept = PillowImage.Exif()
    kept.load(image.exif)
    assert kept.get(ORIENTATION, 1) == 1
    assert kept[0x110] == "Model 7"


def test_alpha_is_turned_with_its_pixels():
    samples = noise(3, 5, 4)
    data = saved(pillow(samples), "PNG", exif=photo_exif(6))
    assert np.array_equal(samples_of(data), np.rot90(samples, -1))


def test_orientation_that_makes_no_sense_is_upright():
    samples = noise(3, 5, 3)
    assert np.array_equal(decode(saved(pillow(samples), "PNG", exif=photo_exif(9))).pixels, samples)


@pytest.mark.parametrize("format", METADATA_FORMATS)
def test_exif_and_xmp_are_kept(format):
    image = decode(photo(format))
    assert image.xmp == XMP, "not turned, so nothing in it is reset"
    assert image.exif
    kept = PillowImage.Exif()
    kept.load(image.exif)
    assert kept.get_ifd(CAMERA)[0x927C] == b"NOTE" + bytes(range(40))
    assert kept.get_ifd(CAMERA)[0x9003] == "2024:05:06 07:08:09"


def test_xmp_orientation_is_reset_where_the_pixels_were_turned():
    assert decode(photo("JPEG", 6)).xmp == XMP.replace(b'Orientation="6"', b'Orientation="1"')


def test_exif_that_imagemagick_put_in_png_text():
    exif = photo_exif(3).tobytes()
    text = f"\nexif\n{len(exif):8}\n" + exif.hex()
    chunk = b"tEXtRaw profile type exif\0" + text.encode()
    samples = noise(3, 4, 3)
    png = imagecodecs.png_encode(samples)
    inserted = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert np.array_equal(decode(png[:33] + inserted + png[33:]).pixels, samples[::-1, ::-1])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_that_cannot_be_read_is_left_out(format):
    data = saved(pillow(noise(4, 5, 3)), format, exif=b"Exif\0\0junk and no directory")
    assert decode(data).exif is None


def test_a_second_picture_behind_a_jpeg_is_no_animation():
    first, second = pillow(noise(8, 8, 3)), pillow(noise(4, 4, 3))
    data = saved(first, "MPO", save_all=True, append_images=[second])
    image = decode(data)
    assert (image.format, image.pixels.shape) == ("JPEG", (8, 8, 3))


# What is refused


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_animations_and_pages_are_refused(format):
    frames = [pillow(noise(8, 8, 3, seed=seed)) for seed in range(3)]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedImageError, match=r"expected a still image"):
        decode(data)


def test_one_frame_is_a_still_image():
    picture = pillow(noise(8, 8, 3))
    assert decode(saved(picture, "GIF", save_all=True)).format == "GIF"
    assert decode(saved(picture, "WEBP", save_all=True, lossless=True)).format == "WEBP"


@pytest.mark.parametrize(
    "options", [{"subfiletype": 1}, {"extratags": [(50706, 1, 4, b"\1\4\0\0", True)]}]
)
def test_raw_photographs_are_not_their_thumbnails(options):
    with pytest.raises(UnsupportedImageError, match="raw photographs"):
        decode(tiff(np.zeros((12, 16, 3), np.uint8), photometric="rgb", **options))


def test_a_thumbnail_page_of_tiff_does_not_count():
    full, small = noise(8, 8, 3), noise(2, 2, 3)
    pages = [pillow(full), pillow(small)]
    pages[1].encoderinfo = {"tiffinfo": {254: 1}}
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert np.array_equal(decode(data).pixels, full)


@pytest.mark.parametrize("format", FORMATS)
def test_truncated_is_refused_wherever_it_is_cut(format):
    data = still(format)
    padding = 2 if format == "BMP" else 0  # of the last row: no pixel is missing without it
    for cut in range(16, len(data) - padding):
        with pytest.raises(BrokenImageError):
            decode(data[:cut])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_truncated_16_bit_is_refused_wherever_it_is_cut(format):
    data = still_16_bit(format)
    for cut in range(16, len(data), 7):
        with pytest.raises(BrokenImageError):
            decode(data[:cut])


def test_truncated_progressive_jpeg_is_refused():
    data = saved(pillow(noise(40, 40, 3)), "JPEG", progressive=True)
    for cut in range(16, len(data), 11):
        with pytest.raises(BrokenImageError):
            decode(data[:cut])


def test_a_jpeg_of_endless_scans_is_refused():
    data = saved(pillow(noise(40, 40, 3)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    few, many = (data[:-2] + last * count + data[-2:] for count in (80, 100))
    assert read_header(few + last * 100).pixels == 1600  # what lies behind the end isn't decoded
    with pytest.raises(UnsupportedImageError, match="more than 100 scans"):
        read_header(many)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"%PDF-1.7 ...", "PDF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "video"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"just some text", "6a 75 73 74"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "52 49 46 46"),
    ],
)
def test_what_is_no_image_is_named(data, found):
    with pytest.raises(NoImageError, match=found):
        decode(data)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0crx isom", "a raw photograph"),
        (b"\xff\x0a\0\0", "JPEG XL"),
    ],
)
def test_an_image_that_is_not_read_is_named(data, found):
    with pytest.raises(UnsupportedImageError, match=found) as raised:
        decode(data)
    assert raised.type is UnsupportedImageError


def test_nothing_is_broken():
    with pytest.raises(BrokenImageError, match="empty"):
        decode(b"")


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_signature_with_other_bytes_behind_it_is_broken(format):
    lie = still(format)[:8] + still("JPEG")
    with pytest.raises(BrokenImageError):
        decode(lie)


# Limits


def huge(format: str, side: int = 60_000) -> bytes:
    """A small file whose header claims side x side pixels."""
    data = bytearray(still(format))
    if format == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", side, side)
    elif format == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif format == "WEBP":
        canvas = (side - 1).to_bytes(3, "little") * 2
        chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas
        data[12:12] = chunk
        data[4:8] = struct.pack("<I", len(data) - 8)
    elif format == "TIFF":
        for tag in (256, 257):
            at = data.index(struct.pack("<HHI", tag, 3, 1)) + 8  # SHORT, which holds 60000
            data[at : at + 2] = struct.pack("<H", side)
    elif format == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif format == "AVIF":
        at = data.index(b"ispe") + 8
        data[at : at + 8] = struct.pack(">II", side, side)
    elif format == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    return bytes(data)


@pytest.mark.parametrize("format", FORMATS)
def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(format):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageTooLargeError, match=r"60000 x 60000"):
        decode(huge(format))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000, f"{grown} KB for an image that must not be decoded"


@pytest.mark.parametrize("mebibytes", [7, 9])
def test_compressed_metadata_of_a_png_is_bounded(mebibytes):
    text = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(mebibytes * 1024**2), 1)
    body = b"iTXt" + text
    chunk = struct.pack(">I", len(text)) + body + struct.pack(">I", zlib.crc32(body))
    data = saved(pillow(noise(8, 8, 3)), "PNG")
    data = data[:33] + chunk + data[33:]
    if mebibytes < 8:
        assert len(decode(data).xmp or b"") == mebibytes * 1024**2
    else:
        with pytest.raises(BrokenImageError, match="metadata is truncated or too large"):
            decode(data)


def test_a_real_bomb_costs_no_memory():
    """60000 x 60000 pixels that do decompress, in a process whose address space can't hold them."""
    program = """
import resource, struct, sys, zlib
from resnet_core.errors import ImageTooLargeError
from resnet_core.images import decode
def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
row_bytes, packer = 7501, zlib.compressobj(9, wbits=-15)
block = packer.compress(bytes(600 * row_bytes)) + packer.flush(zlib.Z_FULL_FLUSH)
check = struct.pack(">HH", 60000 * row_bytes % 65521, 1)
body = b"\\x78\\x01" + 100 * block + b"\\x03\\x00" + check
header = struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0)
png = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body)
png += chunk(b"IEND", b"")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(png)
except ImageTooLargeError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600
    )
    assert int(done.stdout) < 20_000, "KB"


@pytest.mark.parametrize("format", FORMATS)
def test_limits_are_inclusive(format):
    data = still(format)
    assert decode(data, max_pixels=9 * 14, max_bytes=len(data)).width == 14
    with pytest.raises(ImageTooLargeError, match="--max-pixels"):
        decode(data, max_pixels=9 * 14 - 1)
    with pytest.raises(ImageTooLargeError, match="--max-bytes"):
        decode(data, max_bytes=len(data) - 1)


def test_large_images_within_the_limit_raise_no_warning():
    side = 9_500  # over the 89 megapixels of which Pillow warns
    data = saved(PillowImage.new("L", (side, side)), "JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).width == side
    with pytest.raises(ImageTooLargeError):
        decode(data, max_pixels=89_000_000)


# Robustness

SEEDS = [still(name) for name in FORMATS]
SEEDS += [still_16_bit("PNG"), still_16_bit("TIFF"), saved(cmyk(), "JPEG"), saved(cmyk(), "TIFF")]
SEEDS += [photo(name, 6) for name in METADATA_FORMATS]


@given(data=st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_bytes_decode_or_raise_an_image_error(data):
    damaged = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            decode(bytes(damaged), max_pixels=1_000_000)
        except ImageError as error:
            message = str(error)
        else:
            message = ""
    assert "\n" not in message


@given(st.sampled_from([still(name)[:8] for name in FORMATS]), st.binary(max_size=200))
@example(b"", b"")
@settings(max_examples=100)
def test_random_bytes_decode_or_raise_an_image_error(start, rest):
    with pytest.raises(ImageError):
        decode(start + rest, max_pixels=10_000)


def test_eight_threads_give_what_one_gives():
    expected = [decode(seed) for seed in SEEDS]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(decode, SEEDS * 4))
    for image, like in zip(found, expected * 4, strict=True):
        assert np.array_equal(image.pixels, like.pixels)
        assert image.exif == like.exif


def test_settings_of_pillow_are_left_alone():
    before = (PillowImage.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:])
    for seed in SEEDS:
        decode(seed)
        decode_quietly(seed[:40])
    after = (PillowImage.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:])
    assert after == before
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def decode_quietly(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(data)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "GIF"])
def test_a_header_is_read_without_the_pixels(name: str) -> None:
    data = saved(pillow(noise(31, 23, 3)), name)
    header = read_header(data)
    assert (header.format, header.width, header.height, header.pixels) == (name, 23, 31, 713)
    with pytest.raises(ImageTooLargeError, match="--max-pixels"):
        read_header(data, max_pixels=712)
    with pytest.raises(ImageTooLargeError, match="--max-bytes"):
        read_header(data, max_bytes=len(data) - 1)
    with pytest.raises(UnsupportedImageError):
        read_header(b"nothing of the kind")
