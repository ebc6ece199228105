"""Muon's steps: orthogonal, of one size, and downhill."""

import pytest
import torch
from torch import nn

from resnet_core.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(32, 288), (64, 32), (16, 16)])
def test_singular_values_come_near_to_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    matrices = torch.randn(3, *shape, generator=generator)
    found = torch.linalg.svdvals(orthogonal(matrices))
    assert found.min() > 0.3
    assert found.max() < 1.3
    ours, theirs = orthogonal(matrices), orthogonal(matrices * 1e-3)
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_directions_are_kept() -> None:
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(8, 20, generator=generator)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    agreement = (left.mT @ orthogonal(matrix[None])[0] @ right.mT).diagonal()
    assert agreement.min() > 0.3


def test_kernels_of_several_shapes_come_to_their_targets() -> None:
    generator = torch.Generator().manual_seed(3)
    targets = [
        torch.randn(*shape, generator=generator)
        for shape in ((4, 3, 3, 3), (4, 3, 3, 3), (6, 4, 1, 1))
    ]
    kernels = [nn.Parameter(torch.zeros_like(target)) for target in targets]
    unused = nn.Parameter(torch.ones(2, 2, 1, 1))
    optimizer = Muon([*kernels, unused], lr=0.1)
    for number in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - number / 300)
        for kernel, target in zip(kernels, targets, strict=True):
            kernel.grad = (kernel - target).detach()
        optimizer.step()
    for kernel, target in zip(kernels, targets, strict=True):
        assert torch.allclose(kernel, target, atol=0.05)
    assert torch.equal(unused, torch.ones(2, 2, 1, 1))


@pytest.mark.parametrize("shape", [(32, 16, 3, 3), (64, 8, 1, 1), (8, 64, 1, 1)])
def test_a_step_has_the_size_of_adams(shape: tuple[int, ...]) -> None:
    kernel = nn.Parameter(torch.zeros(shape))
    kernel.grad = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    Muon([kernel], lr=0.1).step()
    root_mean_square = float(kernel.detach().square().mean().sqrt())
    assert root_mean_square == pytest.approx(0.2 * 0.1, rel=0.4)


def test_bfloat16_is_enough() -> None:
    matrices = torch.randn(3, 16, 144, generator=torch.Generator().manual_seed(5))
    exact = orthogonal(matrices)
    found = orthogonal(matrices.bfloat16()).float()
    assert float((found - exact).norm() / exact.norm()) < 0.03
