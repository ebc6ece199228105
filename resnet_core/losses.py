"""Training losses: float NCHW pictures in, a scalar out.

Legend: `output` and `target` are float tensors NCHW of equal shape, nominally 0..1, on one device.
Each loss averages over all elements, so that a value doesn't depend on batch or patch size.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error: sharper than the squared one (Zhao et al. 2016, arXiv:1511.08861)."""
    _check_shapes(output, target)
    return (output - target).abs().mean()


def charbonnier(output: Tensor, target: Tensor, *, eps: float = 1e-3) -> Tensor:
    """Mean of sqrt(d^2 + eps^2), an L1 that is smooth at zero (LapSRN, arXiv:1704.03915, eq. 6).

    `eps` is in units of the pixels (1e-3 of white); equal pictures give `eps`, not zero.
    """
    _check_shapes(output, target)
    return ((output - target).square() + eps * eps).sqrt().mean()


def fft(output: Tensor, target: Tensor) -> Tensor:
    """Mean amplitude of the difference's spectrum (`rfft2`; MIMO-UNet, arXiv:2108.05054, eq. 5).

    Orthonormal transform, so that the value is of the size of `l1`. Computed in float32, because
    half precision has no FFT on every device.
    """
    _check_shapes(output, target)
    difference = output.float() - target.float()
    return torch.fft.rfft2(difference, norm="ortho").abs().mean()


LOSSES: Final[dict[str, Loss]] = {"l1": l1, "charbonnier": charbonnier, "fft": fft}


def _check_shapes(output: Tensor, target: Tensor) -> None:
    if output.shape != target.shape:
        raise ValueError(
            f"output {tuple(output.shape)} and target {tuple(target.shape)} differ in shape"
        )
