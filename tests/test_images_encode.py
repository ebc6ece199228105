"""Laws of `encode`: every row of the image contract that is about writing."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import (
    CAMERA,
    DISPLAY_P3,
    GPS,
    GRAY_LINEAR,
    METADATA_FORMATS,
    ORIENTATION,
    SOFTWARE,
    XMP,
    noise,
    photo,
    photo_exif,
    pillow,
    reopened,
    saved,
)
from PIL import Image as PillowImage
from PIL import ImageCms

from resnet_core.errors import ConfigError
from resnet_core.images import FORMATS, Image, decode, encode
from resnet_core.images.exif import Directory, Entry, Exif, to_bytes

WRITTEN = [name for name, spec in FORMATS.items() if spec.writes]
LINE = "resray sr-x2 1f2e3d4c strength 1"
POSITION = (b"51.4993", b"20.7E", bytes.fromhex("b40b0000"), bytes.fromhex("00000bb4"))


def assert_same(found: Image, expected: Image) -> None:
    assert found.pixels.dtype == expected.pixels.dtype
    assert np.array_equal(found.pixels, expected.pixels)
    assert (found.alpha is None) == (expected.alpha is None)
    if found.alpha is not None and expected.alpha is not None:
        assert np.array_equal(found.alpha, expected.alpha)
    assert found.format == expected.format
    assert found.icc_profile == expected.icc_profile
    assert found.exif == expected.exif
    assert found.xmp == expected.xmp


@st.composite
def images(draw, format: str, *, dtypes=(np.uint8, np.uint16), channels=(1, 3)):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    count, dtype = draw(st.sampled_from(channels)), draw(st.sampled_from(dtypes))
    alpha = noise(height, width, 1, dtype, seed=1)
    alpha[0, 0] = 7  # WebP forgets an alpha that is opaque everywhere
    profile = draw(st.sampled_from([None, DISPLAY_P3 if count == 3 else GRAY_LINEAR]))
    return Image(
        pixels=noise(height, width, count, dtype),
        alpha=draw(st.sampled_from([None, alpha])),
        format=format,
        icc_profile=profile,
        exif=draw(st.sampled_from([None, decode(photo("PNG")).exif])),
        xmp=draw(st.sampled_from([None, XMP])),
    )


# Round trips


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@given(data=st.data())
@settings(max_examples=40)
def test_decode_undoes_encode(format, data):
    image = data.draw(images(format))
    found = decode(encode(image).data)
    if image.exif:  # its tags of size are made true
        image = replace(image, exif=found.exif)
    assert_same(found, image)


@given(data=st.data())
@settings(max_examples=20)
def test_decode_undoes_encode_of_lossless_webp(data):
    image = data.draw(images("WEBP", dtypes=(np.uint8,), channels=(3,)))
    found = decode(encode(replace(image, lossless=True)).data)
    assert_same(found, replace(image, exif=found.exif))


@given(data=st.data())
@settings(max_examples=20)
def test_decode_undoes_encode_of_bmp(data):
    image = data.draw(images("BMP", dtypes=(np.uint8,), channels=(3,)))
    image = replace(image, icc_profile=None, exif=None, xmp=None)
    assert_same(decode(encode(image).data), image)


@pytest.mark.parametrize("format", METADATA_FORMATS)
def test_a_second_round_changes_no_metadata(format):
    first = decode(encode(decode(photo(format, 6)), provenance=LINE).data)
    second = decode(encode(first, provenance=LINE).data)
    assert (second.icc_profile, second.exif, second.xmp) == (
        first.icc_profile,
        first.exif,
        first.xmp,
    )
    assert second.pixels.shape == first.pixels.shape == (12, 8, 3)


@pytest.mark.parametrize("format", WRITTEN)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pillow_reads_every_kind_that_is_written(format, channels, dtype):
    samples = noise(5, 7, channels, dtype)
    colours = 1 if channels < 3 else 3
    alpha = samples[..., colours:] if channels in (2, 4) else None
    encoded = encode(Image(pixels=samples[..., :colours], alpha=alpha, format=format))
    if format == "TIFF" and channels == 2 and dtype == np.uint16:
        return  # Pillow doesn't read this one; tifffile does, below
    picture = reopened(encoded.data)
    picture.load()
    assert (picture.format, picture.size) == (format, (7, 5))
    assert encoded.extension == FORMATS[format].extension
    assert encoded.media_type == FORMATS[format].media_type


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("big_endian", [False, True])
def test_tifffile_reads_what_is_written(channels, big_endian):
    samples = noise(50, 70, channels, np.uint16)
    colours = 1 if channels < 3 else 3
    exif = None
    if big_endian:
        header = PillowImage.Exif()
        header.endian = ">"
        header[SOFTWARE] = "Camera 1.2"
        exif = header.tobytes().removeprefix(b"Exif\0\0")
    image = Image(
        pixels=samples[..., :colours],
        alpha=samples[..., colours:] if channels in (2, 4) else None,
        format="TIFF",
        exif=exif,
    )
    data = encode(image).data
    assert data[:2] == (b"MM" if big_endian else b"II")
    assert np.array_equal(tifffile.imread(BytesIO(data)), np.squeeze(samples))


def test_tiff_of_many_strips():
    pixels = noise(700, 900, 3)
    data = encode(Image(pixels=pixels, format="TIFF")).data
    assert len(tifffile.TiffFile(BytesIO(data)).pages[0].dataoffsets) > 1
    assert np.array_equal(decode(data).pixels, pixels)


# Formats


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(3000, 1, 1), (3000, 3, 1), (3000, 1, 3), (1, 3000, 3)])
def test_narrow_png_comes_whole(shape, dtype):
    pixels = noise(*shape, dtype)
    assert np.array_equal(decode(encode(Image(pixels=pixels, format="PNG")).data).pixels, pixels)


def test_the_source_format_is_kept_unless_another_is_asked_for():
    image = decode(photo("WEBP"))
    assert encode(image).format == "WEBP"
    assert encode(image, format="tif").format == "TIFF"


def test_gif_becomes_png():
    encoded = encode(Image(pixels=noise(3, 4, 3), format="GIF"))
    assert (encoded.format, encoded.extension, encoded.media_type) == ("PNG", ".png", "image/png")


def test_a_side_that_the_format_cannot_hold_becomes_png():
    image = Image(pixels=np.zeros((1, 16_384, 3), np.uint8), format="WEBP")
    assert encode(image).format == "PNG"
    assert encode(replace(image, pixels=image.pixels[:, 1:])).format == "WEBP"


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "BMP", "AVIF"])
def test_16_bits_are_rounded_where_the_format_holds_8(format):
    level = np.full((8, 8, 3), 0x80FF, np.uint16)  # 128.49 of 255
    pixels = decode(encode(Image(pixels=level, format=format)).data).pixels
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - 128).max() <= 1


def test_alpha_is_laid_over_white_where_the_format_holds_none():
    alpha = np.zeros((16, 16, 1), np.uint8)
    alpha[:, 8:] = 128
    image = Image(pixels=np.zeros((16, 16, 3), np.uint8), alpha=alpha, format="PNG")
    found = decode(encode(image, format="jpeg").data)
    assert found.alpha is None
    assert np.abs(found.pixels[8, 3].astype(int) - 255).max() <= 2
    assert np.abs(found.pixels[8, 12].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF"])
def test_quality_costs_bytes(format):
    image = Image(pixels=noise(64, 64, 3), format=format)
    low, high = (encode(image, quality=quality).data for quality in (20, 95))
    assert len(low) < len(encode(image).data) < len(high) * 2
    assert len(low) < len(high)


def test_quality_means_nothing_to_lossless_formats():
    image = Image(pixels=noise(8, 8, 3), format="PNG")
    assert encode(image, quality=5).data == encode(image).data


@pytest.mark.parametrize(("format", "quality"), [("JPEG", 0), ("JPEG", 101), ("WEBP", -1)])
def test_quality_out_of_the_scale(format, quality):
    with pytest.raises(ConfigError, match=f"quality {quality} is out of the scale of {format}"):
        encode(Image(pixels=noise(8, 8, 3), format=format), quality=quality)


def test_a_lossless_webp_stays_lossless_until_a_quality_is_asked_for():
    data = saved(pillow(noise(32, 32, 3)), "WEBP", lossless=True)
    image = decode(data)
    assert np.array_equal(decode(encode(image).data).pixels, image.pixels)
    assert len(encode(image, quality=50).data) < len(encode(image).data)
    lossy = decode(saved(pillow(noise(32, 32, 3)), "WEBP", quality=80))
    assert b"VP8L" not in encode(lossy).data


def test_jpeg_keeps_full_colour_resolution():
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = 255
    found = decode(encode(Image(pixels=stripes, format="JPEG")).data).pixels
    assert np.abs(found.astype(int) - stripes).mean() < 12


# Colour


@pytest.mark.parametrize("format", METADATA_FORMATS)
@pytest.mark.parametrize("policy", ["keep", "no-gps", "strip"])
def test_display_p3_is_written_again_whatever_the_policy(format, policy):
    encoded = encode(decode(photo(format)), metadata=policy)
    assert decode(encoded.data).icc_profile == DISPLAY_P3
    assert reopened(encoded.data).info["icc_profile"] == DISPLAY_P3


def test_a_profile_that_cannot_be_written_is_applied():
    pixels = np.full((4, 4, 3), (0, 200, 0), np.uint8)
    image = Image(pixels=pixels, format="PNG", icc_profile=DISPLAY_P3)
    found = decode(encode(image, format="bmp").data).pixels[0, 0]
    profile = ImageCms.ImageCmsProfile(BytesIO(DISPLAY_P3))
    expected = ImageCms.profileToProfile(
        pillow(pixels), profile, ImageCms.createProfile("sRGB"), renderingIntent=1
    )
    assert expected is not None
    assert np.abs(found.astype(int) - expected.getpixel((0, 0))).max() <= 1
    assert found.tolist() != [0, 200, 0]


@pytest.mark.parametrize("format", ["WEBP", "AVIF"])
def test_a_gray_profile_is_applied_where_gray_is_stored_as_rgb(format):
    image = Image(pixels=np.full((8, 8, 1), 55, np.uint8), format="PNG", icc_profile=GRAY_LINEAR)
    found = decode(encode(image, format=format).data)
    assert found.icc_profile is None
    assert abs(int(found.pixels[4, 4, 0]) - 128) <= 3, "55/255 of linear light is 128 in sRGB"


# Metadata


@pytest.mark.parametrize("format", METADATA_FORMATS)
def test_keep_keeps_exif_xmp_and_position(format):
    data = encode(decode(photo(format, 6))).data
    exif = reopened(data).getexif()
    assert exif.get(ORIENTATION, 1) == 1
    assert exif[0x110] == "Model 7"
    assert exif.get_ifd(GPS)[1] == "N"
    assert exif.get_ifd(GPS)[2] == (48, 51, 29.96)
    assert exif.get_ifd(CAMERA)[0x9003] == "2024:05:06 07:08:09"
    assert exif.get_ifd(CAMERA)[0x927C] == b"NOTE" + bytes(range(40))
    assert b"48,51.4993N" in (decode(data).xmp or b"")


@pytest.mark.parametrize("format", METADATA_FORMATS)
def test_no_gps_leaves_no_byte_of_the_position(format):
    source = photo(format)
    data = encode(decode(source), metadata="no-gps").data
    assert not reopened(data).getexif().get_ifd(GPS)
    image = decode(data)
    assert image.exif
    assert image.xmp
    assert b"Pont Neuf" in image.xmp
    assert b"GPS" not in image.xmp
    for secret in POSITION:
        assert secret not in image.exif + image.xmp
    assert reopened(data).getexif()[0x110] == "Model 7"


@pytest.mark.parametrize("format", METADATA_FORMATS)
def test_strip_leaves_the_profile_alone(format):
    data = encode(decode(photo(format)), metadata="strip", provenance=LINE).data
    image = decode(data)
    assert (image.exif, image.xmp) == (None, None)
    assert image.icc_profile == DISPLAY_P3
    for trace in (b"Model 7", b"Pont Neuf", b"resray"):
        assert trace not in data


@pytest.mark.parametrize("format", METADATA_FORMATS)
@pytest.mark.parametrize("policy", ["keep", "no-gps"])
def test_provenance_is_a_line_that_any_reader_finds(format, policy):
    plain = Image(pixels=noise(8, 8, 3), format=format)
    data = encode(plain, provenance=LINE, metadata=policy).data
    assert reopened(data).getexif()[SOFTWARE] == LINE
    data = encode(decode(photo(format)), provenance=LINE, metadata=policy).data
    assert reopened(data).getexif()[SOFTWARE] == f"Camera 1.2; {LINE}"


@pytest.mark.parametrize("format", METADATA_FORMATS)
def test_tags_of_size_are_made_true(format):
    image = decode(photo(format))
    larger = replace(image, pixels=image.pixels.repeat(2, axis=0).repeat(2, axis=1))
    camera = reopened(encode(larger).data).getexif().get_ifd(CAMERA)
    assert (camera[0xA002], camera[0xA003]) == (24, 16)


def test_metadata_moves_between_formats():
    for source in METADATA_FORMATS:
        image = decode(photo(source))
        for target in METADATA_FORMATS:
            found = decode(encode(image, format=target).data)
            assert found.xmp == XMP
            assert found.icc_profile == DISPLAY_P3
            assert found.exif
            assert b"Model 7" in found.exif


@pytest.mark.parametrize(("over", "is_kept"), [(0, True), (1, False)])
def test_what_is_over_the_limit_of_a_jpeg_segment_is_left_out(over, is_kept):
    text = bytes([32]) * (65_501 + over)  # the directory takes 26 bytes more
    root = Directory(entries={0x010E: Entry(type=2, count=len(text), raw=text)})
    block, packet = to_bytes(Exif(root=root)), b"x" * (65_504 + over)
    image = Image(pixels=noise(8, 8, 3), format="PNG", exif=block, xmp=packet)
    found = decode(encode(image, format="jpeg").data)
    assert (found.exif, found.xmp) == ((block, packet) if is_kept else (None, None))
    assert decode(encode(image).data).exif == block


def test_the_thumbnail_of_the_image_as_it_was_is_left_out():
    thumbnail = saved(pillow(noise(8, 8, 3)), "JPEG")
    block = bytearray(photo_exif().tobytes().removeprefix(b"Exif\0\0"))
    root = int.from_bytes(block[4:8], "little")
    end = root + 2 + 12 * int.from_bytes(block[root : root + 2], "little")
    block[end : end + 4] = len(block).to_bytes(4, "little")
    entries = [(0x201, len(block) + 30), (0x202, len(thumbnail))]
    block += len(entries).to_bytes(2, "little")
    for tag, value in entries:
        block += tag.to_bytes(2, "little") + b"\x04\0\1\0\0\0" + value.to_bytes(4, "little")
    block += bytes(4) + thumbnail
    image = decode(saved(pillow(noise(8, 8, 3)), "JPEG", exif=b"Exif\0\0" + bytes(block)))
    assert image.exif
    assert b"Model 7" in image.exif
    assert thumbnail[:20] not in image.exif


def test_unknown_policy_offers_the_near_one():
    with pytest.raises(ConfigError, match="did you mean 'no-gps'"):
        encode(Image(pixels=noise(2, 2, 3), format="PNG"), metadata="nogps")  # pyright: ignore[reportArgumentType]


# Image


def test_an_image_checks_its_arrays():
    with pytest.raises(ValueError, match="expected uint8 or uint16, found float32"):
        Image(pixels=np.zeros((2, 2, 3), np.float32), format="PNG")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"found \(2, 2, 4\)"):
        Image(pixels=noise(2, 2, 4), format="PNG")
    with pytest.raises(ValueError, match="alpha: expected uint8"):
        Image(pixels=noise(2, 2, 3), alpha=noise(2, 2, 1, np.uint16), format="PNG")
