"""New kernels for features inside the blocks that have died.

Where the input of a ReLU is below zero at nearly every pixel, next to no gradient comes through,
and nothing brings the feature back. Muon's steps are as long for small gradients as for large ones,
so that kernels wander: after some 20,000 steps at a rate of 1e-3 a third of a network's features
can be dead. Each gets a new kernel that nothing reads yet, so that the function stays, nearly: ReDo
(Sokar et al. 2023, arXiv:2302.12902, alg. 1), which finds them by their activations; here it is by
their gradients, which all workers have alike.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

REVIVE_EVERY_STEPS = 500
DEAD_SHARE = 0.01
"""Of the mean gradient of all features in blocks, averaged over about twenty steps."""


def dead_features(gradients: Sequence[Tensor]) -> Tensor:
    """Which features inside the blocks are dead: bool (blocks, channels).

    gradients: for each block those of its second convolution's kernel, float (O, channels, 3, 3).
    """
    sizes = torch.stack([torch.linalg.vector_norm(each, dim=(0, 2, 3)) for each in gradients])
    return sizes < DEAD_SHARE * sizes.mean()


def new_kernels(kernel: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Kernels by chance for so many features, as large as those of `kernel`: (count, I, 3, 3).

    Each sums to zero over its nine places, so that it fires at about half the pixels, whatever the
    mean of what it reads.
    """
    new = torch.randn(count, *kernel.shape[1:], generator=generator)
    new -= new.mean((2, 3), keepdim=True)
    new /= torch.linalg.vector_norm(new, dim=(1, 2, 3), keepdim=True)
    return new.to(kernel.device) * torch.linalg.vector_norm(kernel, dim=(1, 2, 3)).median()


def renew(
    tensors: Mapping[str, Tensor],
    block: int,
    features: Tensor,
    value: Callable[[Tensor], Tensor | float] = lambda _: 0.0,
) -> None:
    """Puts `value` of the tensor in the place of all that belongs to features of a block, in place.

    tensors: a network's parameters by name, or what an optimiser keeps for some of them; features:
    bool (channels,).
    """
    first, second = f"blocks.{block}.first", f"blocks.{block}.second"
    for part in ("direct", "bias", "project"):
        if (tensor := tensors.get(f"{first}.{part}")) is not None:
            tensor[features] = value(tensor)
    for part in ("direct", "expand"):
        if (tensor := tensors.get(f"{second}.{part}")) is not None:
            tensor[:, features] = value(tensor)
