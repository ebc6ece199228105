"""Muon: gradient descent with a momentum whose step is made orthogonal."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For kernels (O, I, H, W) and matrices (O, I), each taken as a matrix of O rows.

    Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); steps have the size of Adam's,
    so that both can share a learning rate (Liu et al. 2025, arXiv:2502.16982, eq. 4), times
    `relative_step`. `dtype`: of the products of matrices; bfloat16 is enough, as the source says.
    """

    def __init__(
        self,
        kernels: Iterable[nn.Parameter],
        *,
        lr: float,
        relative_step: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(kernels, {"lr": lr})
        self._size = 0.2 * relative_step
        self._dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step, by the gradients that are there."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for kernel in group["params"]:
                if kernel.grad is not None:
                    alike[kernel.shape].append(kernel)
            for shape, kernels in alike.items():
                steps = torch.stack([self._momentum(kernel).flatten(1) for kernel in kernels])
                size = self._size * max(steps.shape[1:]) ** 0.5
                steps = orthogonal(steps.to(self._dtype))
                for kernel, step in zip(kernels, steps, strict=True):
                    kernel.sub_(step.view(shape), alpha=group["lr"] * size)

    def _momentum(self, kernel: nn.Parameter) -> Tensor:
        """Nesterov's, of a kernel's gradient."""
        assert kernel.grad is not None
        state = self.state[kernel]
        if not state:
            state["momentum"] = torch.zeros_like(kernel)
        momentum: Tensor = state["momentum"].lerp_(kernel.grad, 1 - MOMENTUM)
        return kernel.grad.lerp(momentum, MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values come to about 0.7 to 1.2.

    matrices: float (N, R, C). A quintic Newton-Schulz iteration, without a decomposition.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
