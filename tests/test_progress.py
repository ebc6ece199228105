"""The line of progress: what it says, how long it gets, where it goes."""

import io
import time

from hypothesis import given
from hypothesis import strategies as st

from pipelines.progress import (
    Clock,
    ProgressLine,
    Snapshot,
    progress_line,
    share_done,
    time_left_s,
)

HALF = Snapshot(
    elapsed_s=10, finished=50, finished_bytes=500, megapixels_out=25, total=100, total_bytes=1000
)


def test_the_line_tells_count_rate_megapixels_time_left_and_failures() -> None:
    line = progress_line(HALF, width=200)
    assert line == "██████████░░░░░░░░░░  50 of 100  5.0/s  2.5 MP/s  10 s left"
    failed = Snapshot(elapsed_s=10, finished=1, failed=1234)
    assert progress_line(failed, width=200) == "1  0.10/s  0 MP/s  1,234 failed"


def test_before_the_first_result_it_says_so() -> None:
    assert progress_line(Snapshot(elapsed_s=0), width=200) == "0  starting"


def test_nothing_is_left_at_the_end() -> None:
    done = Snapshot(elapsed_s=5, finished=2, finished_bytes=9, total=2, total_bytes=9)
    assert "left" not in progress_line(done, width=200)
    assert share_done(done) == 1


def test_large_files_count_for_more() -> None:
    small_first = Snapshot(elapsed_s=1, finished=9, finished_bytes=10, total=10, total_bytes=100)
    assert share_done(small_first) == 0.1
    assert time_left_s(small_first) == 9
    assert share_done(Snapshot(elapsed_s=1, finished=1, total=4, total_bytes=0)) == 0.25


def test_no_time_is_told_while_the_total_is_not_known() -> None:
    assert time_left_s(Snapshot(elapsed_s=1, finished=9, finished_bytes=10)) is None


counts = st.integers(0, 10**9)


@given(counts, counts, counts, st.floats(0, 1e7), st.integers(1, 300))
def test_the_line_always_fits_the_terminal(
    finished: int, total: int, failed: int, elapsed_s: float, width: int
) -> None:
    snapshot = Snapshot(
        elapsed_s=elapsed_s,
        finished=finished,
        finished_bytes=finished,
        failed=failed,
        total=total,
        total_bytes=total,
    )
    line = progress_line(snapshot, width=width)
    assert len(line) < max(width, 2)
    assert "\n" not in line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_is_one_line_that_stays() -> None:
    stream = Terminal()
    with ProgressLine(lambda: HALF, stream, interval_s=0.01):
        time.sleep(0.05)
    shown = stream.getvalue().split("\r\x1b[K")
    assert len(shown) > 2
    assert shown[-1].endswith("left\n")
    assert stream.getvalue().count("\n") == 1


def test_elsewhere_it_is_plain_lines_and_none_in_a_short_run() -> None:
    stream = io.StringIO()
    with ProgressLine(lambda: HALF, stream, interval_s=0.01):
        time.sleep(0.05)
    assert "\r" not in stream.getvalue()
    assert stream.getvalue().count("50 of 100") > 1
    short = io.StringIO()
    with ProgressLine(lambda: HALF, short):
        pass
    assert short.getvalue() == ""


def test_the_clock_runs_from_the_start_of_the_object_that_was_begun_first() -> None:
    clock = Clock()
    assert (clock.elapsed_s, clock.work_s) == (0, 0)
    clock.note(2.0)
    assert 2.0 <= clock.work_s <= clock.elapsed_s < 3.0
    clock.note(1.0)
    assert clock.work_s < 3.0
    clock.note(100.0)
    assert 100.0 <= clock.work_s < 101.0
