"""Laws of the kernels: sum 1, symmetry, width; and of the convolution with them."""

import math
from typing import Any

import numpy as np
import pytest
from pixels_for_tests import flat, generator
from skimage.filters import gaussian

from resnet_core.blur_kernels import BlurKernel, SincKernel, convolve

EVERY_SHAPE = pytest.mark.parametrize("shape", ["gaussian", "generalised", "plateau"])
EVERY_SIDE = pytest.mark.parametrize("side_px", [7, 9, 13, 21])


def spread_px(kernel: np.ndarray[Any, Any], angle_rad: float = 0.0) -> float:
    """Root of the second moment along a direction."""
    radius = kernel.shape[0] // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along = x * math.cos(angle_rad) + y * math.sin(angle_rad)
    return float(np.sqrt((kernel * along**2).sum() / kernel.sum()))


@EVERY_SIDE
@EVERY_SHAPE
@pytest.mark.parametrize("sigma_px", [(0.2, 0.2), (3.0, 3.0), (0.2, 3.0)])
@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_blur_kernels_sum_to_one_and_peak_in_the_middle(
    shape: Any, side_px: int, sigma_px: tuple[float, float], beta: float
) -> None:
    kernel = BlurKernel(shape=shape, side_px=side_px, sigma_px=sigma_px, angle_rad=0.7, beta=beta)
    weights = kernel.weights()
    assert weights.shape == (side_px, side_px)
    assert weights.dtype == np.float32
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)
    assert weights.min() >= 0
    assert weights.max() == weights[side_px // 2, side_px // 2]
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-7)


@EVERY_SHAPE
def test_equal_sigmas_know_no_direction(shape: Any) -> None:
    kernels = [
        BlurKernel(shape=shape, side_px=13, sigma_px=(1.5, 1.5), angle_rad=angle, beta=1.5)
        for angle in (0.0, 1.0)
    ]
    np.testing.assert_allclose(kernels[0].weights(), kernels[1].weights(), atol=1e-7)


def test_the_gaussian_has_its_sigmas_along_its_axes() -> None:
    angle = 0.6
    weights = BlurKernel(
        shape="gaussian", side_px=31, sigma_px=(3.0, 1.0), angle_rad=angle
    ).weights()
    assert spread_px(weights, angle) == pytest.approx(3.0, rel=0.02)
    assert spread_px(weights, angle + math.pi / 2) == pytest.approx(1.0, rel=0.02)


def test_beta_of_one_is_the_gaussian_and_more_is_flatter_with_less_tail() -> None:
    gaussian_kernel, same, flatter = (
        BlurKernel(shape=shape, side_px=21, sigma_px=(2.0, 2.0), beta=beta).weights()
        for shape, beta in (("gaussian", 1.0), ("generalised", 1.0), ("generalised", 4.0))
    )
    np.testing.assert_allclose(same, gaussian_kernel, atol=1e-7)
    assert flatter[10, 11] / flatter[10, 10] > gaussian_kernel[10, 11] / gaussian_kernel[10, 10]
    assert flatter[10, 15] < gaussian_kernel[10, 15] / 100


def test_the_plateau_halves_at_sigma_and_has_a_long_tail() -> None:
    plateau = BlurKernel(shape="plateau", side_px=21, sigma_px=(2.0, 2.0), beta=1.5).weights()
    assert plateau[10, 12] == pytest.approx(plateau[10, 10] / 2, rel=1e-5)
    bell = BlurKernel(shape="gaussian", side_px=21, sigma_px=(2.0, 2.0)).weights()
    assert plateau[10, 20] > bell[10, 20] * 10


@EVERY_SIDE
@pytest.mark.parametrize("cutoff", [0.2, 1 / 3, 0.7, 1.0])
def test_sinc_kernels_sum_to_one_and_ring(side_px: int, cutoff: float) -> None:
    weights = SincKernel(cutoff=cutoff, side_px=side_px).weights()
    assert weights.shape == (side_px, side_px)
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(weights, weights.T, atol=1e-7)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-7)
    assert (weights.min() < 0) == (cutoff * side_px > 2)


def test_the_sinc_passes_what_is_below_its_cutoff_alone() -> None:
    weights = SincKernel(cutoff=0.5, side_px=61).weights()
    response = np.abs(np.fft.fft2(weights, s=(256, 256)))[0]
    share_of_nyquist = np.arange(129) / 128
    assert response[:129][share_of_nyquist < 0.4].min() > 0.9
    assert response[:129][share_of_nyquist > 0.6].max() < 0.1


def test_the_middle_of_the_sinc_is_its_limit() -> None:
    weights = SincKernel(cutoff=0.5, side_px=7).weights().astype(float)
    near = (0.5 * math.pi) ** 2 / (4 * math.pi)
    beside = 0.5 * math.pi * 0.56682408890587 / (2 * math.pi)  # J1(pi / 2), from its table
    assert weights[3, 3] / weights[3, 4] == pytest.approx(near / beside, rel=1e-5)


def test_convolution_is_scikit_images_gaussian() -> None:
    pixels = generator().random((40, 30, 3), dtype=np.float32)
    kernel = BlurKernel(shape="gaussian", side_px=21, sigma_px=(1.3, 1.3)).weights()
    expected = gaussian(pixels, sigma=1.3, mode="reflect", truncate=7, channel_axis=2)
    np.testing.assert_allclose(convolve(pixels, kernel), expected, atol=1e-5)


@pytest.mark.parametrize("size_px", [1, 2, 5, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_constant_picture_stays(size_px: int, channels: int) -> None:
    pixels = flat(99, size_px, channels)
    for kernel in (
        SincKernel(cutoff=0.4, side_px=21),
        BlurKernel(shape="plateau", side_px=21, sigma_px=(3, 1)),
    ):
        found = convolve(pixels, kernel.weights())
        np.testing.assert_allclose(found, pixels, atol=1e-5)
        assert found.flags.c_contiguous


def test_a_kernel_of_one_pixel_is_the_picture() -> None:
    pixels = generator().random((9, 8, 3), dtype=np.float32)
    sharp = BlurKernel(shape="gaussian", side_px=21, sigma_px=(0.05, 0.05)).weights()
    np.testing.assert_allclose(convolve(pixels, sharp), pixels, atol=1e-6)
