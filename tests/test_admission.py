"""Admission: bounds that hold, places that come back, a Retry-After that follows the rate."""

import asyncio
import contextlib
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.admission import LONGEST_RETRY_S, Admission, Deadline, FullError


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def admission(requests: int = 3, pixels: int = 100) -> tuple[Admission, Clock]:
    clock = Clock()
    return Admission(max_requests=requests, max_pixels=pixels, clock=clock), clock


@given(
    sizes=st.lists(st.tuples(st.integers(1, 150), st.booleans()), max_size=40),
    requests=st.integers(1, 5),
)
def test_bounds_hold_and_every_place_comes_back(
    sizes: list[tuple[int, bool]], requests: int
) -> None:
    told: list[tuple[int, int]] = []
    gate = Admission(max_requests=requests, max_pixels=100, on_change=lambda *now: told.append(now))
    held = []
    for pixels, leaves in sizes:
        try:
            place = gate.enter()
        except FullError:
            assert len(held) == requests
        else:
            place.__enter__()
            held.append(place)
            try:
                place.take_pixels(pixels)
            except FullError as error:
                held.pop().__exit__(type(error), error, None)
        assert gate.requests == len(held) <= requests
        assert gate.pixels <= 100 or len([each for each in held if each._pixels]) == 1
        if leaves and held:
            held.pop(0).__exit__(None, None, None)
    for place in held:
        place.__exit__(None, None, None)
    assert (gate.requests, gate.pixels) == (0, 0)
    assert not told or told[-1] == (0, 0)


def test_one_image_over_the_bound_is_taken_alone() -> None:
    gate, _ = admission(pixels=10)
    with gate.enter() as first:
        first.take_pixels(1000)
        with pytest.raises(FullError, match="1000 pixels are in hand, and with 1 more"):
            _take(gate, 1)
    _take(gate, 1)


def _take(gate: Admission, pixels: int) -> None:
    with gate.enter() as place:
        place.take_pixels(pixels)


def test_a_place_comes_back_whatever_ends_it() -> None:
    gate, _ = admission(requests=1)
    with contextlib.suppress(ZeroDivisionError), gate.enter() as place:
        place.take_pixels(7)
        raise ZeroDivisionError
    assert (gate.requests, gate.pixels) == (0, 0)


def test_a_place_stays_taken_while_a_thread_works_for_it() -> None:
    async def leave_early() -> list[tuple[int, int]]:
        gate, _ = admission()
        job: Future[None] = Future()
        job.set_running_or_notify_cancel()
        with contextlib.suppress(TimeoutError), gate.enter() as place:
            place.take_pixels(7)
            place.hold_for(job)
            raise TimeoutError
        told = [(gate.requests, gate.pixels)]
        job.set_result(None)
        await asyncio.sleep(0)
        return [*told, (gate.requests, gate.pixels)]

    assert asyncio.run(leave_early()) == [(1, 7), (0, 0)]


def test_when_to_come_again_follows_the_rate_of_what_was_done() -> None:
    gate, clock = admission(requests=1, pixels=1000)
    assert refused(gate) == 1, "nothing is known yet"
    for _ in range(11):
        gate.note_done(10)
        clock.now_s += 1
    assert refused(gate) == 6, "half of what is in hand, at 100 pixels in 11 seconds"
    clock.now_s += LONGEST_RETRY_S - 5
    assert refused(gate) == LONGEST_RETRY_S, "nearly nothing was done of late"
    clock.now_s += 100_000
    assert refused(gate) == 1, "what was long ago tells nothing"


def refused(gate: Admission) -> int:
    """When to come again, while an image of 100 pixels is in hand."""
    gate.add(requests=1, pixels=100)
    with pytest.raises(FullError, match="1 requests are in hand") as refusal:
        gate.enter()
    gate.add(requests=-1, pixels=-100)
    return refusal.value.retry_after_s


def test_a_deadline_runs_down_to_nothing() -> None:
    clock = Clock()
    deadline = Deadline(2, clock=clock)
    assert deadline.left_s == 2
    clock.now_s += 1.5
    assert deadline.left_s == 0.5
    clock.now_s += 5
    assert deadline.left_s == 0
