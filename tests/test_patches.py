"""Patches: texture first; an example depends on its seed and place alone; pairs turn alike."""

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from photographs_for_tests import make_photograph
from PIL import Image

from resnet_core.chance import Use, generator
from resnet_core.degradation import degrade
from resnet_core.patches import STEPS_A_GROUP, PatchSampler, cut_patches, mean_gradient
from resnet_core.standard_degradations import bicubic

PATCHES = cut_patches(make_photograph(200, 260), patch_px=64)
GROUPS = [PATCHES[:3], PATCHES[3:8], PATCHES[8:9]]


def sampler(**fields: object) -> PatchSampler:
    values: dict[str, Any] = {
        "groups": GROUPS,
        "patch_px": 64,
        "degradation": bicubic(2),
        "input_px": 12,
        "batch_size": 6,
        "seed": 3,
    }
    values |= fields
    values["sizes"] = [len(group) for group in values["groups"]]
    return PatchSampler(**values)  # pyright: ignore[reportArgumentType]


def test_patches_are_the_most_textured_of_every_size() -> None:
    flat = np.full((128, 128, 3), 90, np.uint8)
    photograph = np.concatenate([flat, make_photograph(128, 128)], axis=1)
    patches = cut_patches(photograph, patch_px=64, keep_share=0.5)
    # 2x4 at full size, 1x3 at three quarters, 1x3 at half, where they overlap: half of fourteen.
    assert patches.shape == (7, 64, 64, 3)
    assert patches.dtype == np.uint8
    assert min(mean_gradient(patch) for patch in patches) > mean_gradient(flat)


def test_small_sizes_overlap_by_half() -> None:
    photograph = make_photograph(192, 384)
    patches = cut_patches(photograph, patch_px=48, keep_share=1.0)
    # 4x8 and 3x6; then with 24 px between two 3x7 at a half, 1x4 at 0.35, 1x3 at a quarter.
    assert len(patches) == 32 + 18 + 21 + 4 + 3
    quarter = Image.fromarray(photograph).resize((96, 48), Image.Resampling.BICUBIC)
    at_a_quarter = [np.asarray(quarter)[:, left : left + 48] for left in (0, 24, 48)]
    assert all(any(np.array_equal(each, patch) for patch in patches) for each in at_a_quarter)


def test_a_photograph_that_is_too_small_gives_none() -> None:
    assert cut_patches(make_photograph(40, 90), patch_px=64).shape == (0, 64, 64, 3)


def test_input_is_the_degraded_target() -> None:
    worn, target = sampler().example(0, 0, PATCHES[0])
    assert target.shape == (24, 24, 3)
    assert np.array_equal(worn, degrade(target, bicubic(2), np.random.default_rng(0)))


def test_an_example_depends_on_seed_step_and_index_alone() -> None:
    first = sampler().example(5, 2, PATCHES[0])
    again = sampler().example(5, 2, PATCHES[0])
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other, step, index in ((sampler(), 5, 3), (sampler(), 6, 2), (sampler(seed=4), 5, 2)):
        assert not np.array_equal(first[1], other.example(step, index, PATCHES[0])[1])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6])
def test_any_number_of_workers_sees_the_same_examples(world_size: int) -> None:
    whole = sampler().batch(7)[1]
    shares = [sampler().batch(7, rank=r, world_size=world_size)[1] for r in range(world_size)]
    together = torch.stack([shares[i % world_size][i // world_size] for i in range(6)])
    assert torch.equal(whole, together)


@given(start=st.integers(0, 200), length=st.integers(1, 2 * STEPS_A_GROUP))
def test_steps_together_are_the_steps_alone(start: int, length: int) -> None:
    stop = min(start + length, start // STEPS_A_GROUP * STEPS_A_GROUP + STEPS_A_GROUP)
    targets = sampler().shares(range(start, stop), range(1, 6, 2))[1]
    for step in (start, stop - 1):
        alone = sampler().shares(range(step, step + 1), range(1, 6, 2))[1]
        assert np.array_equal(targets[step - start], alone[0])


@given(num_groups=st.integers(1, 40), batch_size=st.integers(1, 20), seed=st.integers(0, 9))
def test_every_epoch_visits_every_group_once(num_groups: int, batch_size: int, seed: int) -> None:
    one = sampler(groups=[PATCHES] * num_groups, batch_size=batch_size, seed=seed)
    places = product(range(0, 100 * STEPS_A_GROUP, STEPS_A_GROUP), range(batch_size))
    visited = [one.group_of(step, index) for step, index in places]
    whole_epochs = len(visited) // num_groups
    counts = Counter(visited[: whole_epochs * num_groups])
    assert set(counts.values()) <= {whole_epochs}


def visits(one: PatchSampler, places: int) -> Counter[int]:
    """How often each group is come to, in so many places."""
    where = (divmod(place, one.batch_size) for place in range(places))
    return Counter(one.group_of(span * STEPS_A_GROUP, index) for span, index in where)


@given(st.lists(st.integers(1, STEPS_A_GROUP), min_size=1, max_size=12), st.integers(0, 9))
def test_an_epoch_visits_a_group_as_often_as_its_patches_want(sizes: list[int], seed: int) -> None:
    one = sampler(groups=[PATCHES[:1].repeat(size, axis=0) for size in sizes], seed=seed)
    places = -(-sum(sizes) // max(sizes))
    found = visits(one, places)
    for group, size in enumerate(sizes):
        wanted = size * places / sum(sizes)
        assert wanted - 1 < found[group] < wanted + 1


def test_patches_of_small_groups_are_as_likely_as_others() -> None:
    sizes = (32, 32, 24, 8, 1)
    one = sampler(groups=[PATCHES[:1].repeat(size, axis=0) for size in sizes])
    places = 8000
    found = visits(one, places)
    for group, size in enumerate(sizes):
        assert found[group] / places == pytest.approx(size / sum(sizes), rel=0.15)


@given(step=st.integers(0, 1000), num_patches=st.integers(1, STEPS_A_GROUP))
def test_a_group_gives_each_patch_before_one_comes_again(step: int, num_patches: int) -> None:
    first = step // STEPS_A_GROUP * STEPS_A_GROUP
    drawn = [sampler().patch_of(first + k, 2, num_patches) for k in range(STEPS_A_GROUP)]
    assert sorted(drawn[:num_patches]) == list(range(num_patches))


def test_epochs_have_orders_of_their_own() -> None:
    one = sampler(groups=[PATCHES] * 24)
    steps = range(0, 8 * STEPS_A_GROUP, STEPS_A_GROUP)
    order = [one.group_of(step, index) for step in steps for index in range(6)]
    assert sorted(order[:24]) == sorted(order[24:]) == list(range(24))
    assert order[:24] != order[24:]


def test_no_two_uses_have_the_same_draws() -> None:
    """numpy seeds (3, 5) and (3, 5, 0) alike."""
    places = [(5,), (5, 0)]
    drawn = {int(generator(use, 3, *place).integers(2**62)) for use in Use for place in places}
    assert len(drawn) == len(Use)


def test_examples_are_turned_and_mirrored() -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (64, 64, 3))
    directions = set()
    for index in range(60):
        target = sampler().example(0, index, ramp)[1].astype(int)
        directions.add((int(np.sign(target[0, 1, 0] - target[0, 0, 0])), 0))
        directions.add((0, int(np.sign(target[1, 0, 0] - target[0, 0, 0]))))
    assert directions == {(1, 0), (-1, 0), (0, 1), (0, -1), (0, 0)}


def test_targets_must_fit_in_patches() -> None:
    with pytest.raises(ValueError, match="targets of 80 px don't fit in patches of 64 px"):
        sampler(input_px=40)
    with pytest.raises(ValueError, match="no patches to draw from"):
        sampler(groups=[])
