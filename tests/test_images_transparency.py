"""Laws of colour under transparent pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import noise
from PIL import Image as PillowImage

from resnet_core.images import fill_transparent


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]),
       st.sampled_from([np.uint8, np.uint16]), st.integers(0, 100))  # fmt: skip
def test_visible_pixels_are_kept_and_hidden_ones_lie_between_them(
    height, width, channels, dtype, seed
):
    pixels, alpha = (
        noise(height, width, channels, dtype, seed),
        noise(height, width, 1, dtype, seed),
    )
    alpha[alpha < np.iinfo(dtype).max // 2] = 0
    visible = alpha[..., 0] > 0
    found = fill_transparent(pixels, alpha)
    assert found.dtype == dtype
    assert np.array_equal(found[visible], pixels[visible])
    if visible.any() and not visible.all():
        low, high = pixels[visible].min(axis=0), pixels[visible].max(axis=0)
        assert (found[~visible] >= low).all()
        assert (found[~visible] <= high).all()


@pytest.mark.parametrize("level", [0, 255])
def test_nothing_is_done_where_all_or_nothing_is_hidden(level):
    pixels = noise(4, 5, 3)
    assert fill_transparent(pixels, np.full((4, 5, 1), level, np.uint8)) is pixels


def test_the_source_is_not_written_to():
    pixels, alpha = noise(6, 6, 3), noise(6, 6, 1)
    alpha[::2] = 0
    before = pixels.copy()
    fill_transparent(pixels, alpha)
    assert np.array_equal(pixels, before)


def test_one_visible_pixel_colours_everything():
    pixels, alpha = np.zeros((33, 17, 3), np.uint8), np.zeros((33, 17, 1), np.uint8)
    pixels[20, 5], alpha[20, 5] = (10, 200, 30), 255
    assert (fill_transparent(pixels, alpha) == (10, 200, 30)).all()


def test_near_colours_win():
    pixels, alpha = np.zeros((40, 40, 1), np.uint8), np.zeros((40, 40, 1), np.uint8)
    alpha[:, :4] = alpha[:, -4:] = 255
    pixels[:, :4] = 240
    pixels[:, -4:] = 16
    row = fill_transparent(pixels, alpha)[20, :, 0].astype(int)
    assert row[5] > 200
    assert row[-6] < 60
    assert (np.diff(row) <= 0).all()


def test_an_enlargement_is_not_darkened_at_the_edge():
    pixels, alpha = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 1), np.uint8)
    pixels[:, 8:], alpha[:, 8:] = 220, 255

    def darkest_visible(colour):
        larger = PillowImage.fromarray(colour).resize((32, 32), PillowImage.Resampling.BICUBIC)
        cover = PillowImage.fromarray(alpha[..., 0]).resize(
            (32, 32), PillowImage.Resampling.BICUBIC
        )
        return np.asarray(larger)[np.asarray(cover) > 8].min()

    assert darkest_visible(pixels) < 100
    assert darkest_visible(fill_transparent(pixels, alpha)) >= 219
