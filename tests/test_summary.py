"""Figures of a run: constant memory, true extremes, honest estimates, and the report's data."""

import io
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.folder_store import FolderStore
from pipelines.ledger import LedgerRow
from pipelines.report import Counts, EnhanceReport, WeightsCard, render_enhance_report
from pipelines.storage import Blob, StoreError
from pipelines.summary import (
    MAX_FAILED,
    MAX_FAILURE_KINDS,
    MAX_PAIR_PIXELS,
    MAX_REASON_CHARACTERS,
    MAX_TIME_BINS,
    NUM_EXTREMES,
    NUM_PAIRS,
    NUM_SLOWEST,
    NUM_SUSPECT,
    SECOND_EDGES,
    SHOWN_FAILURE_KINDS,
    HistogramCounter,
    RunSummary,
    TimelineCounter,
    Whole,
)

START = datetime(2026, 5, 4, 10, 30, tzinfo=UTC)
YEAR_S = 366 * 86400.0


def ok(
    key: str,
    *,
    size: int = 100,
    seconds: float = 1.0,
    change: float | None = None,
    width: int = 2000,
    after_s: float = 0.0,
) -> LedgerRow:
    return LedgerRow(
        key=key,
        out_key=key,
        status="ok",
        source_etag="1",
        source_bytes=size,
        output_bytes=3 * size,
        source_width_px=1000,
        source_height_px=500,
        output_width_px=width,
        output_height_px=1000,
        change_levels=change,
        network_s=seconds,
        weights_sha256="w",
        settings_hash="s",
        finished_at=START + timedelta(seconds=after_s),
    )


def failed(key: str, *, reason: str = "broken", after_s: float = 0.0) -> LedgerRow:
    return LedgerRow(
        key=key,
        status="failed",
        reason=reason,
        source_etag="1",
        source_bytes=7,
        weights_sha256="w",
        settings_hash="s",
        finished_at=START + timedelta(seconds=after_s),
    )


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def test_counts_and_sums() -> None:
    summary = RunSummary()
    for row in (ok("a"), ok("b", seconds=3.0), failed("c")):
        summary.add(row)
    assert (summary.ok, summary.failed, summary.skipped, summary.objects) == (2, 1, 0, 3)
    assert (summary.bytes_in, summary.bytes_out, summary.finished_bytes) == (200, 600, 207)
    assert summary.pixels_out == 4_000_000
    assert summary.stage_s["network"] == 4.0
    assert [(item.key, item.reason) for item in summary.failures] == [("c", "broken")]


def make_report(
    summary: RunSummary, root: Path, kind: type[FolderStore] = FolderStore
) -> EnhanceReport:
    store = kind(root=root, temporary=root / "tmp")
    return summary.report(
        source=store,
        target=store,
        weights=WeightsCard(name="n", sha256="0" * 64, task="sr-x2", scale=2),
        settings=(("strength", "1"),),
        machine="here",
        duration_s=2.0,
        done_before=5,
    )


def shown(report: EnhanceReport) -> dict[str, list[str]]:
    return {group.title: [pair.key for pair in group.pairs] for group in report.pair_groups}


def test_a_long_run_keeps_only_a_few_of_everything(tmp_path: Path) -> None:
    summary = RunSummary(started_at=START)
    data = picture()
    for number in range(1000):
        (tmp_path / f"{number}").write_bytes(data)
        summary.add(ok(f"{number}", seconds=float(number), after_s=number))
        summary.add(failed(f"bad {number}", reason="x" * number, after_s=number))
    report = make_report(summary, tmp_path)
    assert [slow.seconds for slow in report.slowest] == [999.0 - k for k in range(NUM_SLOWEST)]
    assert [len(keys) for keys in shown(report).values()] == [NUM_PAIRS]
    assert len(report.failed) == MAX_FAILED
    assert max(len(item.reason) for item in report.failed) <= MAX_REASON_CHARACTERS
    assert len(report.failure_kinds) == SHOWN_FAILURE_KINDS < MAX_FAILURE_KINDS
    assert report.counts == Counts(ok=1000, failed=1000, skipped=0, done_before=5)
    assert report.timeline is not None
    assert len(report.timeline.objects) <= MAX_TIME_BINS
    assert [sum(histogram.counts) for histogram in report.histograms] == [1000]
    assert [sum(stage.times.counts) for stage in report.stages] == [1000] * 5
    assert {stage.name: stage.total_s for stage in report.stages} == summary.stage_s
    html = render_enhance_report(report)
    assert all(f"bad {number}<" in html for number in range(MAX_FAILED))


def test_the_title_is_the_last_part_of_the_source(tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    assert make_report(RunSummary(), folder).title == "holiday"


class DeadStore(FolderStore):
    """A store that fails as a whole, and counts how often it is asked."""

    asked = 0

    def get(self, key: str) -> Blob:
        DeadStore.asked += 1
        raise StoreError(f"{key}: the credentials have expired")


def test_a_store_that_fails_as_a_whole_costs_the_pairs_and_not_the_report(tmp_path: Path) -> None:
    summary = RunSummary()
    for number in range(NUM_PAIRS):
        summary.add(ok(f"{number}"))
    report = make_report(summary, tmp_path, DeadStore)
    assert DeadStore.asked == 1
    assert [line[1:] for line in report.pairs_left_out] == [": the credentials have expired"]
    assert "credentials have expired" in render_enhance_report(report)


def test_the_report_leaves_out_what_went_away_or_is_no_picture_any_more(tmp_path: Path) -> None:
    summary = RunSummary()
    for key in ("gone.png", "broken.png", "good.png"):
        summary.add(ok(key))
    (tmp_path / "broken.png").write_bytes(b"x")
    (tmp_path / "good.png").write_bytes(picture())
    report = make_report(summary, tmp_path)
    assert shown(report) == {"": ["good.png"]}
    assert sorted(line.partition(":")[0] for line in report.pairs_left_out) == [
        "broken.png",
        "gone.png",
    ]
    assert "good.png" in render_enhance_report(report)


@given(
    changes=st.lists(st.floats(0, 50) | st.just(1.0), min_size=2 * NUM_EXTREMES, max_size=40),
    order=st.randoms(use_true_random=False),
)
def test_most_and_least_changed_are_the_true_extremes(changes: list[float], order: object) -> None:
    rows = [ok(f"{number:02d}", change=change) for number, change in enumerate(changes)]
    groups: list[dict[str, list[LedgerRow]]] = []
    for _ in range(2):
        summary = RunSummary()
        for row in rows:
            summary.add(row)
        groups.append(dict(summary._pairs.groups()))
        order.shuffle(rows)  # type: ignore[attr-defined]
    assert groups[0] == groups[1], "whatever the order"
    most, least, others = groups[0].values()
    levels = sorted(changes)
    assert [row.change_levels for row in least] == levels[:NUM_EXTREMES]
    assert [row.change_levels for row in most] == levels[::-1][:NUM_EXTREMES]
    keys = [row.key for row in (*most, *least, *others)]
    assert len(keys) == len(set(keys)) == min(len(changes), 2 * NUM_EXTREMES + NUM_PAIRS)


def test_the_suspect_ones_are_counted_ranked_and_shown_first(tmp_path: Path) -> None:
    summary = RunSummary()
    for number in range(3 * NUM_SUSPECT):
        (tmp_path / f"{number:02d}").write_bytes(picture())
        row = ok(f"{number:02d}", change=1.0)
        if number % 2:
            row = replace(row, status="suspect", reason="it drifted", deviation=1.0 + number)
        summary.add(row)
    report = make_report(summary, tmp_path)
    assert (report.counts.ok, report.counts.suspect) == (3 * NUM_SUSPECT, 3 * NUM_SUSPECT // 2)
    worst = [f"{number:02d}" for number in range(3 * NUM_SUSPECT - 1, 0, -2)]
    assert [item.key for item in report.suspect] == worst[:NUM_SUSPECT]
    assert report.suspect[0].reason == "it drifted"
    groups = shown(report)
    assert next(iter(groups)) == "Suspect"
    assert groups["Suspect"] == worst[:NUM_EXTREMES]
    keys = [key for group in groups.values() for key in group]
    assert len(keys) == len(set(keys))


def test_each_object_is_as_likely_to_be_shown() -> None:
    chosen = [0, 0]
    for run in range(300):
        summary = RunSummary()
        for number in range(2 * NUM_PAIRS):
            summary.add(ok(f"{run}/{number}"))
        for row in summary._pairs.groups()[0][1]:
            chosen[int(row.key.partition("/")[2]) >= NUM_PAIRS] += 1
    assert sum(chosen) == 300 * NUM_PAIRS
    assert chosen[0] == pytest.approx(chosen[1], rel=0.15)


def test_results_too_large_to_be_shown_are_counted(tmp_path: Path) -> None:
    summary = RunSummary()
    summary.add(ok("huge", width=MAX_PAIR_PIXELS // 1000 + 1))
    report = make_report(summary, tmp_path)
    assert report.pair_groups == ()
    assert report.pairs_left_out == ("1 very large result",)
    assert "1 very large result<" in render_enhance_report(report)


def test_failures_alike_are_one_kind(tmp_path: Path) -> None:
    summary = RunSummary()
    for number in range(30):
        summary.add(failed(f"a{number}", reason=f"{number} megapixels are over the limit"))
    for number in range(40):
        summary.add(failed(f"b{number}", reason=f"no name '{'x' * number}' is known"))
    kinds = make_report(summary, tmp_path).failure_kinds
    assert [(kind.count, kind.example) for kind in kinds] == [
        (40, "no name '' is known"),
        (30, "0 megapixels are over the limit"),
    ]


moments = st.lists(st.tuples(st.floats(-10, YEAR_S), st.booleans()), max_size=60)


@given(rows=moments, order=st.randoms(use_true_random=False), crowd=st.integers(0, 200))
def test_the_timeline_conserves_counts_in_bounded_bins_in_any_order(
    rows: list[tuple[float, bool]], order: object, crowd: int
) -> None:
    rows = rows + [(float(number), False) for number in range(crowd)]
    timelines: list[object] = []
    for _ in range(2):
        counter = TimelineCounter(START)
        for after_s, is_failed in rows:
            moment = START + timedelta(seconds=after_s)
            counter.add(moment, pixels=0 if is_failed else 2_000_000, failed=is_failed)
            assert len(counter._bins) <= MAX_TIME_BINS
        timelines.append(counter.timeline())
        order.shuffle(rows)  # type: ignore[attr-defined]
    assert timelines[0] == timelines[1]
    timeline = counter.timeline()
    if timeline is None:
        assert len(rows) < 12 or len(counter._bins) <= 2
        return
    num_failed = sum(is_failed for _, is_failed in rows)
    assert sum(timeline.failed) == num_failed
    assert sum(timeline.objects) == len(rows) - num_failed
    assert sum(timeline.megapixels) == pytest.approx(2 * sum(timeline.objects))
    assert timeline.edges_s[0] == 0
    assert timeline.edges_s[-1] == pytest.approx(max(after_s for after_s, _ in rows), abs=1e-5)
    assert list(timeline.edges_s) == sorted(set(timeline.edges_s))


def test_a_steady_run_has_a_flat_timeline() -> None:
    counter = TimelineCounter(START)
    for number in range(1, 5001):
        counter.add(START + timedelta(seconds=number / 2), pixels=1)
    timeline = counter.timeline()
    assert timeline is not None
    spans_s = [b - a for a, b in zip(timeline.edges_s, timeline.edges_s[1:], strict=False)]
    rates = [count / span for count, span in zip(timeline.objects, spans_s, strict=True)]
    assert min(rates) == pytest.approx(2, rel=0.05)
    assert max(rates) == pytest.approx(2, rel=0.05)


def test_few_objects_have_no_timeline() -> None:
    counter = TimelineCounter(START)
    for number in range(11):
        counter.add(START + timedelta(seconds=number))
    assert counter.timeline() is None


def test_histogram_counter_puts_every_value_into_one_bin() -> None:
    counter = HistogramCounter((0.0, 1.0, 2.0, 4.0))
    for value in (-1.0, 0.0, 0.99, 1.0, 3.9, 4.0, 100.0):
        counter.add(value)
    assert counter.histogram(title="t", unit="MP").counts == (3, 1, 3)


@given(
    seconds=st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=100),
    share=st.sampled_from([0.05, 0.5, 0.95]),
)
def test_quantiles_of_seconds_are_within_a_bin_of_the_true_ones(
    seconds: list[float], share: float
) -> None:
    counter = HistogramCounter(SECOND_EDGES)
    for value in seconds:
        counter.add(value)
    found = counter.histogram(title="t", unit="s").quantile(share)
    true = sorted(seconds)[math.ceil(share * len(seconds) - 1e-9) - 1]
    assert found == pytest.approx(true, rel=0.1)


def test_an_estimate_of_equal_costs_is_exact() -> None:
    summary = RunSummary()
    for size in (100, 300, 200):
        summary.add(ok(str(size), size=size, seconds=size / 100))
    estimate = summary.estimate(Whole(objects=50, bytes=12_000), parallel=4, machines=3)
    assert estimate is not None
    assert estimate.objects == 50
    assert estimate.duration_s == pytest.approx(30)
    assert estimate.machine_hours == pytest.approx(3 * 30 / 3600)
    assert estimate.bytes_out == 36_000
    assert estimate.relative_error == pytest.approx(0, abs=1e-9)


def test_an_estimate_from_uneven_costs_says_how_sure_it_is() -> None:
    summary = RunSummary()
    for seconds in (1.0, 2.0, 3.0):
        summary.add(ok(str(seconds), seconds=seconds))
    estimate = summary.estimate(Whole(objects=30, bytes=3000), parallel=1)
    assert estimate is not None
    assert estimate.duration_s == pytest.approx(60)
    # Equal sizes: the standard error of a mean, 1 / sqrt(3), against the mean of 2.
    assert estimate.relative_error == pytest.approx(1 / 3**0.5 / 2)


def test_an_estimate_counts_the_bytes_of_what_is_no_image() -> None:
    summary = RunSummary()
    for number in range(4):
        summary.add(ok(f"{number}.jpg", size=100, seconds=1.0))
        video = replace(failed(f"{number}.mp4"), status="skipped", source_bytes=9900)
        summary.add(video)
    estimate = summary.estimate(Whole(objects=200, bytes=1_000_000), parallel=1)
    assert estimate is not None
    assert estimate.duration_s == pytest.approx(100)
    assert estimate.bytes_out == 100 * 300


def test_nothing_enhanced_gives_no_estimate_and_two_give_no_error() -> None:
    nothing, two = RunSummary(), RunSummary()
    nothing.add(failed("a"))
    assert nothing.estimate(Whole(objects=1, bytes=1), parallel=1) is None
    two.add(ok("b"))
    two.add(ok("c"))
    estimate = two.estimate(Whole(objects=2, bytes=200), parallel=1)
    assert estimate is not None
    assert estimate.relative_error is None
