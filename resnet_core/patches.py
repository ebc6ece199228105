"""Training examples: patches of photographs, cut once, and the batches drawn from them.

Photographs are uint8 HWC RGB. Patches are uint8 (P, P, 3). Batches are float32 NCHW, 0..1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor

from resnet_core.chance import Use, generator
from resnet_core.degradation import Degradation, degrade
from resnet_core.levels import Levels
from resnet_core.pixels import to_nchw

PatchGroup = Levels | list[Levels]
"""Patches, uint8 (P, P, 3) each: one array of them, or a list."""

SIZES = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Each photograph is used at these fractions of its size: more scales of texture. Small pictures
that want to be enlarged are as sharp as a camera's photograph at a quarter of its size."""
OVERLAPPED_SIZE = 0.5
"""At this size and below the patches overlap by half: there are few of them."""


def cut_patches(photograph: Levels, *, patch_px: int, keep_share: float = 0.5) -> Levels:
    """The patches of a photograph that have the most texture, at several sizes.

    photograph: uint8 HWC RGB. Returns uint8 (N, patch_px, patch_px, 3), N >= 0: a regular grid at
    each size of `SIZES`, of which the `keep_share` with the largest mean gradient stay. From
    `OVERLAPPED_SIZE` down the patches overlap by half. Flat sky teaches nothing: a patch of it has
    no residual.
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
        stride_px = -(-patch_px // 2) if size <= OVERLAPPED_SIZE else patch_px
        found += _grid(np.asarray(smaller), patch_px, stride_px)
    found.sort(key=mean_gradient, reverse=True)
    kept = found[: max(1, round(keep_share * len(found)))]
    return np.stack(kept) if kept else np.empty((0, patch_px, patch_px, 3), np.uint8)


def mean_gradient(patch: Levels) -> float:
    """Mean absolute difference of neighbouring pixels, in levels: how much texture there is."""
    gray = patch.mean(axis=-1)
    return float(np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean())


STEPS_A_GROUP = 32
"""For so many steps an index of the batch draws from one group: it is read once for them all."""


@dataclass(frozen=True, kw_only=True)
class PatchSampler:
    """Draws batches from patches that lie in groups.

    Every example depends on the seed and its place (step, index in the batch) alone, not on who
    asks for it: any number of workers sees the same examples, and a resumed run those of an
    undisturbed one. The places go through the groups epoch by epoch, each time in another order,
    and come to a group the more often the more patches it has: all patches are alike likely.
    Raises ValueError if there are no groups, or if targets don't fit in their patches.
    """

    groups: Sequence[PatchGroup]
    """N >= 1 patches each; may be read only when it is asked for."""
    sizes: Sequence[int]
    """N of each group."""
    patch_px: int
    """P, the side of every patch."""
    degradation: Degradation
    """What makes an input of a target."""
    input_px: int
    """Side of a network input; the target's is `scale` times that and fits in a patch."""
    batch_size: int
    """Examples in a step, over all workers."""
    seed: int
    """From 0 up."""

    def __post_init__(self) -> None:
        if len(self.sizes) == 0:
            raise ValueError("no patches to draw from")
        if self.target_px > self.patch_px:
            raise ValueError(
                f"targets of {self.target_px} px don't fit in patches of {self.patch_px} px"
            )

    @property
    def target_px(self) -> int:
        """Side of a target, pixels."""
        return self.input_px * self.degradation.scale

    def group_of(self, step: int, index: int) -> int:
        """The group that an example comes from: a largest one once in each epoch.

        The groups of an epoch lie around a circle, each as long as it has patches, and its places
        at equal distances, at most those of a largest group.
        """
        sizes = self._sizes
        patches, places = int(sizes.sum()), -(-int(sizes.sum()) // int(sizes.max()))
        place = step // STEPS_A_GROUP * self.batch_size + index
        epoch, position = divmod(place, places)
        order, turn = _order(self.seed, epoch, len(sizes), patches)
        at = (position * patches // places + turn) % patches
        return int(order[np.searchsorted(sizes[order].cumsum(), at, side="right")])

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        return np.asarray(self.sizes, np.int64)

    def patch_of(self, step: int, index: int, num_patches: int) -> int:
        """The patch in a group of so many: each once before one comes again."""
        order = _patch_order(self.seed, step // STEPS_A_GROUP, index, num_patches)
        return int(order[step % STEPS_A_GROUP % num_patches])

    def example(self, step: int, index: int, patch: Levels) -> tuple[Levels, Levels]:
        """Input and target of one example from its patch, uint8 HWC: cropped, turned, degraded."""
        rng = generator(Use.EXAMPLE, self.seed, step, index)
        side = self.target_px
        top, left = rng.integers(0, self.patch_px - side + 1, size=2)
        target = np.rot90(patch[top : top + side, left : left + side], int(rng.integers(4)))
        if rng.integers(2):
            target = target[:, ::-1]
        target = np.ascontiguousarray(target)
        return degrade(target, self.degradation, rng), target

    def shares(self, steps: range, indexes: range) -> tuple[Levels, Levels]:
        """Inputs and targets of some indexes in some steps: uint8 (steps, indexes, side, side, 3).

        The steps lie between two multiples of STEPS_A_GROUP, so that each index has one group.
        """
        examples: list[list[tuple[Levels, Levels]]] = [[] for _ in steps]
        for index in indexes:
            group = self.groups[self.group_of(steps[0], index)]
            for step, share in zip(steps, examples, strict=True):
                patch = group[self.patch_of(step, index, len(group))]
                share.append(self.example(step, index, patch))
        inputs = np.array([[worn for worn, _ in share] for share in examples])
        targets = np.array([[target for _, target in share] for share in examples])
        return inputs, targets

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a worker's share of a step: float32 NCHW, 0..1, on the CPU."""
        indexes = range(rank, self.batch_size, world_size)
        inputs, targets = self.shares(range(step, step + 1), indexes)
        return to_nchw(inputs[0]), to_nchw(targets[0])


@lru_cache(maxsize=4)
def _patch_order(seed: int, begun: int, index: int, num_patches: int) -> NDArray[np.int64]:
    """Of the patches in the group that an index has for STEPS_A_GROUP steps."""
    return generator(Use.PATCH, seed, begun, index, num_patches).permutation(num_patches)


@lru_cache(maxsize=4)
def _order(
    seed: int, epoch: int, num_groups: int, num_patches: int
) -> tuple[NDArray[np.int64], int]:
    """Of the groups around an epoch's circle, and where on it the first place lies."""
    rng = generator(Use.ORDER, seed, epoch)
    return rng.permutation(num_groups), int(rng.integers(num_patches))


def _grid(photograph: Levels, patch_px: int, stride_px: int) -> Iterator[Levels]:
    height, width = photograph.shape[:2]
    for top in range(0, height - patch_px + 1, stride_px):
        for left in range(0, width - patch_px + 1, stride_px):
            yield photograph[top : top + patch_px, left : left + patch_px]
