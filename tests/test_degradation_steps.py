"""Laws of the steps: ranges and sizes are kept, chance is drawn as told, JPEG is Pillow's."""

import math
from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pixels_for_tests import flat, generator, picture

from resnet_core.degradation_steps import (
    Blur,
    BlurShape,
    Downscale,
    GaussianNoise,
    Jpeg,
    OneOf,
    PoissonNoise,
    RandomResize,
    ResizeToResult,
    Ringing,
    Sometimes,
    Step,
    apply_steps,
)
from resnet_core.errors import ConfigError
from resnet_core.levels import Pixels, to_levels, to_pixels

NOISE = GaussianNoise(sigma_levels=(5, 50))
STEPS: list[Step] = [
    Downscale(scale=1, kinds=("bicubic", "bilinear", "box", "lanczos")),
    RandomResize(factor=(0.3, 1.5), up=0.3, down=0.5),
    RandomResize(factor=(0.3, 1.5), up=0.3, down=0.5, reference="result"),
    ResizeToResult(),
    Blur(sigma_px=(0.2, 3.0)),
    Ringing(cutoff=(0.2, 1.0)),
    GaussianNoise(sigma_levels=(5, 50), gray_probability=0.5),
    PoissonNoise(scale=(0.05, 3.0), gray_probability=0.5),
    Jpeg(quality=(10, 50), shift_px=(0, 15)),
    Sometimes(probability=0.9, steps=(NOISE,)),
    OneOf(probabilities=(0.5, 0.5), rows=((NOISE,), (NOISE, NOISE))),
]
MANY = 4000


def after(step: Step, pixels: Pixels, rng: np.random.Generator, result: Any = None) -> Pixels:
    """float32 HWC after one step; the result's size is the picture's unless it is given."""
    return to_pixels(apply_steps((step,), pixels, rng, result or pixels.shape[:2]))


def shares(draws: list[Any]) -> dict[Any, float]:
    return {key: count / len(draws) for key, count in Counter(draws).items()}


def blockiness(image: NDArray[np.uint8], offset_px: int) -> float:
    """Mean step across the columns at `offset_px` of each 8, over the mean of all steps."""
    steps = np.abs(np.diff(image.astype(float), axis=1)).mean(axis=(0, 2))
    return float(steps[(offset_px - 1) % 8 :: 8].mean() / steps.mean())


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
@settings(deadline=None, max_examples=12)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 999),
)
def test_each_step_keeps_range_type_and_its_argument_down_to_one_pixel(
    step: Step, height: int, width: int, channels: int, seed: int
) -> None:
    pixels = to_pixels(picture(height, width, channels))
    pixels[: height // 3], pixels[-(height // 3) :] = 0, 1
    before = pixels.copy()
    found = after(step, pixels, generator(seed))
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
    assert found.shape[2] == channels
    assert min(found.shape) >= 1
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(found, after(step, pixels, generator(seed)))
    if not isinstance(step, RandomResize):
        assert found.shape == pixels.shape


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_mean_brightness_is_kept(step: Step) -> None:
    pixels = to_pixels(picture(64, 64)) * np.float32(0.5) + np.float32(0.25)
    rng = generator(1)
    means = [after(step, pixels, rng).mean() for _ in range(40)]
    assert np.mean(means) == pytest.approx(pixels.mean(), abs=0.01)


@pytest.mark.parametrize("kind", ["bicubic", "bilinear", "box", "lanczos"])
def test_downscale_keeps_the_mean_and_the_place(kind: Any) -> None:
    ramp = np.linspace(20, 235, 64).astype(np.uint8)
    image = np.broadcast_to(ramp[:, np.newaxis, np.newaxis], (64, 64, 3)).copy()
    found = Downscale(scale=4, kinds=(kind,)).apply_levels(image, generator())
    expected = image.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found[3:-3], expected[3:-3], atol=1.01)


def test_downscale_of_floats_is_pillows_on_levels() -> None:
    image = generator().integers(0, 256, (24, 34, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((17, 12), Image.Resampling.BICUBIC))
    found = after(Downscale(scale=2), to_pixels(image), generator())
    np.testing.assert_array_equal(to_levels(found), expected)


def test_random_resize_draws_up_down_and_keep_as_told() -> None:
    step = RandomResize(factor=(0.15, 1.5), up=0.2, down=0.7)
    rng = generator()
    draws = [step.draw(rng) for _ in range(MANY)]
    factors = np.array([factor for factor, _ in draws])
    assert (factors > 1).mean() == pytest.approx(0.2, abs=0.03)
    assert (factors < 1).mean() == pytest.approx(0.7, abs=0.03)
    assert 0.15 <= factors.min() < 0.16
    assert 1.49 < factors.max() <= 1.5
    assert factors[factors < 1].mean() == pytest.approx(0.575, abs=0.02)
    kinds = shares([kind for _, kind in draws])
    assert kinds == pytest.approx(dict.fromkeys(("area", "bilinear", "bicubic"), 1 / 3), abs=0.04)


@pytest.mark.parametrize(("reference", "expected"), [("picture", (15, 10)), ("result", (40, 50))])
def test_random_resize_is_a_share_of_its_reference(reference: Any, expected: Any) -> None:
    step = RandomResize(factor=(0.5, 1.0), up=0.0, down=1.0, reference=reference)
    for seed in range(20):
        factor, _ = step.draw(generator(seed))
        found = after(step, np.zeros((15, 10, 3), np.float32), generator(seed), result=(40, 50))
        assert found.shape[:2] == tuple(int(side * factor) for side in expected)


@pytest.mark.parametrize("kind", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("result", [(24, 24), (48, 36), (96, 61)])
def test_resize_to_result_is_exact_and_keeps_the_place(kind: Any, result: Any) -> None:
    ramp = np.linspace(0.1, 0.9, 48, dtype=np.float32)
    pixels = np.broadcast_to(ramp[:, np.newaxis, np.newaxis], (48, 48, 3)).copy()
    found = after(ResizeToResult(kinds=(kind,)), pixels, generator(), result=result)
    assert found.shape == (*result, 3)
    centres = (np.arange(result[0]) + 0.5) / result[0] * 48 - 0.5
    expected = np.interp(centres, np.arange(48), ramp)
    inner = slice(4, -4)
    np.testing.assert_allclose(found[inner, 0, 0], expected[inner], atol=0.011)


def test_blur_draws_shapes_sides_and_sigmas_as_told() -> None:
    step = Blur(sigma_px=(0.2, 3.0))
    rng = generator()
    kernels = [step.draw(rng) for _ in range(MANY)]
    found = shares([(kernel.shape, kernel.angle_rad != 0.0) for kernel in kernels])
    names = [("gaussian", False), ("gaussian", True)]
    names += [("generalised", False), ("generalised", True), ("plateau", False), ("plateau", True)]
    published = dict(zip(names, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), strict=True))
    assert len(published) == len(get_args(BlurShape))
    assert found == pytest.approx(published, abs=0.025)
    sides = shares([kernel.side_px for kernel in kernels])
    assert sides == pytest.approx(dict.fromkeys(range(7, 22, 2), 1 / 8), abs=0.025)
    sigmas = np.array([kernel.sigma_px for kernel in kernels])
    assert 0.2 <= sigmas.min() < 0.21
    assert 2.99 < sigmas.max() <= 3.0
    assert sigmas.mean() == pytest.approx(1.6, abs=0.05)
    for kernel in kernels:
        assert (kernel.sigma_px[0] == kernel.sigma_px[1]) == (kernel.angle_rad == 0.0)


@pytest.mark.parametrize(("shape", "betas"), [("generalised", (0.5, 4.0)), ("plateau", (1.0, 2.0))])
def test_half_of_the_betas_lie_below_one_and_half_above(shape: str, betas: Any) -> None:
    step = Blur(sigma_px=(1, 1), probabilities=(0, 0, 0.5, 0, 0.5, 0))
    rng = generator()
    kernels = [step.draw(rng) for _ in range(MANY)]
    found = np.array([kernel.beta for kernel in kernels if kernel.shape == shape])
    assert (found > 1).mean() == pytest.approx(0.5, abs=0.04)
    assert betas[0] <= found.min() <= 1 < found.max() <= betas[1]


def test_blur_spreads_a_point_by_sigma() -> None:
    step = Blur(sigma_px=(1.5, 1.5), probabilities=(1, 0, 0, 0, 0, 0), side_px=(21, 21))
    point = np.zeros((41, 41, 1), dtype=np.float32)
    point[20, 20] = 1
    spread = step.apply(point, generator())[:, :, 0]
    distance = np.arange(-20, 21)
    for axis in (0, 1):
        assert np.sqrt((spread.sum(axis=axis) * distance**2).sum()) == pytest.approx(1.5, rel=0.03)


def test_anisotropic_blur_turns() -> None:
    step = Blur(sigma_px=(0.5, 3.0), probabilities=(0, 1, 0, 0, 0, 0), side_px=(21, 21))
    y, x = np.mgrid[-10:11, -10:11]
    rng = generator()
    covariances = [float((step.draw(rng).weights() * x * y).sum()) for _ in range(30)]
    assert min(covariances) < -1 < 1 < max(covariances)


def test_ringing_draws_cutoffs_and_sides_as_told() -> None:
    step = Ringing(cutoff=(1 / 3, 1.0), side_px=(13, 21))
    rng = generator()
    kernels = [step.draw(rng) for _ in range(MANY)]
    sides = shares([kernel.side_px for kernel in kernels])
    assert sides == pytest.approx(dict.fromkeys(range(13, 22, 2), 1 / 5), abs=0.03)
    cutoffs = np.array([kernel.cutoff for kernel in kernels])
    assert 1 / 3 <= cutoffs.min() < 0.34
    assert cutoffs.mean() == pytest.approx(2 / 3, abs=0.02)


def test_ringing_overshoots_at_an_edge_and_keeps_a_constant_picture() -> None:
    step = Ringing(cutoff=(0.4, 0.4), side_px=(21, 21))
    np.testing.assert_allclose(step.apply(flat(99), generator()), flat(99), atol=1e-5)
    edge = np.full((40, 40, 3), 0.25, dtype=np.float32)
    edge[:, 20:] = 0.75
    row = step.apply(edge, generator())[20, :, 0]
    assert row.max() > 0.77
    assert row.min() < 0.23
    assert np.count_nonzero(np.diff(np.sign(np.diff(row[22:32])))) >= 2


@pytest.mark.parametrize("sigma", [5.0, 15.0, 50.0])
def test_gaussian_noise_has_its_sigma(sigma: float) -> None:
    step = GaussianNoise(sigma_levels=(sigma, sigma))
    error = (step.apply(flat(128), generator()) - flat(128)) * 255
    assert error.std() == pytest.approx(sigma, rel=0.04)
    assert abs(error.mean()) < sigma / 50


@pytest.mark.parametrize(
    ("step", "high"),
    [
        (GaussianNoise(sigma_levels=(1, 30), gray_probability=0.4), 30),
        (PoissonNoise(scale=(1, 30 / 10), gray_probability=0.4), 3),
    ],
)
def test_noise_is_drawn_over_its_whole_range(step: Any, high: float) -> None:
    rng = generator()
    draws = [step.draw(rng) for _ in range(MANY)]
    strengths = np.array([strength for strength, _ in draws])
    assert 1 <= strengths.min() < 1.05
    assert high * 0.99 < strengths.max() <= high
    assert strengths.mean() == pytest.approx((1 + high) / 2, rel=0.03)
    assert np.mean([gray for _, gray in draws]) == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize(
    "step",
    [
        GaussianNoise(sigma_levels=(10, 10), gray_probability=1.0),
        PoissonNoise(scale=(1, 1), gray_probability=1.0),
    ],
)
def test_gray_noise_is_equal_in_all_channels(step: Any) -> None:
    pixels = flat(128) * np.float32([0.5, 1.0, 1.2])
    noise = step.apply(pixels, generator()) - pixels
    np.testing.assert_allclose(noise[:, :, 0], noise[:, :, 2], atol=1e-6)
    assert noise.std() > 0.02


@pytest.mark.parametrize("level", [32, 128, 200])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("gray", [0.0, 1.0])
def test_poisson_noise_grows_with_the_root_of_the_signal(
    level: int, scale: float, gray: float
) -> None:
    step = PoissonNoise(scale=(scale, scale), gray_probability=gray)
    noise = step.apply(flat(level), generator()) - flat(level)
    assert noise.std() == pytest.approx(scale * np.sqrt(level / 255 / 256), rel=0.06)
    assert abs(noise.mean()) < 0.003


def test_jpeg_draws_as_told() -> None:
    step = Jpeg(quality=(30, 95), subsampling=("4:2:0", "4:4:4"), shift_px=(0, 15))
    rng = generator()
    draws = [step.draw(rng) for _ in range(MANY)]
    assert {quality for quality, _, _ in draws} == set(range(30, 96))
    assert {shift for _, shifts, _ in draws for shift in shifts} == set(range(16))
    kinds = shares([kind for _, _, kind in draws])
    assert kinds == pytest.approx({"4:2:0": 0.5, "4:4:4": 0.5}, abs=0.03)


def test_lower_quality_is_further_from_the_picture() -> None:
    noisy = to_levels(GaussianNoise(sigma_levels=(20, 20)).apply(to_pixels(picture()), generator()))
    errors = [
        np.square(
            Jpeg(quality=(quality, quality)).apply_levels(noisy, generator()).astype(float) - noisy
        ).mean()
        for quality in (95, 75, 40, 10)
    ]
    assert errors == sorted(errors)


def test_subsampling_blurs_colour_alone() -> None:
    stripes = np.zeros((32, 32, 3), dtype=np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 200
    errors = [
        np.abs(
            Jpeg(quality=(95, 95), subsampling=(kind,))
            .apply_levels(stripes, generator())
            .astype(int)
            - stripes
        )
        for kind in ("4:4:4", "4:2:0")
    ]
    assert errors[0].mean() * 5 < errors[1].mean()


@pytest.mark.parametrize("shift_px", [0, 3, 7])
def test_shift_moves_the_block_grid(shift_px: int) -> None:
    noise = generator(1).normal(128, 3, (128, 128, 1)).clip(0, 255).astype(np.uint8)
    ramp = (noise + np.linspace(-60, 60, 128)[np.newaxis, :, np.newaxis]).astype(np.uint8)
    step = Jpeg(quality=(10, 10), shift_px=(shift_px, shift_px))
    found = step.apply_levels(ramp, generator())
    assert found.shape == ramp.shape
    steps = [blockiness(found, offset) for offset in range(8)]
    assert int(np.argmax(steps)) == (8 - shift_px) % 8


def test_second_jpeg_on_another_grid_does_more_harm_than_on_the_same() -> None:
    noisy = GaussianNoise(sigma_levels=(10, 10)).apply(to_pixels(picture(96, 96)), generator())
    image = to_levels(noisy)

    def error(shift_px: int) -> float:
        first = Jpeg(quality=(30, 30), shift_px=(shift_px, shift_px))
        found = apply_steps((first, Jpeg(quality=(30, 30))), image, generator(2), (96, 96))
        return float(np.square(found.astype(float) - image).mean())

    assert error(4) > error(0)


@pytest.mark.parametrize(("probability", "tolerance"), [(0.0, 0), (0.25, 0.03), (1.0, 0)])
def test_sometimes_happens_as_often_as_told(probability: float, tolerance: float) -> None:
    step = Sometimes(probability=probability, steps=(NOISE, NOISE))
    rng = generator()
    happened = [step.draw(rng) for _ in range(MANY)]
    assert {len(steps) for steps in happened} <= {0, 2}
    assert np.mean([bool(steps) for steps in happened]) == pytest.approx(probability, abs=tolerance)


def test_one_of_draws_each_row_as_often_as_told() -> None:
    rows = ((NOISE,), (), (NOISE, NOISE))
    step = OneOf(probabilities=(0.6, 0.0, 0.4), rows=rows)
    rng = generator()
    found = shares([len(step.draw(rng)) for _ in range(MANY)])
    assert found == pytest.approx({1: 0.6, 2: 0.4}, abs=0.03)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Downscale(scale=0), "scale: expected 1 or more, found 0"),
        (lambda: Downscale(scale=2, kinds=()), "kinds: expected one or more of bicubic"),
        (
            lambda: RandomResize(factor=(0.0, 1.5), up=0, down=0),
            r"RandomResize.factor: expected a range within 0.01..4, found \(0.0, 1.5\)",
        ),
        (lambda: RandomResize(factor=(1.1, 1.5), up=0, down=0), "expected 1 within it"),
        (lambda: RandomResize(factor=(0.5, 1), up=0.5, down=0.7), "up \\+ down: expected 0..1"),
        (
            lambda: RandomResize(factor=(0.5, 1), up=0, down=0, kinds=("nearest",)),
            r"kinds: expected one or more of area, bilinear, bicubic, found \('nearest',\)",
        ),
        (
            lambda: RandomResize(factor=(0.5, 1), up=0, down=0, reference="target"),
            "reference: expected one or more of picture, result",
        ),
        (lambda: ResizeToResult(kinds=()), "ResizeToResult.kinds"),
        (lambda: Blur(sigma_px=(2, 1)), "Blur.sigma_px: expected a range within 0.01..32"),
        (lambda: Blur(sigma_px=(0, 1)), "Blur.sigma_px"),
        (
            lambda: Blur(sigma_px=(1, 2), probabilities=(0.5, 0.5)),
            r"Blur.probabilities: expected 6 of sum 1, found \(0.5, 0.5\)",
        ),
        (lambda: Blur(sigma_px=(1, 2), probabilities=(0.5,) * 6), "expected 6 of sum 1"),
        (lambda: Blur(sigma_px=(1, 2), beta_plateau=(1.5, 2)), "beta_plateau: expected 1 within"),
        (lambda: Blur(sigma_px=(1, 2), beta_generalised=(0, 2)), "beta_generalised"),
        (lambda: Blur(sigma_px=(1, 2), side_px=(8, 21)), r"expected odd numbers, found \(8, 21\)"),
        (lambda: Ringing(cutoff=(0.2, 1.5)), "Ringing.cutoff: expected a range within 0.05..1"),
        (lambda: Ringing(cutoff=(0.2, 1.0), side_px=(1, 7)), "Ringing.side_px"),
        (lambda: GaussianNoise(sigma_levels=(-1, 5)), "sigma_levels"),
        (lambda: GaussianNoise(sigma_levels=(1, 5), gray_probability=2), "expected 0..1, found 2"),
        (lambda: PoissonNoise(scale=(-1, 5)), "PoissonNoise.scale"),
        (lambda: PoissonNoise(scale=(0, math.nan)), "PoissonNoise.scale"),
        (lambda: PoissonNoise(scale=(0, 1), gray_probability=-1), "expected 0..1, found -1"),
        (lambda: Jpeg(quality=(0, 50)), "quality: expected a range within 1..100"),
        (lambda: Jpeg(quality=(10, 50), shift_px=(0, 16)), "shift_px"),
        (lambda: Sometimes(probability=-0.1, steps=()), "probability"),
        (
            lambda: Sometimes(probability=0.1, steps=(5,)),
            r"Sometimes.steps: expected steps, found \(5,\)",
        ),
        (lambda: OneOf(probabilities=(1.0,), rows=()), "OneOf.probabilities: expected 0 of sum 1"),
        (
            lambda: OneOf(probabilities=(1.0,), rows=(NOISE,)),
            "OneOf.rows: expected steps, found GaussianNoise",
        ),
    ],
)
def test_settings_that_cant_be_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
