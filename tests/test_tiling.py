"""Tiles put together are the whole: spans cover an axis once, a tiled network gives one picture."""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weights_for_tests import make_weights

from resnet_core.enhancer import Enhancer, EnhanceSettings
from resnet_core.errors import ConfigError
from resnet_core.network import NetworkConfig, ResidualNetwork
from resnet_core.tiling import TileRules, Window, map_tiles, spans


@given(
    units=st.integers(1, 300),
    tile=st.integers(1, 90),
    halo=st.integers(0, 20),
    multiple=st.sampled_from([1, 2, 4]),
)
def test_spans_cover_an_axis_once_in_windows_of_one_length(
    units: int, tile: int, halo: int, multiple: int
) -> None:
    length, halo = units * multiple, halo * multiple
    rules = TileRules(halo_px=halo, multiple_of=multiple)
    found = spans(length, tile_px=tile, rules=rules)
    assert [p for span in found for p in range(span.start, span.stop)] == list(range(length))
    assert len({span.high - span.low for span in found}) == 1
    core = max(tile // multiple, 1) * multiple
    assert len(found) == max(1, -(-(length - 2 * halo) // core)), "as few as can be"
    for span in found:
        assert 0 <= span.low <= span.start < span.stop <= span.high <= length
        assert span.high - span.low <= core + 2 * halo
        assert all(place % multiple == 0 for place in (span.low, span.start, span.stop, span.high))
        assert span.low == 0 or span.start - span.low >= halo
        assert span.high == length or span.high - span.stop >= halo


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    tile=st.integers(1, 90),
    halo=st.integers(0, 3),
    multiple=st.sampled_from([1, 3, 8, 24]),
    least=st.integers(0, 4),
    square=st.booleans(),
    least_tile=st.sampled_from([1, 64, sys.maxsize]),
)
def test_windows_keep_the_rules_and_put_the_image_together(
    height: int,
    width: int,
    tile: int,
    halo: int,
    multiple: int,
    least: int,
    square: bool,
    least_tile: int,
) -> None:
    rules = TileRules(
        halo_px=halo * multiple,
        multiple_of=multiple,
        least_px=max(least * multiple, 1),
        square=square,
        least_tile_px=least_tile,
    )
    shapes: set[tuple[int, ...]] = set()

    kept = 0

    def work(windows: Sequence[Window]) -> Iterator[np.ndarray]:
        nonlocal kept
        for window in windows:
            shapes.add(window.pixels.shape[:2])
            kept += window.pixels[window.core].size
            yield window.pixels.repeat(2, axis=0).repeat(2, axis=1)

    image = np.random.default_rng(0).integers(0, 256, (height, width, 1), dtype=np.uint8)
    output = map_tiles(work, image, scale=2, tile_px=max(tile, 20), rules=rules)
    assert np.array_equal(output, image.repeat(2, axis=0).repeat(2, axis=1))
    assert kept == image.size
    ((rows, columns),) = shapes
    assert all(side % multiple == 0 and side >= rules.least_px for side in (rows, columns))
    assert rows == columns or not square
    if least_tile == sys.maxsize and not square:
        assert rows >= height
        assert columns >= width


def test_a_tile_below_one_pixel_is_an_error() -> None:
    with pytest.raises(ConfigError, match="tile_px is 0, expected at least 1"):
        spans(10, tile_px=0, rules=TileRules(halo_px=1))


CONFIGS = (
    NetworkConfig(scale=2, num_blocks=2, channels=16),
    NetworkConfig(scale=3, num_blocks=1, channels=16),
    NetworkConfig(scale=1, num_blocks=1, channels=16, unshuffle=2),
    NetworkConfig(scale=1, num_blocks=1, channels=16, unshuffle=4),
)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 61),
    width=st.integers(1, 61),
    tile=st.integers(1, 70),
    config=st.sampled_from(CONFIGS),
    precision=st.sampled_from(["float32", "bfloat16"]),
    channels=st.sampled_from([1, 3]),
)
def test_tiled_equals_whole_within_one_level(
    height: int, width: int, tile: int, config: NetworkConfig, precision: str, channels: int
) -> None:
    # One-pixel tiles of a large picture are thousands of windows: keep their number low.
    tile = max(tile, max(height, width) // 6)
    weights = make_weights(config)
    levels = np.random.default_rng(height * 100 + width).integers(
        0, 256, (height, width, channels), dtype=np.uint8
    )
    tiled = Enhancer(weights, EnhanceSettings(tile_px=tile, precision=precision), device="cpu")
    whole = Enhancer(weights, EnhanceSettings(tile_px=4096, precision=precision), device="cpu")
    difference = np.abs(
        tiled.enhance_pixels(levels).astype(int) - whole.enhance_pixels(levels).astype(int)
    )
    assert difference.max() <= 1


def test_a_halo_that_is_too_small_would_show() -> None:
    config = NetworkConfig(scale=2, num_blocks=2, channels=16)
    network = make_weights(config).network

    @torch.inference_mode()
    def work(windows: Sequence[Window]) -> Iterator[np.ndarray]:
        for window in windows:
            x = torch.from_numpy(window.pixels).permute(2, 0, 1)[None]
            yield network(x)[0].permute(1, 2, 0).numpy()

    pixels = np.random.default_rng(0).random((48, 48, 3), dtype=np.float32)

    def enhanced(tile_px: int, halo_px: int) -> np.ndarray:
        rules = TileRules(halo_px=halo_px)
        return map_tiles(work, pixels, scale=2, tile_px=tile_px, rules=rules)

    whole = enhanced(48, 0)

    def error(halo_px: int) -> float:
        return float(np.abs(enhanced(24, halo_px) - whole).max())

    assert error(config.halo_px) < 1e-5
    assert error(config.halo_px - 2) > 1e-5


def test_no_window_is_larger_than_a_tile_and_its_halo() -> None:
    sizes: list[tuple[int, ...]] = []

    def work(windows: Sequence[Window]) -> Sequence[np.ndarray]:
        sizes.extend(window.pixels.shape[:2] for window in windows)
        return [window.pixels for window in windows]

    pixels = np.zeros((1000, 700, 3), np.uint8)
    map_tiles(work, pixels, scale=1, tile_px=100, rules=TileRules(halo_px=8))
    assert len(set(sizes)) == 1
    assert max(sizes[0]) <= 100 + 2 * 8


def test_networks_of_the_tests_are_not_trivial() -> None:
    for config in CONFIGS:
        network: ResidualNetwork = make_weights(config).network
        assert network.residual(torch.rand(1, 3, 16, 16)).abs().mean() > 0.01
