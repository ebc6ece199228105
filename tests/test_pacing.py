"""Batches that take a worker about BATCH_S, and the same ones again when a listing is retried."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.pacing import BATCH_S, LARGEST_BATCH, Limits, Pace
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


@pytest.mark.parametrize("cost_s", [0.001, 0.05, 0.7, 30.0])
def test_batches_of_equal_objects_come_to_take_the_time_meant(cost_s: float) -> None:
    pace = Pace(largest_bytes=MANY_BYTES)
    assert pace.limits(0) == Limits(objects=1, bytes=MANY_BYTES)
    for number in range(1, 50):
        objects = pace.limits(number - 1).objects
        pace.note(objects=objects, source_bytes=1000 * objects, seconds=cost_s * objects)
    expected = min(max(BATCH_S / cost_s, 1), LARGEST_BATCH)
    assert pace.limits(50).objects == pytest.approx(expected, abs=1)
    assert pace.limits(50).bytes == pytest.approx(max(1000 * BATCH_S / cost_s, 1), rel=0.5)
    assert len(pace.plan) == 2


def test_large_objects_among_small_ones_end_a_batch() -> None:
    pace = Pace(largest_bytes=MANY_BYTES)
    pace.limits(0)
    pace.note(objects=10, source_bytes=1000, seconds=BATCH_S)
    sizes = [100] * 5 + [100_000] + [100] * 5
    assert [len(pace.limits(1).take(iter(works(sizes))))] == [6]


def test_no_batch_is_larger_than_memory_allows() -> None:
    pace = Pace(largest_bytes=500)
    pace.note(objects=1000, source_bytes=1_000_000, seconds=0.01)
    assert pace.limits(0) == Limits(objects=LARGEST_BATCH, bytes=500)


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.001, 100), st.integers(1, 10**6)), max_size=60)
)
def test_a_batch_that_was_given_out_stays_as_it_was(
    events: list[tuple[bool, float, int]],
) -> None:
    pace, given_out = Pace(largest_bytes=MANY_BYTES), list[Limits]()
    numbers = itertools.count()
    for is_note, seconds, source_bytes in events:
        if is_note:
            pace.note(objects=1, source_bytes=source_bytes, seconds=seconds)
        else:
            given_out.append(pace.limits(next(numbers)))
    later = Pace(largest_bytes=MANY_BYTES)
    later.plan = pace.plan
    for again in (pace, later):
        assert [again.limits(number) for number in range(len(given_out))] == given_out
