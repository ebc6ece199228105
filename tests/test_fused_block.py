"""The fused block is the block written out: result and gradients, in both dtypes and layouts."""

import platform

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from resnet_core.fused_block import _dtypes, can_fuse, residual_block  # pyright: ignore[reportPrivateUsage]
from resnet_core.network import NetworkConfig, ResidualNetwork

CHANNELS = 16
DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2}


def written_out(x: Tensor, first: Tensor, a: Tensor, second: Tensor, b: Tensor) -> Tensor:
    inner = functional.relu(functional.conv2d(x, first, a, padding=1))
    return x + functional.conv2d(inner, second, b, padding=1)


def parts() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, CHANNELS, 9, 13), *[(CHANNELS, CHANNELS, 3, 3), (CHANNELS,)] * 2]
    return tuple(torch.randn(shape, generator=generator) * 0.1 for shape in shapes)


def require_fused(x: Tensor) -> None:
    """It may be missing where torch comes without oneDNN, or the CPU has no bfloat16."""
    if can_fuse(x):
        return
    has_dtype = x.dtype == torch.float32 or torch.cpu.get_capabilities().get("avx512_bf16")
    assert platform.machine() != "x86_64" or not has_dtype, "blocks would take twice the time"
    pytest.skip(f"this torch has no fused convolutions in {x.dtype} on this machine")


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_result_and_gradients(dtype: torch.dtype, layout: torch.memory_format) -> None:
    x, *weights = parts()
    exact = [part.double().requires_grad_() for part in (x, *weights)]
    wanted = written_out(*exact)  # pyright: ignore[reportArgumentType]
    wanted.square().sum().backward()
    x = x.to(dtype, memory_format=layout).requires_grad_()
    require_fused(x)
    ours = [x, *(weight.requires_grad_() for weight in weights)]
    found = residual_block(*ours)  # pyright: ignore[reportArgumentType]
    found.float().square().sum().backward()
    assert found.dtype == dtype
    assert apart(found, wanted.detach()) < TOLERANCE[dtype]
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert mine.grad.dtype == mine.dtype
        assert apart(mine.grad, theirs.grad) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("overwrite", [False, True])
def test_without_gradients(
    dtype: torch.dtype, layout: torch.memory_format, overwrite: bool
) -> None:
    x, *weights = parts()
    wanted = written_out(x.double(), *(weight.double() for weight in weights))
    x = x.to(dtype, memory_format=layout)
    require_fused(x)
    before = x.clone()
    with torch.inference_mode():
        found = residual_block(x, *weights, overwrite=overwrite)  # pyright: ignore[reportArgumentType]
    assert (found.data_ptr() == x.data_ptr()) == overwrite
    assert overwrite or torch.equal(x, before)
    assert apart(found, wanted) < TOLERANCE[dtype]


@pytest.mark.parametrize("expansion", [0, 2])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_network_is_the_same_with_and_without(
    monkeypatch: pytest.MonkeyPatch, expansion: int, autocast: bool
) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(num_blocks=2, channels=CHANNELS, expansion=expansion)
    network = ResidualNetwork(config)
    torch.nn.init.normal_(network.tail.direct, std=0.1)
    x = torch.rand(2, 3, 9, 7)
    found: list[list[Tensor]] = []
    for fuse in (True, False):
        if not fuse:
            monkeypatch.setattr("resnet_core.network.can_fuse", lambda _: False)
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            residual = network.residual(x)
        residual.float().square().sum().backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            again = network.residual(x)
        found.append([residual.detach(), again, *(g for g in gradients if g is not None)])
    tolerance = 5e-2 if autocast else 1e-5
    for fused, plain in zip(*found, strict=True):
        assert apart(fused, plain.double()) < tolerance


def test_a_frozen_block_lets_gradients_through() -> None:
    x, *weights = parts()
    require_fused(x)
    x.requires_grad_()
    residual_block(x, *weights).sum().backward()  # pyright: ignore[reportArgumentType]
    assert x.grad is not None
    assert all(weight.grad is None for weight in weights)


def test_what_is_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_fuse(torch.zeros(1, CHANNELS, 2, 2, dtype=torch.float64))
    assert not can_fuse(torch.zeros(1, CHANNELS, 2, 2, device="meta"))
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not can_fuse(torch.zeros(1, CHANNELS, 2, 2))


def test_operators_that_changed_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(*_: object) -> Tensor:
        raise TypeError("expected 14 arguments")

    monkeypatch.setattr("resnet_core.fused_block._convolve_relu", changed)
    _dtypes.cache_clear()
    try:
        assert not can_fuse(torch.zeros(1, CHANNELS, 2, 2))
    finally:
        _dtypes.cache_clear()
