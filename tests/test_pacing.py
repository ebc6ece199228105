"""Batches that take a worker about BATCH_S, and the same ones again when a listing is retried."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.pacing import BATCH_S, LARGEST_BATCH, Costs, Limits, Plan
from pipelines.worklist import Work

MANY_BYTES = 10**12


def works(sizes: list[int]) -> list[Work]:
    return [
        Work(key=f"{number}", bytes=size, etag="1", changed_key=f"{number}")
        for number, size in enumerate(sizes)
    ]


@given(st.lists(st.integers(0, 50), max_size=100), st.integers(1, 16), st.integers(1, 200))
def test_limits_cut_a_listing_into_batches(
    sizes: list[int], most_objects: int, most_bytes: int
) -> None:
    limits, listed = Limits(objects=most_objects, bytes=most_bytes), works(sizes)
    remaining = iter(listed)
    made = list(iter(lambda: limits.take(remaining), []))
    assert [work for batch in made for work in batch] == listed
    for batch in made:
        assert len(batch) <= most_objects
        assert sum(work.bytes for work in batch[:-1]) < most_bytes


@pytest.mark.parametrize("cost_s", [0.001, 0.05, 0.7, 1.3, 30.0])
def test_batches_come_to_take_the_time_meant_and_the_plan_stays_short(cost_s: float) -> None:
    plan, costs = Plan.first(largest_bytes=MANY_BYTES, ahead=3), Costs()
    assert plan.limits(0) == Limits(objects=1, bytes=MANY_BYTES)
    rng = random.Random(5)
    for number in range(300):
        objects = plan.limits(number).objects
        seconds = sum(cost_s * rng.uniform(0.5, 1.5) for _ in range(objects))
        costs.note(objects=objects, source_bytes=1000 * objects, seconds=seconds)
        wanted = costs.limits(largest_bytes=MANY_BYTES)
        plan = plan.moved(wanted, horizon=number + 3)
    expected = min(max(BATCH_S / cost_s, 1), LARGEST_BATCH)
    assert plan.limits(300).objects == pytest.approx(expected, rel=0.6, abs=1)
    assert len(plan.changes) < 6


def test_large_objects_among_small_ones_end_a_batch() -> None:
    costs = Costs()
    costs.note(objects=10, source_bytes=1000, seconds=BATCH_S)
    limits = costs.limits(largest_bytes=MANY_BYTES)
    assert limits is not None
    sizes = [100] * 5 + [100_000] + [100] * 5
    assert len(limits.take(iter(works(sizes)))) == 6


def test_no_batch_is_larger_than_memory_allows() -> None:
    costs = Costs()
    assert costs.limits(largest_bytes=500) is None
    costs.note(objects=1000, source_bytes=1_000_000, seconds=0.01)
    assert costs.limits(largest_bytes=500) == Limits(objects=LARGEST_BATCH, bytes=500)


def test_objects_of_unknown_size_are_counted_alone() -> None:
    costs = Costs()
    costs.note(objects=10, source_bytes=0, seconds=BATCH_S)
    assert costs.limits(largest_bytes=500) == Limits(objects=10, bytes=500)


@given(
    st.lists(
        st.tuples(st.none() | st.integers(1, 500), st.integers(0, 10), st.booleans()), max_size=60
    )
)
def test_no_batch_below_a_horizon_that_was_sent_ever_changes(
    reports: list[tuple[int | None, int, bool]],
) -> None:
    """Answers may be lost, and whoever counts what was admitted may begin again from nothing."""
    plan, sent = Plan.first(largest_bytes=MANY_BYTES, ahead=2), dict[int, Limits]()
    for objects, horizon, is_lost in reports:
        for number in range(plan.horizon):
            assert sent.setdefault(number, plan.limits(number)) == plan.limits(number)
        wanted = None if objects is None else Limits(objects=objects, bytes=MANY_BYTES)
        newer = plan.moved(wanted, horizon=horizon)
        plan = plan if is_lost else newer
