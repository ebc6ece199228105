"""What Ray Data streams to a worker is what the sampler says, from any step, for any worker."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from photographs_for_tests import make_photograph
from ray import cloudpickle

from cluster.connect import ray_session
from pipelines.patch_stream import Makers, spans, stream
from resnet_core.errors import DataError
from resnet_core.patches import STEPS_A_GROUP, PatchSampler, cut_patches
from resnet_core.standard_degradations import bicubic

PATCHES = cut_patches(make_photograph(260, 260), patch_px=64)
MAKERS = Makers(count=2, cpus_each=0.25)


@dataclass(frozen=True)
class CountedGroups:
    """Groups that note in a folder when they are read, and of which one may be broken."""

    folder: Path
    broken: int | None = None

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        if index == self.broken:
            raise DataError("group 3 is damaged")
        with (self.folder / "reads").open("a") as file:
            file.write(f"{index}\n")
        return PATCHES[index : index + 5]


def sampler(groups: object) -> PatchSampler:
    return PatchSampler(
        groups=groups,  # pyright: ignore[reportArgumentType]
        sizes=[5] * 7,
        patch_px=64,
        degradation=bicubic(2),
        input_px=12,
        batch_size=6,
        seed=3,
    )


@given(start=st.integers(0, 500), length=st.integers(0, 300))
def test_spans_are_the_steps_cut_where_groups_change(start: int, length: int) -> None:
    steps = range(start, start + length)
    found = list(spans(steps))
    assert [step for span in found for step in span] == list(steps)
    assert all(len(span) >= 1 and a.stop % STEPS_A_GROUP == 0 for a, span in pairwise(found))
    assert all(span[0] // STEPS_A_GROUP == span[-1] // STEPS_A_GROUP for span in found)


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    # The actors don't find this module.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ray_session():
        yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2), (3, 4)])
def test_a_share_is_streamed_in_the_order_of_its_steps(
    rank: int, world_size: int, tmp_path: Path
) -> None:
    one = sampler(CountedGroups(tmp_path))
    steps = range(20, 20 + 5 * STEPS_A_GROUP)
    streamed = stream(one, steps=steps, rank=rank, world_size=world_size, makers=MAKERS)
    for step, (inputs, targets) in zip(steps, streamed, strict=True):
        expected = one.batch(step, rank=rank, world_size=world_size)
        assert torch.equal(inputs, expected[0])
        assert torch.equal(targets, expected[1])


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_a_group_is_read_once_for_many_steps_and_not_long_before(tmp_path: Path) -> None:
    one = sampler(CountedGroups(tmp_path))
    reads = tmp_path / "reads"
    streamed = stream(one, steps=range(10_000), rank=0, world_size=1, makers=MAKERS)
    for _ in range(3 * STEPS_A_GROUP):
        next(streamed)
    streamed.close()  # pyright: ignore[reportAttributeAccessIssue]
    count = len(reads.read_text().splitlines())
    assert 3 * 6 <= count <= 30 * 6


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_patches_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    one = sampler(CountedGroups(tmp_path, broken=3))
    with pytest.raises(DataError, match=r"^group 3 is damaged$"):
        list(stream(one, steps=range(400), rank=0, world_size=1, makers=MAKERS))
