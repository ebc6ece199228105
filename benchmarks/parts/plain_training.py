"""The rival in training: a loop in PyTorch alone, with its batches in memory.

Size of the network, L1, batches and precision are those of the recipe `sr-x2`. It does less in a
step: torch's Adam, which takes less time than Muon, no clipping of gradients, no averaged weights.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from resnet_core.precision import compute_dtype
from resnet_core.training import TrainingRecipe

RGB = 3


class PlainBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu(self.first(x)))


class PlainNetwork(nn.Module):
    def __init__(self, scale: int, num_blocks: int, channels: int) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Conv2d(RGB, channels, 3, padding=1)
        self.body = nn.Sequential(*(PlainBlock(channels) for _ in range(num_blocks)))
        self.tail = nn.Conv2d(channels, RGB * scale**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        base = functional.interpolate(x, scale_factor=self.scale, mode="bicubic", antialias=True)
        return base + functional.pixel_shuffle(self.tail(self.body(self.head(x))), self.scale)


def plain_step(recipe: TrainingRecipe) -> Callable[[Tensor, Tensor], float]:
    """A step on a batch, float32 NCHW, 0..1; gives its loss."""
    shape = recipe.network
    network = PlainNetwork(shape.scale, shape.num_blocks, shape.channels)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    dtype = compute_dtype(recipe.precision, torch.device("cpu"))

    def step(inputs: Tensor, targets: Tensor) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = network(inputs.to(memory_format=torch.channels_last))
        loss = functional.l1_loss(output.float(), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
