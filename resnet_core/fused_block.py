"""A residual block on a CPU, its ReLU and its sum computed inside its convolutions.

A pass of its own over the features, which don't fit in a core's cache, takes about as long as a
convolution does. oneDNN can finish each value while it still is in a register ("post-ops"):
https://uxlfoundation.github.io/oneDNN/dev_guide_attributes_post_ops.html. Torch has these operators
for its compiler; they need none.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_SAME = [1, 1]
"""Padding, stride and dilation of a 3x3 convolution that keeps the size."""


def can_fuse(x: Tensor) -> bool:
    """Whether `residual_block` takes such features."""
    if torch.compiler.is_compiling() or not x.is_cpu or not torch.backends.mkldnn.enabled:
        return False
    return x.dtype in _dtypes()


def residual_block(
    x: Tensor,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    *,
    overwrite: bool = False,
) -> Tensor:
    """`x + conv(relu(conv(x)))`: float (N, C, H, W) -> the same shape and dtype.

    Kernels (C, C, 3, 3) and biases (C,) may be of another dtype. `overwrite`: the result takes the
    place of `x`, of which no gradient is asked for. What is no number before the ReLU is 0 behind
    it.
    """
    parts = [part.to(x.dtype) for part in (first, first_bias, second, second_bias)]
    if not overwrite:
        return _Trained.apply(x, *parts)  # pyright: ignore[reportReturnType]
    first, first_bias, second, second_bias = parts
    inner = _convolve_relu(x, first, first_bias)
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        x, inner, second, second_bias, _SAME, _SAME, _SAME, 1, "add", 1.0, None, [], None
    )


class _Trained(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor
    ) -> Tensor:
        inner = _convolve_relu(x, first, first_bias)
        ctx.save_for_backward(x, inner, first, second)
        return _convolve_add(inner, x, second, second_bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, inner, first, second = ctx.saved_tensors
        grad_inner, *of_second = _backward(grad, inner, second, to_input=True)
        grad_inner = torch.ops.aten.threshold_backward(grad_inner, inner, 0)
        _, *of_first = _backward(grad_inner, x, first, to_input=False)
        mirrored = first.flip(2, 3).transpose(0, 1)
        return _convolve_add(grad_inner, grad, mirrored, None), *of_first, *of_second


def _convolve_relu(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001
        x, kernel, bias, _SAME, _SAME, _SAME, 1, "relu", [], ""
    )


def _convolve_add(x: Tensor, other: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise.binary(  # noqa: SLF001
        x, other, kernel, bias, _SAME, _SAME, _SAME, 1, "add", 1.0, None, [], None
    )


def _backward(
    grad: Tensor, x: Tensor, kernel: Tensor, *, to_input: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of a convolution's input, kernel and bias."""
    return torch.ops.aten.convolution_backward(
        *(grad, x, kernel, [len(kernel)]),
        *(_SAME, _SAME, _SAME, False, [0, 0], 1, [to_input, True, True]),
    )


@cache
def _dtypes() -> frozenset[torch.dtype]:
    """In which this torch on this machine has the operators: they are its own, and may change."""
    return frozenset(dtype for dtype in (torch.float32, torch.bfloat16) if _is_right(dtype))


def _is_right(dtype: torch.dtype) -> bool:
    channels = 16
    generator = torch.Generator().manual_seed(0)
    x, first, second = (
        (0.1 * torch.randn(shape, generator=generator)).to(dtype)
        for shape in [(1, channels, 4, 4), *[(channels, channels, 3, 3)] * 2]
    )
    bias = torch.zeros(channels, dtype=dtype)
    inner = functional.relu(functional.conv2d(x.float(), first.float(), padding=1))
    expected = x.float() + functional.conv2d(inner, second.float(), padding=1)
    try:
        with torch.inference_mode():
            found = [
                residual_block(x.clone(), first, bias, second, bias, overwrite=overwrite)
                for overwrite in (False, True)
            ]
    except Exception:  # noqa: BLE001  whatever is wrong with them, torch can do without
        return False
    return all(torch.allclose(each.float(), expected, atol=1e-2, rtol=0) for each in found)
