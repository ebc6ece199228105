"""Laws of the enhancer: the base at strength 0, one result from any thread, every kind of image."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from photographs_for_tests import make_photograph
from PIL import Image as PillowImage
from weights_for_tests import make_weights

from resnet_core.batching import NoLongerWantedError
from resnet_core.enhancer import Batch, Enhancer, EnhanceSettings
from resnet_core.errors import ConfigError
from resnet_core.images import Image
from resnet_core.network import NetworkConfig

PHOTOGRAPH = make_photograph(40, 52)


def enhancer(scale: int = 2, *, batch_px: int | None = None, **settings: object) -> Enhancer:
    weights = make_weights(NetworkConfig(scale=scale, num_blocks=2, channels=16))
    chosen = EnhanceSettings(**settings)  # pyright: ignore[reportArgumentType]
    return Enhancer(weights, chosen, device="cpu", batch_px=batch_px)


def image_of(pixels: np.ndarray, alpha: np.ndarray | None = None) -> Image:
    return Image(
        pixels=pixels, alpha=alpha, format="PNG", icc_profile=b"profile", exif=None, xmp=None
    )


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_strength_0_is_the_base(scale: int) -> None:
    output = enhancer(scale, strength=0.0).enhance_pixels(PHOTOGRAPH)
    if scale == 1:
        assert np.array_equal(output, PHOTOGRAPH)
        return
    size = (52 * scale, 40 * scale)
    bicubic = PillowImage.fromarray(PHOTOGRAPH).resize(size, PillowImage.Resampling.BICUBIC)
    # Pillow rounds and clips between its two passes; this base is rounded once.
    difference = np.abs(output.astype(int) - np.asarray(bicubic).astype(int))
    assert difference.mean() < 0.5
    assert np.percentile(difference, 99) <= 1


def test_strength_between_lies_between() -> None:
    base, half, whole = (
        enhancer(strength=s).enhance_pixels(PHOTOGRAPH).astype(float) for s in (0.0, 0.5, 1.0)
    )
    inside = (base > 0) & (base < 255) & (whole > 0) & (whole < 255)
    assert np.abs(half - (base + whole) / 2)[inside].max() <= 1
    assert np.abs(whole - base).mean() > 1


def test_eight_threads_give_what_one_gives_alone() -> None:
    shared = enhancer(tile_px=24)
    pictures = [make_photograph(20 + 3 * i, 30 + 2 * i, seed=i) for i in range(16)]
    alone = [shared.enhance_pixels(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(shared.enhance_pixels, pictures))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_batches_across_threads_give_what_each_image_gives_alone() -> None:
    pictures = [make_photograph(40 + i % 3, 50, seed=i) for i in range(12)]
    pictures += [picture[:, :, :1] for picture in pictures[:4]]
    pictures += [picture.astype(np.uint16) * 257 for picture in pictures[:4]]
    alone = [enhancer(tile_px=24).enhance_pixels(picture) for picture in pictures]
    shared = enhancer(tile_px=24, batch_px=8 * 40 * 40)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(shared.enhance_pixels, pictures))
    for one, other in zip(alone, together, strict=True):
        one_level = np.iinfo(one.dtype).max // 255
        assert one.dtype == other.dtype
        assert np.abs(one.astype(int) - other.astype(int)).max() <= one_level


@pytest.mark.parametrize("batch_px", [None, 1, 8 * 40 * 52])
def test_strengths_of_their_own_share_batches_and_equal_the_settings(batch_px: int | None) -> None:
    image, strengths = image_of(PHOTOGRAPH), [0.0, 0.4, 1.0, -2.0]
    shared = enhancer(batch_px=batch_px)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda s: shared.enhance_measured(image, strength=s), strengths))
    for strength, found in zip(strengths, together, strict=True):
        alone = enhancer(strength=strength).enhance_measured(image)
        difference = np.abs(found.image.pixels.astype(int) - alone.image.pixels)
        assert difference.max() <= (1 if batch_px else 0)
        assert found.change_levels == pytest.approx(alone.change_levels, rel=1e-3)
    with pytest.raises(ConfigError, match="strength is nan, expected -4 to 4"):
        shared.enhance_measured(image, strength=float("nan"))


@pytest.mark.parametrize("batch_px", [None, 1])
def test_work_stops_at_the_window_before_which_it_is_no_longer_wanted(batch_px: int | None) -> None:
    batches: list[Batch] = []
    weights = make_weights(NetworkConfig(scale=2, num_blocks=2, channels=16))
    tiled = Enhancer(
        weights,
        EnhanceSettings(tile_px=8),
        device="cpu",
        batch_px=batch_px,
        on_batch=batches.append,
    )
    with pytest.raises(NoLongerWantedError):
        tiled.enhance_measured(image_of(PHOTOGRAPH), wanted=lambda: len(batches) < 2)
    assert [batch.windows for batch in batches] == [1, 1]
    assert all(batch.pixels > 64 and batch.seconds > 0 for batch in batches)


@pytest.mark.parametrize("batch_px", [None, 10_000])
def test_the_change_is_the_same_in_tiles(batch_px: int | None) -> None:
    """What several windows see counts once, and padding not at all."""
    pixels = np.full((23, 160, 3), 128, np.uint8)
    pixels[:, 60:90] = make_photograph(23, 30)
    config = NetworkConfig(scale=1, num_blocks=1, channels=16, unshuffle=2)
    weights = make_weights(config)
    whole, tiled = (
        Enhancer(weights, EnhanceSettings(tile_px=px), device="cpu", batch_px=batch_px)
        for px in (400, 16)
    )
    expected = whole.enhance_measured(image_of(pixels)).change_levels
    base = whole.enhance_measured(image_of(pixels), strength=0).image.pixels.astype(float)
    difference = np.abs(whole.enhance_pixels(pixels) - base).mean()
    assert expected == pytest.approx(difference, abs=0.3)
    assert tiled.enhance_measured(image_of(pixels)).change_levels == pytest.approx(
        expected, rel=1e-3
    )


def test_the_change_is_the_distance_to_the_base() -> None:
    image = image_of(PHOTOGRAPH)
    base, better = (enhancer(strength=s).enhance_measured(image) for s in (0.0, 1.0))
    assert base.change_levels == 0
    difference = np.abs(better.image.pixels.astype(float) - base.image.pixels.astype(float))
    assert better.change_levels == pytest.approx(difference.mean(), abs=0.05)
    deep = enhancer().enhance_measured(image_of(PHOTOGRAPH.astype(np.uint16) * 257))
    assert deep.change_levels == pytest.approx(better.change_levels, rel=1e-3)


@pytest.mark.parametrize("channels", [3, 1])
def test_bands_of_rows_give_what_the_whole_gives(
    monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    image = image_of(PHOTOGRAPH[..., :channels])
    whole = enhancer().enhance_measured(image)
    output_row = 2 * PHOTOGRAPH.shape[1] * channels
    monkeypatch.setattr("resnet_core.enhancer._BAND_VALUES", 3 * output_row)
    banded = enhancer().enhance_measured(image)
    assert np.array_equal(banded.image.pixels, whole.image.pixels)
    assert banded.change_levels == pytest.approx(whole.change_levels, rel=1e-4)


def test_the_networks_time_leaves_out_what_an_image_waits_for_others() -> None:
    shared = enhancer(tile_px=24, batch_px=1)
    images = [image_of(make_photograph(40, 50, seed=i)) for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        began_s = time.perf_counter()
        found = list(pool.map(shared.enhance_measured, images))
        elapsed_s = time.perf_counter() - began_s
    assert all(each.network_s > 0 for each in found)
    assert sum(each.network_s for each in found) <= elapsed_s


def test_gray_stays_gray_and_equals_its_rgb_double() -> None:
    gray = PHOTOGRAPH[:, :, :1]
    output = enhancer().enhance_pixels(gray)
    assert output.shape == (80, 104, 1)
    rgb = enhancer().enhance_pixels(np.repeat(gray, 3, axis=2)).astype(float)
    unclipped = ((rgb > 0) & (rgb < 255)).all(axis=2)
    assert unclipped.mean() > 0.5
    assert np.abs(rgb.mean(axis=2) - output[:, :, 0])[unclipped].max() <= 1


def test_sixteen_bits_say_the_same_as_eight_and_more() -> None:
    deep = PHOTOGRAPH.astype(np.uint16) * 257
    output = enhancer().enhance_pixels(deep)
    assert output.dtype == np.uint16
    shallow = enhancer().enhance_pixels(PHOTOGRAPH)
    assert np.abs(output / 257 - shallow).max() <= 0.51
    assert len(np.unique(output)) > 256


def test_alpha_is_enlarged_and_hidden_colour_does_not_darken_the_edge() -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16] = 200
    alpha = np.zeros((32, 32, 1), np.uint8)
    alpha[:, :16] = 255
    result = enhancer(strength=0.0).enhance(image_of(pixels, alpha))
    assert result.alpha is not None
    assert result.alpha.shape == (64, 64, 1)
    assert result.alpha.dtype == np.uint8
    assert result.pixels[result.alpha[:, :, 0] > 0].min() >= 199


def test_the_enhanced_image_keeps_its_description() -> None:
    source = image_of(PHOTOGRAPH)
    result = enhancer().enhance(source)
    assert (result.icc_profile, result.format, result.alpha) == (b"profile", "PNG", None)
    assert (result.height, result.width) == (80, 104)


def test_a_call_changes_neither_the_weights_nor_its_argument() -> None:
    weights = make_weights()
    before = {name: value.clone() for name, value in weights.network.state_dict().items()}
    pixels = PHOTOGRAPH.copy()
    Enhancer(weights, EnhanceSettings(precision="bfloat16"), device="cpu").enhance_pixels(pixels)
    assert np.array_equal(pixels, PHOTOGRAPH)
    assert all(torch.equal(v, before[n]) for n, v in weights.network.state_dict().items())


def test_bfloat16_gives_the_same_picture_within_two_levels() -> None:
    exact = enhancer(precision="float32").enhance_pixels(PHOTOGRAPH).astype(int)
    fast = enhancer(precision="bfloat16").enhance_pixels(PHOTOGRAPH).astype(int)
    assert 0 < np.abs(exact - fast).max() <= 2


def test_fewer_blocks_give_another_picture() -> None:
    whole = enhancer(num_blocks=2).enhance_pixels(PHOTOGRAPH)
    assert np.array_equal(whole, enhancer().enhance_pixels(PHOTOGRAPH))
    assert not np.array_equal(whole, enhancer(num_blocks=1).enhance_pixels(PHOTOGRAPH))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 9.0}, "strength is 9.0, expected -4 to 4"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"tile_px": 0}, "tile_px is 0"),
        ({"tile_px": 64.5}, "tile_px is 64.5, expected a whole number"),
        ({"num_blocks": 1.5}, "num_blocks is 1.5, expected a whole number"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"num_blocks": 3}, "num_blocks is 3, expected 0 to 2"),
    ],
)
def test_a_bad_setting_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        enhancer(**settings)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)])
def test_other_pixels_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8 or uint16 HWC"):
        enhancer().enhance_pixels(pixels)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    weights = make_weights(NetworkConfig(scale=2, num_blocks=1, channels=16))
    with pytest.raises(ConfigError, match=f"device is '{device}', which can't be used: "):
        Enhancer(weights, device=device)
