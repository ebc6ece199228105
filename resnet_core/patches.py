"""Training examples: patches of photographs, cut once, and the batches drawn from them.

Photographs are uint8 HWC RGB. Patches are uint8 (N, P, P, 3). Batches are float32 NCHW, 0..1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor

from resnet_core.degradation import Degradation, degrade
from resnet_core.pixels import to_nchw

Levels = NDArray[np.uint8]

SIZES = (1.0, 0.75, 0.5)
"""Each photograph is used at these fractions of its size: more scales of texture."""


def cut_patches(photograph: Levels, *, patch_px: int, keep_share: float = 0.6) -> Levels:
    """The patches of a photograph that have the most texture, at several sizes.

    photograph: uint8 HWC RGB. Returns uint8 (N, patch_px, patch_px, 3), N >= 0: a regular grid at
    each size of `SIZES`, of which the `keep_share` with the largest mean gradient stay. Flat sky
    teaches nothing: a patch of it has no residual.
    """
    found: list[Levels] = []
    picture = PillowImage.fromarray(photograph)
    for size in SIZES:
        width, height = round(picture.width * size), round(picture.height * size)
        if min(width, height) < patch_px:
            continue
        smaller = (
            picture
            if size == 1
            else picture.resize((width, height), PillowImage.Resampling.BICUBIC)
        )
        found += _grid(np.asarray(smaller), patch_px)
    found.sort(key=mean_gradient, reverse=True)
    kept = found[: max(1, round(keep_share * len(found)))]
    return np.stack(kept) if kept else np.empty((0, patch_px, patch_px, 3), np.uint8)


def mean_gradient(patch: Levels) -> float:
    """Mean absolute difference of neighbouring pixels, in levels: how much texture there is."""
    gray = patch.mean(axis=-1)
    return float(np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean())


@dataclass(frozen=True, kw_only=True)
class PatchSampler:
    """Draws batches; every example depends on (seed, step, index) alone, not on who asks for it.

    So any number of workers sees the same examples, and a resumed run those of an undisturbed one.
    Raises ValueError if there are no patches, or if targets don't fit in them.
    """

    patches: Levels
    """uint8 (N, P, P, 3); may be memory-mapped."""
    degradation: Degradation
    """What makes an input of a target."""
    input_px: int
    """Side of a network input; the target's is `scale` times that and fits in a patch."""
    batch_size: int
    """Examples in a step, over all workers."""
    seed: int
    """From 0 up."""

    def __post_init__(self) -> None:
        target_px = self.input_px * self.degradation.scale
        if len(self.patches) == 0:
            raise ValueError("no patches to draw from")
        if target_px > self.patches.shape[1]:
            raise ValueError(
                f"targets of {target_px} px don't fit in patches of {self.patches.shape[1]} px"
            )

    def example(self, step: int, index: int) -> tuple[Levels, Levels]:
        """Input and target of one example, uint8 HWC."""
        rng = np.random.default_rng((self.seed, step, index))
        patch = self.patches[rng.integers(len(self.patches))]
        side = self.input_px * self.degradation.scale
        top, left = rng.integers(0, patch.shape[0] - side + 1, size=2)
        target = np.rot90(patch[top : top + side, left : left + side], int(rng.integers(4)))
        if rng.integers(2):
            target = target[:, ::-1]
        target = np.ascontiguousarray(target)
        return degrade(target, self.degradation, rng), target

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a worker's share of a step: float32 NCHW, 0..1, on the CPU."""
        pairs = [self.example(step, index) for index in range(rank, self.batch_size, world_size)]
        inputs, targets = zip(*pairs, strict=True)
        return to_nchw(np.stack(inputs)), to_nchw(np.stack(targets))


def _grid(photograph: Levels, patch_px: int) -> Iterator[Levels]:
    height, width = photograph.shape[:2]
    for top in range(0, height - patch_px + 1, patch_px):
        for left in range(0, width - patch_px + 1, patch_px):
            yield photograph[top : top + patch_px, left : left + patch_px]
