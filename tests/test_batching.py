"""Windows of many threads in one batch: each gets its own result, in order, and its own error."""

import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_core.batching import NoLongerWantedError, WindowBatcher

Window = NDArray[np.uint8]


def window(value: int, side: int = 4) -> Window:
    return np.full((side, side, 1), value, np.uint8)


class Recorder:
    """Gives each window's first value, and keeps what it ran. Waits for `release` before that."""

    def __init__(self, *, bad: int | None = None, largest_batch: int = 1000) -> None:
        self.batches: list[list[int]] = []
        self.release = threading.Event()
        self.entered = threading.Event()
        self._bad = bad
        self._largest_batch = largest_batch

    def __call__(self, windows: Sequence[Window]) -> list[int]:
        self.entered.set()
        assert self.release.wait(10)
        assert len({item.shape for item in windows}) == 1
        values = [int(item[0, 0, 0]) for item in windows]
        self.batches.append(values)
        if len(values) > self._largest_batch:
            raise MemoryError("too many at once")
        if self._bad in values:
            raise ValueError(f"{self._bad} is bad")
        return values


def gathered(recorder: Recorder, images: list[list[Window]], batch_px: int) -> list[list[int]]:
    """The results of all images, given by threads of their own while the first batch waits."""
    batcher = WindowBatcher(recorder, batch_px=batch_px)
    with ThreadPoolExecutor(max(len(images), 1)) as pool:
        futures = [pool.submit(lambda i=image: list(batcher.results(i))) for image in images]
        recorder.release.set()
        return [future.result(timeout=120) for future in futures]


@given(
    sides=st.lists(
        st.lists(st.integers(1, 3), min_size=1, max_size=6).map(lambda s: [s[0]] * len(s)),
        max_size=6,
    ),
    batch_px=st.integers(1, 40),
)
def test_every_image_gets_its_own_results_in_order(sides: list[list[int]], batch_px: int) -> None:
    images = [
        [window(10 * i + k, side) for k, side in enumerate(image)] for i, image in enumerate(sides)
    ]
    recorder = Recorder()
    expected = [[int(item[0, 0, 0]) for item in image] for image in images]
    assert gathered(recorder, images, batch_px) == expected
    assert sorted(chain(*recorder.batches)) == sorted(chain(*expected))
    side_of = {int(item[0, 0, 0]): item.shape[0] for image in images for item in image}
    for batch in recorder.batches:
        assert len(batch) == 1 or len(batch) * side_of[batch[0]] ** 2 <= batch_px


def start(
    batcher: WindowBatcher[Window, int], windows: list[Window]
) -> tuple[threading.Thread, list[int]]:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(batcher.results(windows)))
    thread.start()
    return thread, found


def queue_behind_the_first(recorder: Recorder, images: list[list[Window]]) -> None:
    """All images wait while a window of another shape runs; then they run."""
    batcher = WindowBatcher(recorder, batch_px=4 * 16)
    threads = [start(batcher, [window(99, 2)])[0]]
    assert recorder.entered.wait(10)
    for image in images:
        before = len(batcher._images)
        threads.append(start(batcher, image)[0])
        while len(batcher._images) == before:
            pass
    recorder.release.set()
    for thread in threads:
        thread.join(10)


def test_images_of_one_shape_share_batches_and_a_large_one_takes_turns() -> None:
    recorder = Recorder()
    large = [window(value) for value in range(10)]
    queue_behind_the_first(recorder, [large, [window(50)], [window(60, 3)], [window(51)]])
    assert recorder.batches[0] == [99]
    assert recorder.batches[1] == [0, 50, 51, 1]
    assert recorder.batches[2] == [60]
    assert list(chain(*recorder.batches[3:])) == list(range(2, 10))


def test_a_window_that_fails_fails_alone() -> None:
    recorder = Recorder(bad=7)
    batcher = WindowBatcher(recorder, batch_px=1000)
    recorder.release.set()
    with pytest.raises(ValueError, match="7 is bad"):
        list(batcher.results([window(7)]))
    assert list(batcher.results([window(1), window(2)])) == [1, 2]
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(lambda v=v: list(batcher.results([window(v)]))) for v in range(16)]
    errors = [future.exception() for future in futures]
    assert [isinstance(error, ValueError) for error in errors] == [v == 7 for v in range(16)]


def test_a_batch_that_is_too_much_is_run_one_by_one() -> None:
    recorder = Recorder(largest_batch=1)
    recorder.release.set()
    batcher = WindowBatcher(recorder, batch_px=1000)
    assert list(batcher.results([window(value) for value in range(4)])) == [0, 1, 2, 3]


def test_windows_that_nobody_waits_for_are_dropped() -> None:
    ran: list[int] = []
    go_on = threading.Event()

    def run(windows: Sequence[Window]) -> list[int]:
        ran.extend(int(item[0, 0, 0]) for item in windows)
        assert len(ran) == 1 or go_on.wait(10)
        return ran[-len(windows) :]

    batcher = WindowBatcher(run, batch_px=1)
    results = batcher.results([window(value) for value in range(100)])
    assert next(results) == 0
    results.close()
    go_on.set()
    assert list(batcher.results([window(200)])) == [200]
    assert len(ran) <= 3, "the first, at most one that had begun, and the one that somebody wanted"


def test_an_image_that_is_no_longer_wanted_is_dropped_before_it_is_begun() -> None:
    recorder = Recorder()
    batcher = WindowBatcher(recorder, batch_px=1)
    first, found = start(batcher, [window(1)])
    assert recorder.entered.wait(10)
    wanted = threading.Event()
    wanted.set()
    errors: list[Exception | None] = []

    def ask() -> None:
        try:
            list(batcher.results([window(2), window(3)], wanted=wanted.is_set))
        except NoLongerWantedError as error:
            errors.append(error)

    waiting = threading.Thread(target=ask)
    waiting.start()
    while not batcher._images:
        pass
    wanted.clear()
    recorder.release.set()
    for thread in (first, waiting):
        thread.join(10)
    assert found == [1]
    assert len(errors) == 1
    assert recorder.batches == [[1]]
    assert list(batcher.results([window(4)])) == [4]


def test_so_many_batches_run_at_once_and_no_more() -> None:
    running, most, lock = 0, 0, threading.Lock()
    meeting = threading.Barrier(3)

    def run(windows: Sequence[Window]) -> list[int]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meeting.wait(10)  # passes only where three are here
        with lock:
            running -= 1
        return [int(item[0, 0, 0]) for item in windows]

    batcher = WindowBatcher(run, batch_px=1, at_once=3)
    with ThreadPoolExecutor(4) as pool:
        one, three = (
            pool.submit(lambda image=image: list(batcher.results(image)))
            for image in ([window(value) for value in range(8)], [window(9)])
        )
        assert one.result(timeout=120) == list(range(8))
        assert three.result(timeout=120) == [9]
    assert most == 3


def test_threads_with_nothing_to_run_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_core.batching.IDLE_S", 0.01)
    batcher = WindowBatcher(lambda windows: [0 for _ in windows], batch_px=1, at_once=2)
    for _ in range(3):
        assert list(batcher.results([window(1), window(2)])) == [0, 0]
        deadline_s = time.monotonic() + 120
        while batcher._threads:
            assert time.monotonic() < deadline_s, "they stay"


def test_results_that_were_given_are_not_kept() -> None:
    made: list[weakref.ref[Window]] = []

    def run(windows: Sequence[Window]) -> list[Window]:
        results = [item.copy() for item in windows]
        made.extend(weakref.ref(result) for result in results)
        return results

    batcher = WindowBatcher(run, batch_px=1)
    for count, result in enumerate(batcher.results([window(value) for value in range(20)]), 1):
        assert result.shape == (4, 4, 1)
        given = made[: count - 1]
        assert not any(ref() is not None for ref in given)


def test_an_idle_thread_keeps_no_window() -> None:
    source = window(7)
    kept = weakref.ref(source)
    batcher = WindowBatcher(lambda windows: [0] * len(windows), batch_px=1)
    assert list(batcher.results([source])) == [0]
    del source
    deadline_s = time.monotonic() + 5
    while kept() is not None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert kept() is None


def test_a_thread_that_can_not_start_is_told_and_the_next_image_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    batcher = WindowBatcher(lambda windows: [0] * len(windows), batch_px=1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            list(batcher.results([window(1)]))
    assert list(batcher.results([window(2)])) == [0]


def test_a_question_that_fails_is_raised_where_it_was_asked_for() -> None:
    def wanted() -> bool:
        raise ValueError("who asks")

    batcher = WindowBatcher(lambda windows: [0] * len(windows), batch_px=1)
    with pytest.raises(ValueError, match="who asks"):
        list(batcher.results([window(1)], wanted=wanted))
    assert list(batcher.results([window(2)])) == [0]


def test_a_batch_that_is_run_again_one_by_one_holds_nothing_of_the_first_try() -> None:
    held: list[weakref.ref[Window]] = []
    release = threading.Event()

    def run(windows: Sequence[Window]) -> list[int]:
        assert release.wait(10)
        assert all(ref() is None for ref in held)
        if len(windows) > 1:
            work = np.concatenate(windows)
            held.append(weakref.ref(work))
            raise MemoryError("too many at once")
        return [0]

    batcher = WindowBatcher(run, batch_px=1000)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: list(batcher.results([window(value) for value in range(4)])))
        release.set()
        assert done.result(timeout=120) == [0] * 4
    assert held
