"""Both pictures of a pair show the same window, upright, at one size, within the budget."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pipelines.page_images import (
    LONGEST_SIDE_PX,
    EncodedView,
    densest_box,
    detail_window,
    pair_view,
)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int, height: int) -> Image.Image:
    """A smooth ramp with a texture in the lower right quarter."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) * 127 // width], axis=-1)
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    pixels[height // 2 :, width // 2 :] ^= ((x + y) % 2 * 90).astype(np.uint8)[
        height // 2 :, width // 2 :, None
    ]
    return Image.fromarray(pixels)


def shown(view: EncodedView) -> Image.Image:
    image = Image.open(io.BytesIO(view.data))
    assert image.size == (view.width, view.height)
    return image


def difference(a: Image.Image, b: Image.Image) -> float:
    levels = [np.asarray(image.convert("RGB"), dtype=np.float64) for image in (a, b)]
    return float(np.abs(levels[0] - levels[1]).mean())


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_before_is_the_bicubic_enlargement(scale: int) -> None:
    small = picture(60, 40)
    large = small.resize((60 * scale, 40 * scale), Image.Resampling.BICUBIC)
    view = pair_view(encoded(small), encoded(large), budget_bytes=400_000)
    assert (view.source_width, view.full_width) == (60, 60 * scale)
    assert view.thumbnail is None
    assert difference(shown(view.before), large) < 3
    assert difference(shown(view.after), large) < 3


def test_large_picture_shows_its_detail_at_full_size_in_both() -> None:
    large = picture(1600, 1200)
    small = large.resize((800, 600), Image.Resampling.BICUBIC)
    view = pair_view(encoded(small), encoded(large), budget_bytes=200_000)
    box = view.box
    assert view.thumbnail is not None
    assert max(shown(view.thumbnail).size) <= 224
    assert box.left + box.width / 2 > 800
    assert box.top + box.height / 2 > 600
    window = (box.left, box.top, box.left + box.width, box.top + box.height)
    enlarged = small.resize((1600, 1200), Image.Resampling.BICUBIC)
    assert difference(shown(view.after), large.crop(window)) < 12
    assert difference(shown(view.before), enlarged.crop(window)) < 12


def test_orientation_of_the_source_is_applied() -> None:
    upright = picture(60, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    view = pair_view(turned, encoded(upright), budget_bytes=400_000)
    assert (view.source_width, view.source_height) == (60, 40)
    assert difference(shown(view.before), upright) < 8


def test_sixteen_bits_are_shown_as_eight() -> None:
    levels = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    data = encoded(Image.fromarray(levels))
    image = shown(pair_view(data, data, budget_bytes=100_000).after)
    assert np.abs(np.asarray(image.convert("L"), dtype=float) - levels / 257).max() < 6


def test_transparency_and_profile_are_kept() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = picture(40, 30).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((40, 30)))
    data = encoded(image, icc_profile=profile)
    view = pair_view(data, data, budget_bytes=100_000)
    assert view.after.media_type == "image/webp"
    assert shown(view.after).getextrema()[3] == image.getextrema()[3]
    opaque = encoded(picture(40, 30), icc_profile=profile)
    after = shown(pair_view(opaque, opaque, budget_bytes=100_000).after)
    assert after.info["icc_profile"] == profile


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_every_mode_gives_a_picture_that_browsers_show(mode: str) -> None:
    data = encoded(picture(20, 16).convert(mode), "TIFF")
    view = pair_view(data, data, budget_bytes=100_000)
    assert view.before.media_type in {"image/jpeg", "image/webp"}
    assert shown(view.before).size == (20, 16)


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    max_pixels=st.integers(1, 50_000),
)
def test_window_lies_inside_and_keeps_its_limit(width: int, height: int, max_pixels: int) -> None:
    box = detail_window(Image.new("RGB", (width, height)), max_pixels=max_pixels)
    assert 1 <= box.width * box.height <= max_pixels
    assert 0 <= box.left <= box.left + box.width <= width
    assert 0 <= box.top <= box.top + box.height <= height


@pytest.mark.parametrize("size", [(1, 80_000), (80_000, 2), (70_000, 3)])
def test_long_thin_pictures_are_shown_in_part(size: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", size, "teal"))
    view = pair_view(data, data, budget_bytes=100_000)
    assert max(shown(view.after).size) == LONGEST_SIDE_PX
    assert view.thumbnail is not None


def test_densest_box_is_where_the_values_are() -> None:
    values = np.zeros((60, 80))
    values[41:49, 13:21] = 1
    box = densest_box(values, 8, 8)
    assert (box.left, box.top, box.width, box.height) == (13, 41, 8, 8)
    assert densest_box(values, 500, 500).width == 80
