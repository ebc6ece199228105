"""Laws of the network: its base, its strength, its blocks, its folding, its receptive field."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage
from torch import Tensor

from resnet_core.errors import ConfigError
from resnet_core.network import NetworkConfig, ResidualNetwork, bicubic_bands, bicubic_base, fold
from resnet_core.pixels import to_levels, to_nchw

KINDS = ("residual", "residual-bn", "plain")


def network_of(**fields: object) -> ResidualNetwork:
    """A small network whose every part matters: random weights, tail included, used statistics."""
    values = {"num_blocks": 2, "channels": 16} | fields
    torch.manual_seed(0)
    network = ResidualNetwork(NetworkConfig(**values))  # pyright: ignore[reportArgumentType]
    torch.nn.init.normal_(network.tail.direct, std=0.05)
    torch.nn.init.normal_(network.tail.bias, std=0.05)
    network.train()
    for _ in range(3):
        network(torch.rand(4, 3, 16, 16))
    return network.eval()


def picture(height: int, width: int, *, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_output_is_scale_times_the_input(kind: str, scale: int) -> None:
    network = network_of(kind=kind, scale=scale)
    assert network(picture(7, 11)).shape == (1, 3, 7 * scale, 11 * scale)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_an_untrained_network_gives_its_base(scale: int) -> None:
    network = ResidualNetwork(NetworkConfig(scale=scale, num_blocks=1, channels=16))
    x = picture(9, 5)
    assert torch.equal(network(x), bicubic_base(x, scale))


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_base_is_pillows_bicubic_within_one_level(scale: int) -> None:
    # Pillow clips between its two passes: levels that can't overshoot compare the kernel alone.
    levels = np.random.default_rng(0).integers(90, 166, (13, 17, 3), dtype=np.uint8)
    ours = to_levels(bicubic_base(to_nchw(levels), scale), np.dtype(np.uint8))[0]
    size = (17 * scale, 13 * scale)
    theirs = PillowImage.fromarray(levels).resize(size, PillowImage.Resampling.BICUBIC)
    assert np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).max() <= 1


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    scale=st.integers(2, 4),
    channels=st.sampled_from([1, 3]),
)
def test_the_base_is_torchs_bicubic_at_any_size(
    height: int, width: int, scale: int, channels: int
) -> None:
    x = picture(height, width).double()[:, :channels]
    theirs = torch.nn.functional.interpolate(x, scale_factor=scale, mode="bicubic", antialias=True)
    torch.testing.assert_close(bicubic_base(x, scale), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 5, 11, 40])
def test_the_bands_of_a_base_are_the_base(scale: int, rows: int) -> None:
    x = picture(11, 6).double()
    bands = list(bicubic_bands(x, scale, rows))
    assert [band.shape[2] for band in bands[:-1]] == [scale * rows] * (len(bands) - 1)
    torch.testing.assert_close(torch.cat(bands, 2), bicubic_base(x, scale), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("scale", "unshuffle"), [(1, 1), (1, 4), (2, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("height", [3, 8, 13])
def test_the_bands_of_a_residual_are_the_residual(scale: int, unshuffle: int, height: int) -> None:
    network = network_of(scale=scale, unshuffle=unshuffle)
    x = picture(height, 7)
    bands = list(network.residual_bands(x, 4))
    assert [band.shape[2] for band in bands[:-1]] == [4 * scale] * (len(bands) - 1)
    assert torch.equal(torch.cat(bands, 2), network.residual(x))


def test_bands_that_cut_a_pixel_of_the_body_are_refused() -> None:
    with pytest.raises(ValueError, match="rows is 3, expected a multiple of 2"):
        next(network_of(scale=1, unshuffle=2).residual_bands(picture(8, 8), 3))


def test_the_base_is_computed_in_float32_under_autocast() -> None:
    x = picture(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = bicubic_base(x, 2)
    assert torch.equal(found, bicubic_base(x, 2))


@pytest.mark.parametrize(("scale", "unshuffle"), [(2, 1), (3, 1), (1, 2), (4, 1)])
def test_the_residual_is_the_tails_pixel_shuffle(scale: int, unshuffle: int) -> None:
    network, x = network_of(scale=scale, unshuffle=unshuffle), picture(8, 12)
    features = network.head(torch.nn.functional.pixel_unshuffle(x, unshuffle))
    shuffled = torch.nn.functional.pixel_shuffle(network.tail(features), scale * unshuffle)
    torch.testing.assert_close(network.residual(x, num_blocks=0), shuffled)


def test_strength_scales_the_residual() -> None:
    network, x = network_of(), picture(8, 8)
    base = bicubic_base(x, 2)
    assert torch.equal(network(x, strength=0), base)
    whole = network(x) - base
    assert whole.abs().max() > 0.01
    for strength in (-1.0, 0.5, 2.0):
        torch.testing.assert_close(network(x, strength=strength), base + strength * whole)


def test_the_picture_after_k_blocks_is_that_of_a_network_of_k_blocks() -> None:
    network, x = network_of(num_blocks=3), picture(8, 8)
    shorter = ResidualNetwork(NetworkConfig(num_blocks=1, channels=16))
    kept = {n: v for n, v in network.state_dict().items() if n in shorter.state_dict()}
    shorter.load_state_dict(kept)
    torch.testing.assert_close(network(x, num_blocks=1), shorter(x))
    assert torch.equal(network(x, num_blocks=3), network(x))
    assert not torch.allclose(network(x, num_blocks=0), network(x, num_blocks=1))


def test_more_blocks_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="num_blocks is 3, expected 0 to 2"):
        network_of()(picture(4, 4), num_blocks=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scale", "unshuffle", "expansion"), [(2, 1, 2), (1, 2, 1), (4, 1, 3)])
def test_the_folded_network_is_the_same_function(
    kind: str, scale: int, unshuffle: int, expansion: int
) -> None:
    network = network_of(kind=kind, scale=scale, unshuffle=unshuffle, expansion=expansion)
    folded = fold(network)
    assert folded.config.folded
    assert folded.num_parameters < network.num_parameters
    x = picture(10, 12)
    torch.testing.assert_close(folded(x), network(x), rtol=0, atol=1e-4)


def test_the_training_kernel_is_the_sum_of_its_branches() -> None:
    layer = network_of(expansion=2).blocks[0].first
    x = torch.rand(1, 16, 9, 9)
    direct = torch.nn.functional.conv2d(x, layer.direct, layer.bias, padding=1)
    wide = torch.nn.functional.conv2d(x, layer.expand[:, :, None, None])
    branch = torch.nn.functional.conv2d(wide, layer.project, padding=1)
    torch.testing.assert_close(layer(x), direct + branch)


@pytest.mark.parametrize(("scale", "unshuffle"), [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (1, 4)])
def test_the_halo_is_the_receptive_field(scale: int, unshuffle: int) -> None:
    network = network_of(num_blocks=1, scale=scale, unshuffle=unshuffle).double()
    # Without ReLU every path is open, and the gradient shows the whole field.
    relu = torch.nn.functional.relu
    torch.nn.functional.relu = lambda x, **_: x
    try:
        x = picture(49, 49).double().requires_grad_()
        network(x)[0, :, scale * 24 : scale * 25, scale * 24 : scale * 25].sum().backward()
    finally:
        torch.nn.functional.relu = relu
    assert x.grad is not None
    rows, columns = torch.nonzero(x.grad[0].abs().sum(0), as_tuple=True)
    reach = max(24 - int(rows.min()), int(rows.max()) - 24, 24 - int(columns.min()))
    halo = network.config.halo_px
    assert reach <= halo + unshuffle - 1
    assert halo - reach < 2 * unshuffle


@given(height=st.integers(1, 9), width=st.integers(1, 9), unshuffle=st.sampled_from([1, 2, 4]))
def test_any_size_from_one_pixel_goes_through(height: int, width: int, unshuffle: int) -> None:
    network = ResidualNetwork(
        NetworkConfig(scale=1, num_blocks=1, channels=16, unshuffle=unshuffle)
    )
    x = picture(height, width)
    assert torch.equal(network(x), x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": 5}, "scale is 5, expected a whole number from 1 to 4"),
        ({"num_blocks": 0}, "num_blocks is 0"),
        ({"channels": 48.0}, "channels is 48.0"),
        ({"kind": "dense"}, "kind is 'dense', expected one of residual"),
        ({"unshuffle": 3}, "unshuffle is 3, expected 1, 2 or 4"),
    ],
)
def test_a_bad_configuration_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(**fields)  # pyright: ignore[reportArgumentType]


def test_multiply_adds_are_counted_for_an_output_pixel() -> None:
    found = ResidualNetwork(NetworkConfig(scale=2, num_blocks=3, channels=16, expansion=2))
    kernels = 9 * (3 * 16 + 3 * 2 * 16 * 16 + 16 * 12)
    assert found.macs_per_output_pixel == kernels / 4
    assert fold(found).macs_per_output_pixel == kernels / 4
    same = ResidualNetwork(NetworkConfig(scale=1, num_blocks=1, channels=16, unshuffle=2))
    assert same.macs_per_output_pixel == 9 * (12 * 16 + 2 * 16 * 16 + 16 * 12) / 4
