"""Figures of a run: constant memory, honest estimates, and the report's data."""

from pathlib import Path

import pytest

from pipelines.folder_store import FolderStore
from pipelines.ledger import LedgerRow
from pipelines.report import EnhanceReport, WeightsCard, render_enhance_report
from pipelines.summary import MAX_FAILED, NUM_PAIRS, NUM_SLOWEST, RunSummary, Whole


def ok(key: str, *, size: int = 100, seconds: float = 1.0) -> LedgerRow:
    return LedgerRow(
        key=key,
        out_key=key,
        status="ok",
        source_etag="1",
        source_bytes=size,
        output_bytes=3 * size,
        source_width_px=1000,
        source_height_px=500,
        output_width_px=2000,
        output_height_px=1000,
        network_s=seconds,
        weights_sha256="w",
        settings_hash="s",
    )


def failed(key: str) -> LedgerRow:
    return LedgerRow(
        key=key,
        status="failed",
        reason="broken",
        source_etag="1",
        source_bytes=7,
        weights_sha256="w",
        settings_hash="s",
    )


def test_counts_and_sums() -> None:
    summary = RunSummary()
    for row in (ok("a"), ok("b", seconds=3.0), failed("c")):
        summary.add(row)
    assert (summary.ok, summary.failed, summary.skipped, summary.objects) == (2, 1, 0, 3)
    assert (summary.bytes_in, summary.bytes_out, summary.finished_bytes) == (200, 600, 207)
    assert summary.pixels_out == 4_000_000
    assert summary.stage_s["network"] == 4.0
    assert [(item.key, item.reason) for item in summary.failures] == [("c", "broken")]


def make_report(summary: RunSummary, root: Path) -> EnhanceReport:
    store = FolderStore(root=root, temporary=root / "tmp")
    return summary.report(
        source=store,
        target=store,
        weights=WeightsCard(name="n", sha256="0" * 64, task="sr-x2", scale=2),
        settings=(("strength", "1"),),
        machine="here",
        duration_s=2.0,
        done_before=5,
    )


def test_a_long_run_keeps_only_a_few_of_everything(tmp_path: Path) -> None:
    summary = RunSummary()
    for number in range(1000):
        (tmp_path / f"{number}").write_bytes(b"x")
        summary.add(ok(f"{number}", seconds=float(number)))
        summary.add(failed(f"bad {number}"))
    report = make_report(summary, tmp_path)
    assert [slow.seconds for slow in report.slowest] == [999.0 - k for k in range(NUM_SLOWEST)]
    assert len(report.pairs) == NUM_PAIRS
    assert max(int(pair.key) for pair in report.pairs) > NUM_PAIRS, "not just the first ones"
    assert len(report.failed) == MAX_FAILED
    assert (report.counts.ok, report.counts.failed, report.counts.skipped) == (1000, 1000, 5)
    assert sum(report.histograms[0].counts) == 1000


def test_the_report_can_be_rendered_and_leaves_out_what_went_away(tmp_path: Path) -> None:
    summary = RunSummary()
    summary.add(ok("gone.png"))
    report = make_report(summary, tmp_path)
    assert report.pairs == ()
    assert "n" in render_enhance_report(report)


def test_an_estimate_of_equal_costs_is_exact() -> None:
    summary = RunSummary()
    for size in (100, 300, 200):
        summary.add(ok(str(size), size=size, seconds=size / 100))
    estimate = summary.estimate(Whole(objects=50, bytes=12_000), parallel=4)
    assert estimate is not None
    assert estimate.objects == 50
    assert estimate.duration_s == pytest.approx(30)
    assert estimate.machine_hours == pytest.approx(30 / 3600)
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


def test_nothing_enhanced_gives_no_estimate_and_two_give_no_error() -> None:
    summary = RunSummary()
    summary.add(failed("a"))
    assert summary.estimate(Whole(objects=1, bytes=1), parallel=1) is None
    summary.add(ok("b"))
    summary.add(ok("c"))
    estimate = summary.estimate(Whole(objects=2, bytes=200), parallel=1)
    assert estimate is not None
    assert estimate.relative_error is None
