"""Patches: texture first; examples depend on (seed, step, index) alone; pairs are turned alike."""

import numpy as np
import pytest
import torch
from photographs_for_tests import make_photograph

from resnet_core.degradation import degrade
from resnet_core.patches import PatchSampler, cut_patches, mean_gradient
from resnet_core.standard_degradations import bicubic


def sampler(**fields: object) -> PatchSampler:
    values = {
        "patches": cut_patches(make_photograph(200, 260), patch_px=64),
        "degradation": bicubic(2),
        "input_px": 12,
        "batch_size": 6,
        "seed": 3,
    }
    return PatchSampler(**(values | fields))  # pyright: ignore[reportArgumentType]


def test_patches_are_the_most_textured_of_every_size() -> None:
    flat = np.full((128, 128, 3), 90, np.uint8)
    photograph = np.concatenate([flat, make_photograph(128, 128)], axis=1)
    patches = cut_patches(photograph, patch_px=64, keep_share=0.5)
    # 2x4 at full size, 1x3 at three quarters, 1x2 at half: half of thirteen.
    assert patches.shape == (6, 64, 64, 3)
    assert patches.dtype == np.uint8
    assert min(mean_gradient(patch) for patch in patches) > mean_gradient(flat)


def test_a_photograph_that_is_too_small_gives_none() -> None:
    assert cut_patches(make_photograph(40, 90), patch_px=64).shape == (0, 64, 64, 3)


def test_input_is_the_degraded_target() -> None:
    worn, target = sampler().example(0, 0)
    assert target.shape == (24, 24, 3)
    assert np.array_equal(worn, degrade(target, bicubic(2), np.random.default_rng(0)))


def test_an_example_depends_on_seed_step_and_index_alone() -> None:
    first = sampler().example(5, 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, sampler().example(5, 2), strict=True))
    for other in (sampler().example(5, 3), sampler().example(6, 2), sampler(seed=4).example(5, 2)):
        assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_any_number_of_workers_sees_the_same_examples(world_size: int) -> None:
    whole = sampler().batch(7)[1]
    shares = [sampler().batch(7, rank=r, world_size=world_size)[1] for r in range(world_size)]
    together = torch.stack([shares[i % world_size][i // world_size] for i in range(6)])
    assert torch.equal(whole, together)


def test_examples_are_turned_and_mirrored() -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (64, 64, 3))[None]
    drawn = sampler(patches=ramp)
    directions = set()
    for index in range(60):
        target = drawn.example(0, index)[1].astype(int)
        directions.add((int(np.sign(target[0, 1, 0] - target[0, 0, 0])), 0))
        directions.add((0, int(np.sign(target[1, 0, 0] - target[0, 0, 0]))))
    assert directions == {(1, 0), (-1, 0), (0, 1), (0, -1), (0, 0)}


def test_targets_must_fit_in_patches() -> None:
    with pytest.raises(ValueError, match="targets of 80 px don't fit in patches of 64 px"):
        sampler(input_px=40)
    with pytest.raises(ValueError, match="no patches to draw from"):
        sampler(patches=np.empty((0, 64, 64, 3), np.uint8))
