"""What a picture shows of its wear, against what was done to it."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from image_files import pillow, reopened, saved
from numpy.typing import NDArray
from PIL import Image as PillowImage

from resnet_core.degradation import degrade
from resnet_core.images import Image, decode
from resnet_core.inspection import PART_PX, PARTS_A_SIDE, SMALLEST_PX, Findings, inspect_image
from resnet_core.standard_degradations import gaussian_noise

NAMES = ("colosseum.webp", "lighthouse.png", "osprey.jpg", "otter.jpg")
Levels = NDArray[np.uint8]


@pytest.fixture(params=NAMES)
def photograph(request: pytest.FixtureRequest, examples_dir: Path) -> Levels:
    """Clean: made smaller, so that nothing is left of its compression."""
    pixels = np.asarray(decode((examples_dir / request.param).read_bytes()).pixels, np.uint8)
    picture = pillow(pixels)
    size = (picture.width * 4 // 5, picture.height * 4 // 5)
    return np.array(picture.resize(size, PillowImage.Resampling.LANCZOS))


def found_in(pixels: Levels) -> Findings:
    return inspect_image(Image(pixels=np.ascontiguousarray(pixels), format="PNG"))


def through_jpeg(pixels: Levels, quality: int, **options: str) -> bytes:
    return saved(pillow(pixels), "JPEG", quality=quality, **options)


def noisy(pixels: Levels, sigma_levels: float) -> Levels:
    return degrade(pixels, gaussian_noise(sigma_levels), np.random.default_rng(0))


@pytest.mark.parametrize("sigma", [2, 10, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_white_noise_is_measured(sigma: float, channels: int) -> None:
    found = found_in(noisy(np.full((256, 320, channels), 128, np.uint8), sigma))
    assert found.noise_levels == pytest.approx(sigma, rel=0.06)
    assert found.grain_levels == pytest.approx(sigma / 2, rel=0.1)
    assert found.jpeg_quality is None


def test_more_noise_is_found_where_there_is_more(photograph: Levels) -> None:
    sigmas = (0, 3, 5, 10, 20, 35, 50)
    found = [found_in(noisy(photograph, sigma)).noise_levels or 0 for sigma in sigmas]
    assert found == sorted(found)
    assert found[0] < 3
    for sigma, noise in zip(sigmas[2:], found[2:], strict=True):
        assert noise == pytest.approx(sigma, rel=0.25)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_blocks_tell_the_quality_without_the_file(photograph: Levels, subsampling: str) -> None:
    for quality in (10, 30, 50, 75, 90):
        data = through_jpeg(photograph, quality, subsampling=subsampling)
        image = decode(data)
        found = found_in(image.pixels)
        assert found.file_quality is None
        assert abs((found.blocks_quality or 0) - quality) <= 2
        moved = found_in(image.pixels[3:, 5:])
        assert abs((moved.blocks_quality or 0) - quality) <= 2 or quality == 90
        assert inspect_image(image).file_quality == quality


def test_a_turned_picture_keeps_its_quality(photograph: Levels) -> None:
    for quality in (30, 50, 75):
        turned = np.rot90(decode(through_jpeg(photograph, quality)).pixels)
        assert abs((found_in(turned).blocks_quality or 0) - quality) <= 1


def test_a_clean_photograph_shows_no_blocks(photograph: Levels) -> None:
    assert found_in(photograph).jpeg_quality is None


def test_what_was_lost_before_the_last_saving_counts(photograph: Levels) -> None:
    before = decode(through_jpeg(photograph, 20)).pixels
    found = inspect_image(decode(through_jpeg(np.ascontiguousarray(before[4:, 4:]), 95)))
    assert found.file_quality == 95
    assert found.jpeg_quality == pytest.approx(20, abs=2)


def test_what_became_of_noise_is_told_from_white_noise() -> None:
    worn = noisy(np.full((256, 320, 3), 128, np.uint8), 15)
    white = found_in(worn)
    assert white.colour_levels == pytest.approx(15 / 2**0.5, rel=0.06)
    soft = found_in(np.array(pillow(worn).resize((480, 384), PillowImage.Resampling.BILINEAR)))
    assert (soft.grain_levels or 0) > (soft.noise_levels or 0) > 1
    shared = found_in(worn[..., :1].repeat(3, 2))
    subsampled = found_in(np.asarray(reopened(saved(pillow(worn), "WEBP", quality=90))))
    for found in (shared, subsampled):
        assert (found.colour_levels or 0) < 0.2 * (found.noise_levels or 0)


def test_depth_makes_no_difference(photograph: Levels) -> None:
    plain = found_in(photograph)
    assert inspect_image(Image(pixels=photograph.astype(np.uint16) * 257, format="PNG")) == plain


@pytest.mark.parametrize("level", [0, 255])
def test_a_background_hides_no_noise(photograph: Levels, level: int) -> None:
    worn = noisy(photograph, 20)
    worn[:, : worn.shape[1] // 5] = level
    found = found_in(worn)
    assert found.noise_levels == pytest.approx(20, rel=0.25)
    assert found.colour_levels == pytest.approx(20 / 2**0.5, rel=0.25)


def test_what_is_hidden_is_not_looked_at(photograph: Levels) -> None:
    worn = noisy(photograph, 20)
    alpha = np.full((*worn.shape[:2], 1), 255, np.uint8)
    alpha[:, : worn.shape[1] // 5] = 0
    worn[alpha[..., 0] == 0] = 90
    found = inspect_image(Image(pixels=worn, alpha=alpha, format="PNG"))
    assert found.noise_levels == pytest.approx(20, rel=0.25)


def test_ramps_show_no_blocks() -> None:
    y, x = np.mgrid[:512, :640]
    pictures = (x / 2.51, 255 - np.hypot(x - 320, y - 256) * 0.6, x // 4 * 1.6, (x + y) / 4.6)
    for picture in pictures:
        found = found_in(picture.astype(np.uint8)[..., None].repeat(3, 2))
        assert found.jpeg_quality is None
        assert (found.noise_levels or 0) < 1


def test_a_drawing_of_few_levels_tells_nothing() -> None:
    dither = np.random.default_rng(0).integers(0, 2, (300, 300, 1)).astype(np.uint8) * 255
    assert set(asdict(found_in(dither)).values()) == {None}


@pytest.mark.parametrize("height", [PARTS_A_SIDE * PART_PX + 300, SMALLEST_PX + 9])
def test_a_large_picture_is_told_from_its_parts(height: int) -> None:
    width = PARTS_A_SIDE**2 * PART_PX**2 // height + 300
    clean = np.add.outer(np.arange(height) % 200, np.arange(width) % 150)[..., None] // 2 + 20
    pixels = noisy(clean.repeat(3, 2).astype(np.uint8), 8)
    assert found_in(pixels).noise_levels == pytest.approx(8, rel=0.1)
    assert found_in(decode(through_jpeg(pixels, 70)).pixels).blocks_quality == 70


@pytest.mark.parametrize(("height", "width"), [(1, 1), (SMALLEST_PX - 1, 500)])
def test_a_small_picture_tells_nothing_but_what_its_file_says(height: int, width: int) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    assert set(asdict(found_in(pixels)).values()) == {None}
    assert inspect_image(decode(through_jpeg(pixels, 40))).jpeg_quality == 40


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_tells_nothing(level: int) -> None:
    found = found_in(np.full((SMALLEST_PX, SMALLEST_PX, 3), level, np.uint8))
    assert set(asdict(found).values()) == {None}
