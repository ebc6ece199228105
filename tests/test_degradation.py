"""Laws of the degradations: one seed gives one picture, ranges are kept, bicubic is Pillow's."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from resnet_core.degradation import (
    STANDARD,
    Blur,
    Degradation,
    Downscale,
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    Sometimes,
    Step,
    bicubic,
    crop_to_multiple,
    degrade,
    describe,
    from_description,
    gaussian_noise,
    jpeg,
    standard_degradation,
    to_levels,
)
from resnet_core.errors import ConfigError

EVERY_TASK = pytest.mark.parametrize("task", STANDARD)
EVERY_STEP = pytest.mark.parametrize(
    "step",
    [
        Downscale(scale=2, kinds=("bicubic", "bilinear", "box", "lanczos")),
        Blur(sigma_px=(0.5, 2.0), elongation=(1.0, 3.0)),
        GaussianNoise(sigma_levels=(5, 50), gray_probability=0.5),
        PoissonNoise(peak_photons=(50, 500)),
        Jpeg(quality=(10, 50), shift_px=(0, 15)),
        Sometimes(probability=0.9, steps=(GaussianNoise(sigma_levels=(5, 50)),)),
    ],
    ids=lambda step: type(step).__name__,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(height: int = 48, width: int = 48, channels: int = 3) -> NDArray[np.uint8]:
    """uint8 HWC: waves and edges."""
    y, x = np.mgrid[:height, :width][..., np.newaxis]
    waves = 110 + 70 * np.sin(x / 5 + np.arange(channels)) * np.cos(y / 9)
    return (waves + 50 * ((x // 12 + y // 12) % 2)).clip(0, 255).astype(np.uint8)


def flat(level: int, size_px: int = 128) -> NDArray[np.float32]:
    return np.full((size_px, size_px, 3), level / 255, dtype=np.float32)


def blockiness(image: NDArray[np.uint8], offset_px: int) -> float:
    """Mean step across the columns at `offset_px` of each 8, over the mean of all steps."""
    steps = np.abs(np.diff(image.astype(float), axis=1)).mean(axis=(0, 2))
    return float(steps[(offset_px - 1) % 8 :: 8].mean() / steps.mean())


@EVERY_TASK
def test_one_seed_gives_one_picture(task: str) -> None:
    degradation = standard_degradation(task)
    first, again, other = (degrade(picture(), degradation, generator(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    chance = not task.startswith("sr-")
    assert np.array_equal(first, other) != chance


@EVERY_TASK
@settings(deadline=None, max_examples=8)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 999),
)
def test_size_is_the_input_over_the_scale(
    task: str, height: int, width: int, channels: int, seed: int
) -> None:
    degradation = standard_degradation(task)
    image = picture(height * degradation.scale, width * degradation.scale, channels)
    before = image.copy()
    found = degrade(image, degradation, generator(seed))
    assert found.shape == (height, width, channels)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert found.flags.writeable
    np.testing.assert_array_equal(image, before)


@EVERY_STEP
def test_each_step_keeps_range_and_type_and_its_argument(step: Step) -> None:
    pixels = picture().astype(np.float32) / np.float32(255)
    pixels[:8], pixels[-8:] = 0, 1
    before = pixels.copy()
    found = step.apply(pixels, generator(3))
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(found, step.apply(pixels, generator(3)))
    assert not np.array_equal(found, pixels)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_bicubic_equals_pillow_exactly(scale: int, channels: int) -> None:
    image = generator().integers(0, 256, (12 * scale, 17 * scale, channels), dtype=np.uint8)
    expected = np.asarray(
        Image.fromarray(image.squeeze()).resize((17, 12), Image.Resampling.BICUBIC)
    ).reshape(12, 17, channels)
    np.testing.assert_array_equal(degrade(image, bicubic(scale), generator()), expected)
    through_floats = Downscale(scale=scale).apply(
        image.astype(np.float32) / np.float32(255), generator()
    )
    np.testing.assert_array_equal(to_levels(through_floats), expected)


@pytest.mark.parametrize("kind", ["bicubic", "bilinear", "box", "lanczos"])
def test_downscale_keeps_the_mean_and_the_place(kind: Any) -> None:
    ramp = np.linspace(20, 235, 64).astype(np.uint8)
    image = np.broadcast_to(ramp[:, np.newaxis, np.newaxis], (64, 64, 3)).copy()
    found = Downscale(scale=4, kinds=(kind,)).apply_levels(image, generator())
    expected = image.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found[3:-3], expected[3:-3], atol=1.01)


def test_downscale_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="48x47 px: expected multiples of 2"):
        degrade(picture(47, 48), bicubic(2), generator())


def test_crop_to_multiple() -> None:
    image = picture(11, 14)
    np.testing.assert_array_equal(crop_to_multiple(image, 4), image[:8, :12])
    np.testing.assert_array_equal(crop_to_multiple(image, 1), image)
    with pytest.raises(ValueError, match="14x11 px: smaller than the scale 12"):
        crop_to_multiple(image, 12)


@pytest.mark.parametrize("sigma", [5.0, 15.0, 50.0])
def test_gaussian_noise_has_its_sigma(sigma: float) -> None:
    step = GaussianNoise(sigma_levels=(sigma, sigma))
    error = (step.apply(flat(128), generator()) - flat(128)) * 255
    assert error.std() == pytest.approx(sigma, rel=0.04)
    assert abs(error.mean()) < sigma / 50


def test_sigma_is_drawn_over_the_whole_range() -> None:
    step = GaussianNoise(sigma_levels=(0, 50))
    rng = generator()
    found = [float((step.apply(flat(128, 32), rng) - flat(128, 32)).std()) * 255 for _ in range(99)]
    assert min(found) < 5
    assert max(found) > 44
    assert np.mean(found) == pytest.approx(25, abs=4)


def test_gray_noise_is_equal_in_all_channels() -> None:
    step = GaussianNoise(sigma_levels=(20, 20), gray_probability=1.0)
    found = step.apply(flat(128), generator())
    np.testing.assert_array_equal(found[:, :, 0], found[:, :, 2])


@pytest.mark.parametrize("level", [32, 128, 200])
def test_poisson_noise_grows_with_the_root_of_the_signal(level: int) -> None:
    found = PoissonNoise(peak_photons=(500, 500)).apply(flat(level), generator())
    assert found.std() == pytest.approx(np.sqrt(level / 255 / 500), rel=0.05)
    assert found.mean() == pytest.approx(level / 255, rel=0.01)


def test_blur_keeps_flat_pictures_and_spreads_a_point_by_sigma() -> None:
    np.testing.assert_allclose(
        Blur(sigma_px=(1.5, 1.5)).apply(flat(99, 9), generator()), flat(99, 9), atol=1e-6
    )
    point = np.zeros((41, 41, 1), dtype=np.float32)
    point[20, 20] = 1
    spread = Blur(sigma_px=(1.5, 1.5)).apply(point, generator())[:, :, 0]
    distance = np.arange(-20, 21)
    for axis in (0, 1):
        assert np.sqrt((spread.sum(axis=axis) * distance**2).sum()) == pytest.approx(1.5, rel=0.03)


def test_blur_of_sigma_zero_or_nearly_is_the_picture() -> None:
    pixels = picture().astype(np.float32) / np.float32(255)
    for sigma in (0.0, 1e-3):
        found = Blur(sigma_px=(sigma, sigma)).apply(pixels, generator())
        np.testing.assert_allclose(found, pixels, atol=1e-6)


def test_elongated_blur_turns() -> None:
    point = np.zeros((41, 41, 1), dtype=np.float32)
    point[20, 20] = 1
    step = Blur(sigma_px=(3.0, 3.0), elongation=(3.0, 3.0))
    y, x = np.mgrid[-20:21, -20:21]
    rng = generator()
    found = [step.apply(point, rng)[:, :, 0] for _ in range(8)]
    covariances = [float((spread * x * y).sum()) for spread in found]
    assert min(covariances) < -1 < 1 < max(covariances)
    for spread in found:
        assert (spread * (x**2 + y**2)).sum() == pytest.approx(9 + 1, rel=0.08)


def test_jpeg_equals_pillows_file(tmp_path: Any) -> None:
    path = tmp_path / "worn.jpg"
    Image.fromarray(picture()).save(path, quality=30, subsampling="4:2:0")
    with Image.open(path) as worn:
        expected = np.asarray(worn)
    np.testing.assert_array_equal(degrade(picture(), jpeg(30), generator()), expected)


def test_lower_quality_is_further_from_the_picture() -> None:
    noisy = degrade(picture(), gaussian_noise(20), generator())
    errors = [
        np.square(degrade(noisy, jpeg(quality), generator()).astype(float) - noisy).mean()
        for quality in (95, 75, 40, 10)
    ]
    assert errors == sorted(errors)


def test_subsampling_blurs_colour_alone() -> None:
    stripes = np.zeros((32, 32, 3), dtype=np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 200
    errors = [
        np.abs(degrade(stripes, jpeg(95, subsampling=kind), generator()).astype(int) - stripes)
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
    image = degrade(picture(96, 96), gaussian_noise(10), generator())

    def error(shift_px: int) -> float:
        first = Jpeg(quality=(30, 30), shift_px=(shift_px, shift_px))
        twice = Degradation(name="twice", scale=1, steps=(first, Jpeg(quality=(30, 30))))
        found = degrade(image, twice, generator(2))
        return float(np.square(found.astype(float) - image).mean())

    assert error(4) > error(0)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (0.25, 50), (1.0, 200)])
def test_sometimes_happens_as_often_as_told(probability: float, expected: int) -> None:
    step = Sometimes(probability=probability, steps=(Downscale(scale=1), Jpeg(quality=(5, 5))))
    pixels = picture(16, 16).astype(np.float32) / np.float32(255)
    rng = generator()
    happened = sum(step.apply(pixels, rng) is not pixels for _ in range(200))
    assert happened == pytest.approx(expected, abs=20 if expected == 50 else 0)


@pytest.mark.parametrize("task", ["restore", "photo-x2"])
def test_worn_photographs_are_worn_mildly(task: str) -> None:
    degradation = standard_degradation(task)
    image = picture(96, 96)
    target = degrade(image, bicubic(degradation.scale), generator()).astype(float)
    rng = generator()
    errors = [
        np.sqrt(np.square(degrade(image, degradation, rng).astype(float) - target).mean())
        for _ in range(40)
    ]
    assert max(errors) < 40
    assert 1 < np.median(errors) < 20


@EVERY_TASK
def test_description_round_trips_through_json(task: str) -> None:
    description = describe(standard_degradation(task))
    read = json.loads(json.dumps(description))
    assert read == description
    assert read["name"] == task
    assert from_description(read) == standard_degradation(task)


def test_descriptions_that_cant_be_read_are_named() -> None:
    step = {"step": "Jpg", "quality": [10, 20]}
    with pytest.raises(ConfigError, match="no degradation step 'Jpg'; did you mean 'Jpeg'"):
        from_description({"name": "a", "scale": 1, "steps": [step]})
    step = {"step": "Downscale", "scale": 2, "kind": "bicubic"}
    with pytest.raises(ConfigError, match=r"step Downscale: expected .*'kinds'.* found .*'kind'"):
        from_description({"name": "a", "scale": 2, "steps": [step]})
    with pytest.raises(ConfigError, match="degradation: expected"):
        from_description({"name": "a"})
    for steps in (5, [5], [{"step": "Downscale", "scale": "2", "kinds": ["bicubic"]}]):
        with pytest.raises(ConfigError, match="degradation can't be read"):
            from_description({"name": "a", "scale": 2, "steps": steps})


def test_unknown_task_offers_the_near_one() -> None:
    with pytest.raises(ConfigError, match="'denoize'; did you mean 'denoise'"):
        standard_degradation("denoize")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Downscale(scale=0), "scale: expected 1 or more, found 0"),
        (lambda: Downscale(scale=2, kinds=()), "kinds: expected one or more of bicubic"),
        (lambda: Blur(sigma_px=(2, 1)), "sigma_px: expected a range within 0..32"),
        (lambda: Blur(sigma_px=(1, 2), elongation=(0.5, 1)), "elongation"),
        (lambda: GaussianNoise(sigma_levels=(-1, 5)), "sigma_levels"),
        (lambda: GaussianNoise(sigma_levels=(1, 5), gray_probability=2), "expected 0..1, found 2"),
        (lambda: PoissonNoise(peak_photons=(0, 5)), "peak_photons"),
        (lambda: Jpeg(quality=(0, 50)), "quality: expected a range within 1..100"),
        (lambda: Jpeg(quality=(10, 50), shift_px=(0, 16)), "shift_px"),
        (lambda: Sometimes(probability=-0.1, steps=()), "probability"),
        (
            lambda: Degradation(name="a", scale=4, steps=(Downscale(scale=2),)),
            "degradation a: scale 4, its steps give 2",
        ),
    ],
)
def test_settings_that_cant_be_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected uint8 HWC .* found float32"):
        degrade(flat(0), bicubic(2), generator())  # pyright: ignore[reportArgumentType]
