"""Laws of PSNR and SSIM, agreement with scikit-image and with published figures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bench_sets import bench_images
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import metrics as skimage_metrics

from resnet_core.classical import bicubic as enlarge
from resnet_core.degradation import crop_to_multiple, degrade
from resnet_core.metrics import crop_border, luma_y, psnr, psnr_rgb, psnr_y, ssim, ssim_y
from resnet_core.standard_degradations import bicubic

PictureMetric = Callable[..., float]
PICTURE_METRICS = pytest.mark.parametrize("metric", [psnr_y, ssim_y, psnr_rgb])


def picture(seed: int, height: int = 48, width: int = 57, channels: int = 3) -> NDArray[np.uint8]:
    """Smooth waves with a little noise: enough like a photograph for the laws."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width][..., np.newaxis]
    phase = rng.uniform(0, 6, channels)
    waves = 128 + 80 * np.sin(x / 7 + phase) * np.cos(y / 5 + phase)
    return np.clip(waves + rng.normal(0, 5, waves.shape), 0, 255).astype(np.uint8)


def noisy(image: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(7).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def test_identity() -> None:
    image = picture(0)
    assert psnr_y(image, image, border_px=2) == float("inf")
    assert psnr_rgb(image, image) == float("inf")
    assert ssim_y(image, image, border_px=2) == pytest.approx(1.0, abs=1e-12)


@PICTURE_METRICS
def test_symmetry(metric: PictureMetric) -> None:
    a, b = picture(0), noisy(picture(0), 20)
    assert metric(a, b, border_px=3) == pytest.approx(metric(b, a, border_px=3), rel=1e-12)


@PICTURE_METRICS
def test_falls_with_noise(metric: PictureMetric) -> None:
    image = picture(0)
    values = [metric(noisy(image, sigma), image, border_px=1) for sigma in (1, 3, 10, 30, 90)]
    assert values == sorted(values, reverse=True)


@PICTURE_METRICS
def test_border_isnt_seen(metric: PictureMetric) -> None:
    a, b = picture(0), noisy(picture(0), 10)
    expected = metric(a, b, border_px=4)
    b[:4], b[-4:], b[:, :4], b[:, -4:] = 0, 255, 0, 255
    assert metric(a, b, border_px=4) == expected


@PICTURE_METRICS
def test_gray_equals_the_same_gray_as_rgb(metric: PictureMetric) -> None:
    a = picture(0, channels=1)
    b = noisy(a, 10)
    rgb = [np.repeat(each, 3, axis=2) for each in (a, b)]
    assert metric(a, b, border_px=2) == pytest.approx(metric(*rgb, border_px=2), rel=1e-9)


@PICTURE_METRICS
def test_shapes_that_differ_are_refused(metric: PictureMetric) -> None:
    with pytest.raises(ValueError, match=r"\(48, 57, 3\) and \(48, 56, 3\)"):
        metric(picture(0), picture(0, width=56), border_px=0)


def test_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found \(4, 4, 3\), expected 5 px"):
        psnr_y(picture(0, 4, 4), picture(0, 4, 4), border_px=2)
    with pytest.raises(ValueError, match=r"found \(14, 40, 3\), expected 15 px"):
        ssim_y(picture(0, 14, 40), picture(0, 14, 40), border_px=2)
    with pytest.raises(ValueError, match="expected 0 or more, found -1"):
        crop_border(picture(0), -1)


def test_ssim_takes_planes_only() -> None:
    with pytest.raises(ValueError, match="expected two planes HW"):
        ssim(picture(0), picture(0), data_range=255)


def test_psnr_of_a_known_error() -> None:
    a = np.zeros((4, 4))
    assert psnr(a, a + 0.1, data_range=1.0) == pytest.approx(20.0)
    assert psnr(a, a + 25.5, data_range=255.0) == pytest.approx(20.0)


def test_luma_spans_the_limited_range() -> None:
    colours: Any = [[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    found = luma_y(np.array(colours, dtype=np.uint8))
    np.testing.assert_allclose(found[0], [16.0, 235.0, 81.481, 144.553, 40.966])


def test_luma_refuses_other_arrays() -> None:
    with pytest.raises(ValueError, match=r"expected uint8 HWC .* found float64"):
        luma_y(np.zeros((4, 4, 3)))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"found uint8 \(4, 4, 4\)"):
        luma_y(np.zeros((4, 4, 4), dtype=np.uint8))


@settings(deadline=None, max_examples=30)
@given(height=st.integers(11, 160), width=st.integers(11, 90), seed=st.integers(0, 99))
def test_agrees_with_scikit_image(height: int, width: int, seed: int) -> None:
    target = luma_y(picture(seed, height, width))
    output = luma_y(noisy(picture(seed, height, width), 12))
    assert psnr(output, target, data_range=255) == pytest.approx(
        skimage_metrics.peak_signal_noise_ratio(target, output, data_range=255), abs=1e-9
    )
    full: Any = skimage_metrics.structural_similarity(
        output,
        target,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert ssim(output, target, data_range=255) == pytest.approx(
        crop_border(full[1], 5).mean(), abs=1e-9
    )


@pytest.mark.parametrize(
    ("scale", "psnr_db", "similarity"), [(2, 33.66, 0.9299), (4, 28.42, 0.8104)]
)
def test_bicubic_gives_the_published_figures_on_set5(
    scale: int, psnr_db: float, similarity: float
) -> None:
    targets = [crop_to_multiple(image, scale) for image in bench_images("set5")]
    assert len(targets) == 5
    outputs = [
        enlarge(degrade(target, bicubic(scale), np.random.default_rng(0)), scale)
        for target in targets
    ]
    pairs = list(zip(outputs, targets, strict=True))
    found_db = np.mean([psnr_y(output, target, border_px=scale) for output, target in pairs])
    found_ssim = np.mean([ssim_y(output, target, border_px=scale) for output, target in pairs])
    assert found_db == pytest.approx(psnr_db, abs=0.02)
    assert found_ssim == pytest.approx(similarity, abs=0.001)
