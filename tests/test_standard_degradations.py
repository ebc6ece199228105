"""The degradation of each task: laws they all have, and the values that the papers publish."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pixels_for_tests import generator, picture

from resnet_core.degradation import Degradation, degrade, describe, from_description
from resnet_core.degradation_steps import (
    Blur,
    GaussianNoise,
    Jpeg,
    OneOf,
    PoissonNoise,
    RandomResize,
    ResizeToResult,
    Ringing,
    Sometimes,
    Step,
)
from resnet_core.errors import ConfigError
from resnet_core.standard_degradations import (
    STANDARD,
    bicubic,
    gaussian_noise,
    jpeg,
    standard_degradation,
)
from resnet_core.weights import load_weights, packaged_weights

EVERY_TASK = pytest.mark.parametrize("task", STANDARD)
SECOND_ORDER = pytest.mark.parametrize("task", ["restore", "photo-x2"])


def that_happen(steps: Sequence[Step], rng: np.random.Generator) -> Iterator[Step]:
    """The steps that happen in one draw, without those that hold others."""
    for step in steps:
        if isinstance(step, Sometimes | OneOf):
            yield from that_happen(step.draw(rng), rng)
        else:
            yield step


def drawn_steps(degradation: Degradation, times: int) -> list[list[Step]]:
    rng = generator()
    return [list(that_happen(degradation.steps, rng)) for _ in range(times)]


@EVERY_TASK
def test_one_seed_gives_one_picture(task: str) -> None:
    degradation = standard_degradation(task)
    first, again, other = (degrade(picture(), degradation, generator(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    chance = not task.startswith("sr-")
    assert np.array_equal(first, other) != chance


@EVERY_TASK
@settings(deadline=None, max_examples=12)
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
    found = degrade(image, degradation, generator(seed))
    assert found.shape == (height, width, channels)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert found.flags.writeable


@EVERY_TASK
def test_mean_brightness_is_kept(task: str) -> None:
    image = picture(60, 60) // 2 + 64
    rng = generator()
    means = [degrade(image, standard_degradation(task), rng).mean() for _ in range(30)]
    assert np.mean(means) == pytest.approx(image.mean(), abs=1.5)


@SECOND_ORDER
def test_worn_photographs_can_still_be_seen(task: str) -> None:
    degradation = standard_degradation(task)
    image = picture(64, 64)
    target = degrade(image, bicubic(degradation.scale), generator()).astype(float)
    rng = generator()
    worn = [degrade(image, degradation, rng).astype(float) for _ in range(40)]
    errors = [np.sqrt(np.square(each - target).mean()) for each in worn]
    assert min(errors) > 1
    assert max(errors) < 60
    likeness = [np.corrcoef(each.ravel(), target.ravel())[0, 1] for each in worn]
    assert np.median(likeness) > 0.8


def test_restore_is_milder_than_photo_x2() -> None:
    image = picture(64, 64)

    def median_error(task: str) -> float:
        degradation = standard_degradation(task)
        target = degrade(image, bicubic(degradation.scale), generator()).astype(float)
        rng = generator()
        errors = [np.abs(degrade(image, degradation, rng) - target).mean() for _ in range(30)]
        return float(np.median(errors))

    assert median_error("restore") < median_error("photo-x2")


@SECOND_ORDER
def test_the_order_is_blur_size_noise_jpeg_twice(task: str) -> None:
    orders = {"".join(map(letter, steps)) for steps in drawn_steps(STANDARD[task], 600)}
    first = ("bsnj",) if task == "photo-x2" else ("bsnj", "snj")
    finals = ("=rj", "=j", "j=r", "j=")
    assert orders == {
        one + two + final for one in first for two in ("bsn", "sn") for final in finals
    }


def letter(step: Step) -> str:
    """b blur or, in its place, ringing; s size, n noise, j JPEG, = result's size, r ringing."""
    match step:
        case Ringing():
            return "r" if step.side_px == (7, 21) else "b"
        case GaussianNoise() | PoissonNoise():
            return "n"
        case _:
            return {Blur: "b", RandomResize: "s", Jpeg: "j", ResizeToResult: "="}[type(step)]


def test_photo_x2_has_the_values_of_real_esrgan_x2plus() -> None:
    draws = drawn_steps(STANDARD["photo-x2"], 3000)
    steps = [step for each in draws for step in each]

    def of(kind: Any) -> list[Any]:
        return list(dict.fromkeys(step for step in steps if isinstance(step, kind)))

    assert [(blur.sigma_px, blur.side_px) for blur in of(Blur)] == [
        ((0.2, 3.0), (7, 21)),
        ((0.2, 1.5), (7, 21)),
    ]
    for blur in of(Blur):
        assert blur.probabilities == (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
        assert (blur.beta_generalised, blur.beta_plateau) == ((0.5, 4.0), (1.0, 2.0))
    assert [(size.factor, size.up, size.down, size.reference) for size in of(RandomResize)] == [
        ((0.15, 1.5), 0.2, 0.7, "picture"),
        ((0.3, 1.2), 0.3, 0.4, "result"),
    ]
    for size in of(RandomResize) + of(ResizeToResult):
        assert size.kinds == ("area", "bilinear", "bicubic")
    assert {noise.sigma_levels for noise in of(GaussianNoise)} == {(1.0, 30.0), (1.0, 25.0)}
    assert {noise.scale for noise in of(PoissonNoise)} == {(0.05, 3.0), (0.05, 2.5)}
    assert {noise.gray_probability for noise in of((GaussianNoise, PoissonNoise))} == {0.4}
    assert {(each.quality, each.subsampling) for each in of(Jpeg)} == {((30, 95), ("4:2:0",))}

    def share(happens: Any) -> float:
        return float(np.mean([happens("".join(map(letter, each)), each) for each in draws]))

    assert share(lambda _, each: isinstance(each[0], Ringing)) == pytest.approx(0.1, abs=0.02)
    assert share(lambda _, each: isinstance(each[2], GaussianNoise)) == pytest.approx(0.5, abs=0.03)
    assert share(lambda order, _: order[4] == "b") == pytest.approx(0.8, abs=0.03)
    assert share(lambda order, _: order.endswith("j")) == pytest.approx(0.5, abs=0.03)
    assert share(lambda order, _: "r" in order) == pytest.approx(0.8, abs=0.03)


def test_ringing_has_the_cutoffs_and_sides_of_real_esrgan() -> None:
    rng = generator()
    steps = [each[0] for each in drawn_steps(STANDARD["photo-x2"], 6000)]
    kernels = [step.draw(rng) for step in steps if isinstance(step, Ringing)]
    sides = np.array([kernel.side_px for kernel in kernels])
    cutoffs = np.array([kernel.cutoff for kernel in kernels])
    for side in range(7, 22, 2):
        assert (sides == side).mean() == pytest.approx(1 / 8, abs=0.05)
    assert 1 / 3 <= cutoffs[sides < 13].min() < 0.4
    assert 1 / 5 <= cutoffs[sides >= 13].min() < 0.23


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_bicubic_equals_pillow_exactly(scale: int, channels: int) -> None:
    image = generator().integers(0, 256, (12 * scale, 17 * scale, channels), dtype=np.uint8)
    expected = np.asarray(
        Image.fromarray(image.squeeze()).resize((17, 12), Image.Resampling.BICUBIC)
    ).reshape(12, 17, channels)
    np.testing.assert_array_equal(degrade(image, bicubic(scale), generator()), expected)


def test_jpeg_equals_pillows_file(tmp_path: Any) -> None:
    path = tmp_path / "worn.jpg"
    Image.fromarray(picture()).save(path, quality=30, subsampling="4:2:0")
    with Image.open(path) as worn:
        expected = np.asarray(worn)
    np.testing.assert_array_equal(degrade(picture(), jpeg(30), generator()), expected)


def test_gaussian_noise_has_its_level() -> None:
    image = np.full((128, 128, 3), 128, dtype=np.uint8)
    assert degrade(image, gaussian_noise(15), generator()).std() == pytest.approx(15, rel=0.03)


@EVERY_TASK
def test_description_round_trips_through_json(task: str) -> None:
    description = describe(standard_degradation(task))
    read = json.loads(json.dumps(description))
    assert read == description
    assert read["name"] == task
    assert from_description(read) == standard_degradation(task)


def test_weights_that_are_packaged_tell_their_degradation() -> None:
    for name in packaged_weights():
        metadata = load_weights(name).metadata
        assert metadata.degradation == standard_degradation(metadata.task)


def test_unknown_task_offers_the_near_one() -> None:
    with pytest.raises(ConfigError, match="'denoize'; did you mean 'denoise'"):
        standard_degradation("denoize")
