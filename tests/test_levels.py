"""Levels, floats and Pillow's pictures: there and back is the same."""

import numpy as np
import pytest
from pixels_for_tests import picture

from resnet_core.levels import from_pil, to_levels, to_pil, to_pixels


def test_floats_and_back_are_the_same_levels() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(to_levels(to_pixels(every)), every)
    assert to_pixels(every).dtype == np.float32
    assert (to_pixels(every).min(), to_pixels(every).max()) == (0, 1)


def test_what_is_of_the_kind_stays() -> None:
    image = picture()
    assert to_levels(image) is image
    pixels = to_pixels(image)
    assert to_pixels(pixels) is pixels


def test_levels_are_clipped_and_rounded_to_the_nearest() -> None:
    pixels = np.array([[[-0.1], [0.4999 / 255], [0.5001 / 255], [1.7]]], dtype=np.float32)
    np.testing.assert_array_equal(to_levels(pixels)[0, :, 0], [0, 0, 1, 255])


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pillow_and_back_are_the_same_levels(channels: int, mode: str) -> None:
    image = picture(5, 7, channels)
    pillow = to_pil(image)
    assert (pillow.mode, pillow.size) == (mode, (7, 5))
    back = from_pil(pillow)
    np.testing.assert_array_equal(back, image)
    assert back.flags.writeable
