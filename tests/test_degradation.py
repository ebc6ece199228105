"""Laws of a degradation: one seed gives one picture, of exactly 1 / scale of the size."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixels_for_tests import flat, generator, picture

from resnet_core.degradation import (
    Degradation,
    crop_to_multiple,
    degrade,
    describe,
    from_description,
)
from resnet_core.degradation_steps import (
    Blur,
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
)
from resnet_core.errors import ConfigError

NOISE = GaussianNoise(sigma_levels=(5, 50))
ANY_SIZE = RandomResize(factor=(0.3, 1.5), up=0.4, down=0.4)
LIST_OF_EVERY_STEP: tuple[Step, ...] = (
    Blur(sigma_px=(0.2, 3.0)),
    Downscale(scale=2, kinds=("bicubic", "box")),
    ANY_SIZE,
    OneOf(
        probabilities=(0.5, 0.5),
        rows=((NOISE,), (PoissonNoise(scale=(0.05, 3.0)), Jpeg(quality=(30, 95)))),
    ),
    RandomResize(factor=(0.3, 1.2), up=0.3, down=0.4, kinds=("area",), reference="result"),
    Sometimes(probability=0.8, steps=(Ringing(cutoff=(1 / 3, 1.0)), ANY_SIZE)),
    ResizeToResult(),
)
EVERYTHING = Degradation(name="everything", scale=3, steps=LIST_OF_EVERY_STEP)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 999),
)
def test_size_is_the_input_over_the_scale(
    height: int, width: int, channels: int, seed: int
) -> None:
    degradation = Degradation(
        name="no downscale", scale=3, steps=tuple(LIST_OF_EVERY_STEP[i] for i in (0, 2, 3, 4, 5, 6))
    )
    image = picture(height * 3, width * 3, channels)
    before = image.copy()
    found = degrade(image, degradation, generator(seed))
    assert found.shape == (height, width, channels)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert found.flags.writeable
    np.testing.assert_array_equal(image, before)


def test_one_seed_gives_one_picture() -> None:
    image = picture(48, 48)
    first, again, other = (degrade(image, EVERYTHING, generator(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_steps_are_the_picture() -> None:
    nothing = Degradation(name="nothing", scale=1, steps=())
    np.testing.assert_array_equal(degrade(picture(), nothing, generator()), picture())


def test_other_sizes_are_refused() -> None:
    half = Degradation(name="half", scale=2, steps=(ResizeToResult(),))
    with pytest.raises(ValueError, match="48x47 px: expected multiples of 2"):
        degrade(picture(47, 48), half, generator())


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected uint8 HWC .* found float32"):
        degrade(flat(0), EVERYTHING, generator())  # pyright: ignore[reportArgumentType]


def test_crop_to_multiple() -> None:
    image = picture(11, 14)
    np.testing.assert_array_equal(crop_to_multiple(image, 4), image[:8, :12])
    np.testing.assert_array_equal(crop_to_multiple(image, 1), image)
    with pytest.raises(ValueError, match="14x11 px: smaller than the scale 12"):
        crop_to_multiple(image, 12)


@pytest.mark.parametrize(
    ("scale", "steps"),
    [
        (1, (NOISE,)),
        (4, (Downscale(scale=2), NOISE, Downscale(scale=2))),
        (2, (ResizeToResult(),)),
        (2, (Downscale(scale=2), ANY_SIZE, ResizeToResult(), NOISE)),
        (2, (Downscale(scale=3), ResizeToResult())),
        (1, (Sometimes(probability=0.5, steps=(ANY_SIZE, NOISE, ResizeToResult())),)),
        (
            3,
            (
                OneOf(
                    probabilities=(0.5, 0.5),
                    rows=((Downscale(scale=3),), (ANY_SIZE, ResizeToResult())),
                ),
            ),
        ),
    ],
)
def test_steps_that_give_the_scale_are_taken(scale: int, steps: Any) -> None:
    degradation = Degradation(name="a", scale=scale, steps=steps)
    for seed in range(6):
        assert degrade(picture(12, 36), degradation, generator(seed)).shape == (
            12 // scale,
            36 // scale,
            3,
        )


@pytest.mark.parametrize(
    ("scale", "steps", "message"),
    [
        (4, (Downscale(scale=2),), "degradation a: scale 4, its steps give 2"),
        (2, (NOISE,), "scale 2, its steps give 1"),
        (1, (ANY_SIZE,), "scale 1, its steps give a size that is drawn"),
        (1, (ResizeToResult(), ANY_SIZE), "a size that is drawn"),
        (
            2,
            (Sometimes(probability=0.5, steps=(Downscale(scale=2),)),),
            "scale 2, its steps give a size that is drawn",
        ),
        (2, (Sometimes(probability=0.5, steps=(ResizeToResult(),)),), "a size that is drawn"),
        (
            2,
            (OneOf(probabilities=(0.5, 0.5), rows=((Downscale(scale=2),), (NOISE,))),),
            "a size that is drawn",
        ),
        (2, (ANY_SIZE, Downscale(scale=2)), "Downscale after a random size: expected Resize"),
        (0, (), "degradation a: scale 0, expected 1 or more"),
        (1, (5,), r"degradation a: expected steps, found \(5,\)"),
    ],
)
def test_steps_of_another_scale_are_refused(scale: int, steps: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Degradation(name="a", scale=scale, steps=steps)


def test_description_round_trips_through_json() -> None:
    degradation = Degradation(name="b", scale=6, steps=EVERYTHING.steps)
    description = describe(degradation)
    read = json.loads(json.dumps(description))
    assert read == description
    assert from_description(read) == degradation


def test_descriptions_in_weights_that_are_out_are_read() -> None:
    step = {"step": "Downscale", "scale": 2, "kinds": ["bicubic"]}
    found = from_description({"name": "sr-x2", "scale": 2, "steps": [step]})
    assert found == Degradation(name="sr-x2", scale=2, steps=(Downscale(scale=2),))


def test_descriptions_that_cant_be_read_are_named() -> None:
    step: dict[str, Any] = {"step": "Jpg", "quality": [10, 20]}
    with pytest.raises(ConfigError, match="no degradation step 'Jpg'; did you mean 'Jpeg'"):
        from_description({"name": "a", "scale": 1, "steps": [step]})
    step = {"step": "Downscale", "scale": 2, "kind": "bicubic"}
    with pytest.raises(ConfigError, match=r"step Downscale: expected .*'kinds'.* found .*'kind'"):
        from_description({"name": "a", "scale": 2, "steps": [step]})
    step = {"step": "Sometimes", "probability": 0.5, "steps": [{"step": "Nois"}]}
    with pytest.raises(ConfigError, match="no degradation step 'Nois'"):
        from_description({"name": "a", "scale": 1, "steps": [step]})
    with pytest.raises(ConfigError, match="degradation: expected"):
        from_description({"name": "a"})


@pytest.mark.parametrize(
    "steps",
    [
        5,
        [5],
        [{"step": "Downscale", "scale": "2", "kinds": ["bicubic"]}],
        [{"step": "Sometimes", "probability": 0.5, "steps": 5}],
        [{"step": "OneOf", "probabilities": [1.0], "rows": [[5]]}],
        [{"step": "OneOf", "probabilities": 1.0, "rows": [[]]}],
        [{"step": "Ringing", "cutoff": ["a", "b"], "side_px": [7, 21]}],
    ],
)
def test_descriptions_with_other_values_are_refused(steps: Any) -> None:
    with pytest.raises(ConfigError, match=r"can't be read|expected steps"):
        from_description({"name": "a", "scale": 2, "steps": steps})
