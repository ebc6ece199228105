"""The guard lets honest results pass, and none that is another picture."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_sets import bench_images
from PIL import ImageFilter

from resnet_core import guard
from resnet_core.classical import bicubic, lanczos, median
from resnet_core.degradation import Degradation, crop_to_multiple, degrade
from resnet_core.enhancer import Enhancer, EnhanceSettings
from resnet_core.errors import SuspectResultError
from resnet_core.guard import Deviation, check, deviation
from resnet_core.images import Image, decode
from resnet_core.levels import Levels, from_pil, to_pil
from resnet_core.standard_degradations import gaussian_noise, jpeg, standard_degradation
from resnet_core.weights import load_weights, packaged_weights

EXAMPLES = ("colosseum.webp", "indri.avif", "lighthouse.png", "osprey.jpg", "otter.jpg")


def photograph(examples_dir: Path, name: str = "osprey.jpg") -> Levels:
    """The middle, of 192x256 px: a multiple of every scale."""
    pixels = decode((examples_dir / name).read_bytes()).pixels
    top, left = (pixels.shape[0] - 192) // 2, (pixels.shape[1] - 256) // 2
    return np.ascontiguousarray(pixels[top : top + 192, left : left + 256]).astype(np.uint8)


def small(picture: Levels, scale: int) -> Levels:
    degradation = standard_degradation(f"sr-x{scale}")
    return degrade(picture, degradation, np.random.default_rng(0))


def found(source: Levels, result: Levels, task: str, strength: float = 1.0) -> Deviation:
    return deviation(
        Image(pixels=source, format="PNG"),
        Image(pixels=result, format="PNG"),
        task=task,
        strength=strength,
    )


def shifted_right(picture: Levels) -> Levels:
    return np.roll(picture, 1, axis=1)


def shifted_down(picture: Levels) -> Levels:
    return np.roll(picture, 1, axis=0)


def with_cast(picture: Levels) -> Levels:
    return np.clip(picture.astype(int) + np.array([32, 0, 0]), 0, 255).astype(np.uint8)


def with_black_corner(picture: Levels) -> Levels:
    result = picture.copy()
    result[-64:, -64:] = 0
    return result


def mirrored(picture: Levels) -> Levels:
    return np.ascontiguousarray(picture[:, ::-1])


FAULTS = (shifted_right, shifted_down, with_cast, with_black_corner, mirrored)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_truth_and_plain_enlargements_pass(examples_dir: Path, name: str, scale: int) -> None:
    truth = photograph(examples_dir, name)[: 192 // scale * scale, : 256 // scale * scale]
    source = small(truth, scale)
    for result in (truth, bicubic(source, scale), lanczos(source, scale)):
        assert found(source, result, f"sr-x{scale}").share < 0.95
    assert found(source, truth, f"sr-x{scale}").share < 0.4


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", EXAMPLES)
def test_another_picture_is_suspect(
    examples_dir: Path, name: str, scale: int, fault: Callable[[Levels], Levels]
) -> None:
    truth = photograph(examples_dir, name)
    source = small(truth, scale)
    for result in (truth, lanczos(source, scale)):
        assert found(source, fault(result), f"sr-x{scale}").is_suspect


@pytest.mark.parametrize("name", packaged_weights())
def test_what_the_weights_of_the_package_give_passes(examples_dir: Path, name: str) -> None:
    weights = load_weights(name)
    metadata = weights.metadata
    truth = photograph(examples_dir)
    truth = crop_to_multiple(truth, metadata.degradation.scale)
    source = degrade(truth, metadata.degradation, np.random.default_rng(0))
    for strength in (-1.0, 0.5, 1.0, 2.0):
        enhancer = Enhancer(weights, EnhanceSettings(strength=strength), device="cpu")
        result = enhancer.enhance_pixels(source)
        assert not found(source, result, metadata.task, strength).is_suspect


@pytest.mark.parametrize("degradation", [gaussian_noise(50), jpeg(10)])
@pytest.mark.parametrize("name", EXAMPLES)
def test_taking_noise_and_blocks_away_passes(
    examples_dir: Path, name: str, degradation: Degradation
) -> None:
    truth = photograph(examples_dir, name)
    worn = degrade(truth, degradation, np.random.default_rng(0))
    for result in (truth, median(worn, 1), worn):
        assert not found(worn, result, "denoise").is_suspect


@pytest.mark.parametrize(
    ("name", "degradation"),
    [
        ("cbsd68", gaussian_noise(50)),
        ("live1_gray", jpeg(10)),
        ("kodak24", standard_degradation("restore")),
        ("kodak24", standard_degradation("photo-x2")),
    ],
)
def test_the_truth_passes_on_the_standard_sets(name: str, degradation: Degradation) -> None:
    for picture in bench_images(name):
        truth = np.ascontiguousarray(crop_to_multiple(picture, degradation.scale))
        worn = degrade(truth, degradation, np.random.default_rng(0))
        assert found(worn, truth, "restore").share < 0.8


def test_a_white_background_may_get_its_white_back() -> None:
    truth = np.full((96, 96, 3), 254, np.uint8)
    truth[32:64, 32:64] = 120
    noisy = degrade(truth, gaussian_noise(30), np.random.default_rng(0))
    worn = from_pil(to_pil(noisy).filter(ImageFilter.GaussianBlur(2)))
    assert truth.mean() - worn.mean() > 5
    assert not found(worn, truth, "restore").is_suspect


@pytest.mark.parametrize("degradation", [gaussian_noise(15), jpeg(10)])
@pytest.mark.parametrize("fault", [with_cast, with_black_corner])
def test_colour_is_guarded_for_every_task(
    examples_dir: Path, degradation: Degradation, fault: Callable[[Levels], Levels]
) -> None:
    truth = photograph(examples_dir)
    worn = degrade(truth, degradation, np.random.default_rng(0))
    assert found(worn, fault(truth), "restore").is_suspect


def test_a_fault_is_told_with_its_figures(examples_dir: Path) -> None:
    truth = photograph(examples_dir)
    cast = found(truth, with_cast(truth), "denoise")
    assert 1 < cast.share <= 32 / 5
    assert cast.told.startswith("the mean colour of the picture drifted by ")
    assert cast.told.endswith(" expected")
    shift = found(small(truth, 2), shifted_right(truth), "sr-x2")
    assert shift.told.startswith("made small again, a part differs from the source by")


def test_a_strength_above_1_may_differ_by_as_much_more(examples_dir: Path) -> None:
    source = small(photograph(examples_dir), 2)
    base, learned = bicubic(source, 2).astype(float), lanczos(source, 2).astype(float)
    for strength in (-2.0, 0.0, 0.5, 2.0, 4.0):
        mixed = np.clip(base + strength * (learned - base), 0, 255).round().astype(np.uint8)
        assert not found(source, mixed, "sr-x2", strength).is_suspect
    assert found(source, mixed, "sr-x2", 1.0).share > found(source, mixed, "sr-x2", 4.0).share


def test_depth_and_gray_change_nothing(examples_dir: Path) -> None:
    truth = photograph(examples_dir)
    source, result = small(truth, 2), with_cast(truth)
    deep = [pixels.astype(np.uint16) * 257 for pixels in (source, result)]
    plain = found(source, result, "sr-x2")
    assert found(deep[0], deep[1], "sr-x2") == plain  # pyright: ignore[reportArgumentType]
    gray = [np.ascontiguousarray(pixels[:, :, :1]) for pixels in (source, shifted_right(truth))]
    assert found(gray[0], gray[1], "sr-x2").is_suspect


def test_colour_that_nobody_sees_does_not_count(examples_dir: Path) -> None:
    truth = photograph(examples_dir)
    hidden = truth.copy()
    alpha = np.full((192, 256, 1), 255, np.uint8)
    alpha[:100], hidden[:100] = 0, 0
    source = Image(pixels=hidden, alpha=alpha, format="PNG")
    enhancer = Enhancer(load_weights("sr-x2"), device="cpu")
    result = enhancer.enhance(source)
    assert not deviation(source, result, task="sr-x2", strength=1.0).is_suspect
    wrong = replace(result, pixels=with_black_corner(result.pixels.astype(np.uint8)))
    assert deviation(source, wrong, task="sr-x2", strength=1.0).is_suspect


@pytest.mark.parametrize("task", ["sr-x2", "photo-x2"])
@pytest.mark.parametrize("fault", [shifted_right, shifted_down, with_cast, with_black_corner])
def test_bands_are_the_whole(
    examples_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Levels], Levels],
    task: str,
) -> None:
    truth = photograph(examples_dir)[:128]
    source, result = small(truth, 2), fault(truth)
    whole = found(source, result, task)
    monkeypatch.setattr(guard, "BAND_PIXELS", source.shape[1] * 32)
    assert len(list(guard._bands(*source.shape[:2]))) == 2
    assert found(source, result, task).share == pytest.approx(whole.share, rel=0.01)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (33, 47), (49, 95)])
def test_every_part_of_every_size_is_looked_at(height: int, width: int) -> None:
    source = np.full((height, width, 3), 200, np.uint8)
    result = source.repeat(2, 0).repeat(2, 1)
    assert found(source, result, "sr-x2").share == 0
    for row in (slice(-16, None), slice(16)):
        for column in (slice(-16, None), slice(16)):
            torn = result.copy()
            torn[row, column] = 0
            assert found(source, torn, "sr-x2").is_suspect


def test_only_fail_refuses(examples_dir: Path) -> None:
    truth = photograph(examples_dir)
    good, bad = found(truth, truth, "denoise"), found(truth, with_cast(truth), "denoise")
    check(good, "fail")
    check(bad, "mark")
    with pytest.raises(SuspectResultError, match=r"the result is suspect: the mean colour .*guard"):
        check(bad, "fail")
