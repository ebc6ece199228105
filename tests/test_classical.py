"""Laws of the traditional enhancers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage.restoration import denoise_nl_means

from resnet_core import classical
from resnet_core.classical import (
    CLASSICAL,
    bicubic,
    bilateral,
    lanczos,
    median,
    noise_sigma_levels,
    non_local_means,
    unsharp_mask,
)
from resnet_core.degradation import degrade
from resnet_core.metrics import psnr_rgb
from resnet_core.standard_degradations import gaussian_noise

EVERY_METHOD = pytest.mark.parametrize("name", CLASSICAL)


def picture(height: int = 96, width: int = 96, channels: int = 3) -> NDArray[np.uint8]:
    """uint8 HWC: soft waves and one hard edge."""
    y, x = np.mgrid[:height, :width][..., np.newaxis]
    waves = 110 + 60 * np.sin(x / 6 + np.arange(channels)) * np.cos(y / 7)
    return (waves + 60 * (x > width / 2)).clip(0, 255).astype(np.uint8)


@EVERY_METHOD
@settings(deadline=None, max_examples=10)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 20),
    channels=st.sampled_from([1, 3]),
    scale=st.integers(1, 4),
)
def test_size_is_the_input_times_the_scale(
    name: str, height: int, width: int, channels: int, scale: int
) -> None:
    image = picture(height, width, channels)
    before = image.copy()
    found = CLASSICAL[name](image, scale)
    assert found.shape == (height * scale, width * scale, channels)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


@EVERY_METHOD
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_flat_pictures_stay_flat(name: str, scale: int) -> None:
    image = np.full((9, 11, 3), (10, 128, 255), dtype=np.uint8)
    found = CLASSICAL[name](image, scale)
    assert np.abs(found.astype(int) - image[0, 0]).max() <= 1


@EVERY_METHOD
def test_gray_equals_the_same_gray_as_rgb(name: str) -> None:
    gray = picture(channels=1)
    rgb = np.repeat(gray, 3, axis=2)
    difference = CLASSICAL[name](gray, 2).astype(int) - CLASSICAL[name](rgb, 2)
    assert np.abs(difference).max() <= 1


@EVERY_METHOD
def test_scale_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="scale: expected 1 or more, found 0"):
        CLASSICAL[name](picture(), 0)


@pytest.mark.parametrize(
    ("method", "resampling"),
    [(bicubic, Image.Resampling.BICUBIC), (lanczos, Image.Resampling.LANCZOS)],
)
def test_interpolation_is_pillows(method: Any, resampling: Image.Resampling) -> None:
    image = picture(13, 17)
    expected = np.asarray(Image.fromarray(image).resize((51, 39), resampling))
    np.testing.assert_array_equal(method(image, 3), expected)
    np.testing.assert_array_equal(method(image, 1), image)


def test_sharpening_steepens_an_edge_and_keeps_the_mean() -> None:
    edge = np.full((16, 16, 1), 80, dtype=np.uint8)
    edge[:, 8:] = 170
    plain, sharp = (method(edge, 2).astype(int) for method in (bicubic, unsharp_mask))
    assert np.diff(sharp, axis=1).max() > np.diff(plain, axis=1).max() + 5
    assert sharp.mean() == pytest.approx(plain.mean(), abs=0.5)


def test_median_takes_single_pixels_away() -> None:
    target = picture()
    specked = target.copy()
    specked[8::16, 8::16] = 255
    assert psnr_rgb(median(specked, 1), target) > psnr_rgb(specked, target) + 3


@pytest.mark.parametrize("method", [median, bilateral, non_local_means])
def test_noise_is_reduced(method: Any) -> None:
    target = picture()
    noisy = degrade(target, gaussian_noise(25), np.random.default_rng(0))
    assert psnr_rgb(method(noisy, 1), target) > psnr_rgb(noisy, target) + 3


def test_bilateral_keeps_the_edge_that_a_blur_loses() -> None:
    edge = np.zeros((20, 20, 1), dtype=np.uint8)
    edge[:, 10:] = 255
    np.testing.assert_array_equal(bilateral(edge, 1), edge)


def test_bilateral_agrees_with_its_definition() -> None:
    image = picture(9, 9)
    padded = np.pad(image.astype(float), ((3, 3), (3, 3), (0, 0)), mode="symmetric")
    window = padded[4 : 4 + 7, 2 : 2 + 7]
    y, x = np.mgrid[-3:4, -3:4]
    colour = np.square(window - window[3, 3]).sum(axis=2) / (3 * 45**2)
    weights = np.exp(-0.5 * (colour + (x**2 + y**2) / 1.5**2))[..., np.newaxis]
    expected = (weights * window).sum(axis=(0, 1)) / weights.sum()
    np.testing.assert_allclose(bilateral(image, 1)[4, 2], expected, atol=0.51)


@pytest.mark.parametrize("sigma", [5, 15, 25, 50])
def test_noise_is_estimated_from_the_picture(sigma: int) -> None:
    noisy = degrade(picture(128, 128), gaussian_noise(sigma), np.random.default_rng(0))
    # What is cut off at black and white is missing in the estimate.
    assert noise_sigma_levels(noisy) == pytest.approx(sigma, rel=0.15)
    assert noise_sigma_levels(np.full((9, 9, 3), 50, np.uint8)) == 0


@pytest.mark.parametrize(("sigma", "patch_px", "steepness"), [(15, 3, 0.55), (50, 5, 0.4)])
def test_non_local_means_agree_with_scikit_image(
    sigma: int, patch_px: int, steepness: float
) -> None:
    target = picture(64, 64)
    noisy = degrade(target, gaussian_noise(sigma), np.random.default_rng(0))
    known = sigma / 255
    other = denoise_nl_means(
        noisy / 255,
        patch_size=patch_px,
        patch_distance=10,
        h=steepness * known,
        sigma=known,
        fast_mode=True,
        channel_axis=-1,
    )
    theirs = psnr_rgb(np.rint(np.clip(other, 0, 1) * 255).astype(np.uint8), target)
    assert psnr_rgb(non_local_means(noisy, 1), target) > theirs - 0.5


def test_strips_join_without_a_seam() -> None:
    image = picture(150, 20)
    whole = bilateral(image, 1)
    part = bilateral(image[40:110], 1)
    np.testing.assert_array_equal(whole[50:100], part[10:60])


def test_non_local_strips_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = degrade(picture(150, 24), gaussian_noise(20), np.random.default_rng(0))
    strips = non_local_means(noisy, 1, radius_px=3)
    monkeypatch.setattr(classical, "_STRIP_PX", 1000)
    np.testing.assert_array_equal(strips, non_local_means(noisy, 1, radius_px=3))
