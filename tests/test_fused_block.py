"""The fused block is the block written out: result and gradients, in both dtypes and layouts."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from resnet_core.fused_block import can_fuse, residual_block

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


def skip_unless_fused(x: Tensor) -> None:
    if not can_fuse(x):
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
    skip_unless_fused(x)
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
def test_without_gradients_the_result_takes_the_inputs_place(dtype: torch.dtype) -> None:
    x, *weights = parts()
    wanted = written_out(x.double(), *(weight.double() for weight in weights))
    x = x.to(dtype, memory_format=torch.channels_last)
    skip_unless_fused(x)
    with torch.inference_mode():
        found = residual_block(x, *weights)  # pyright: ignore[reportArgumentType]
    assert found.data_ptr() == x.data_ptr()
    assert apart(found, wanted) < TOLERANCE[dtype]


def test_what_is_not_fused() -> None:
    assert not can_fuse(torch.zeros(1, CHANNELS, 2, 2, dtype=torch.float64))
    assert not can_fuse(torch.zeros(1, CHANNELS, 2, 2, device="meta"))
