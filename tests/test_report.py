"""The pages show all that they are told."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages_for_tests import WHEN, Page, enhance_report, evaluate_report

from pipelines.report import (
    MAX_COLUMNS,
    Counts,
    EnhanceReport,
    FailedObject,
    FailureKind,
    Histogram,
    ImageRow,
    Timeline,
    WeightsCard,
    render_enhance_report,
    render_evaluate_report,
    write_evaluate_report,
)
from resnet_core.errors import DataError


def test_enhance_page_tells_what_happened() -> None:
    text = " ".join(Page(render_enhance_report(enhance_report())).text.split())
    for told in (
        "Enhanced cat.jpg",
        "1,204",
        "Skipped20no images Done before77",
        "1 min 15 s",
        "16.1 /s",
        "2.5 MB",
        "abababababab",
        "Estimate for all 5,000,000 objects",
        "±12 %",
        "2 h",
        "1.0 TB",
        "+3.21 dB",
        "75.0 %",
        "Throughput over time",
        "mean 16.1, peak 18.8",
        "Failures per second",
        "Most changed cat.jpg",
        "changed by 1.8 levels",
        "2 very large results",
        "2 more are in the ledger",
        "Suspect: 2",
        "cat.jpg1.50",
        "1 more are in the ledger",
        "2026-05-04 10:30 UTC",
    ):
        assert told in text.replace("\xa0", " ")


def test_evaluate_page_tells_the_figures() -> None:
    text = " ".join(Page(render_evaluate_report(evaluate_report())).text.split())
    for told in (
        "33.50",
        "+3.50",
        "0.9500",
        "0.37",
        "PSNR-Y dB",
        "Quality against time",
        "image by image",
    ):
        assert told in text


def test_pages_of_nothing_and_of_infinite_figures_render() -> None:
    bare = EnhanceReport(
        title="none",
        source="a",
        destination="b",
        started_at=WHEN,
        duration_s=0.0,
        counts=Counts(ok=0),
        weights=WeightsCard(name="w", sha256="00" * 32, task="denoise", scale=1),
    )
    assert "none" in Page(render_enhance_report(bare)).text
    report = evaluate_report()
    row = replace(report.conditions[0].methods[1], psnr_db=math.inf, gain_db=math.inf)
    image = ImageRow(key="x", psnr_db=(math.inf, math.inf), ssim=(1.0, 1.0))
    result = replace(report.conditions[0], methods=(row,), images=(image,), strips=())
    assert "inf" in Page(render_evaluate_report(replace(report, conditions=(result,)))).text


def test_a_page_of_millions_with_hundreds_of_failures_stays_small_and_folds_them() -> None:
    report = replace(
        enhance_report(),
        counts=Counts(ok=5_000_000, failed=31_000),
        pair_groups=(),
        failed=tuple(
            FailedObject(key=f"folder/{'x' * 80}/{number}.jpg", reason="broken " * 10)
            for number in range(200)
        ),
        failure_kinds=(FailureKind(example="broken", count=30_000),),
    )
    html = render_enhance_report(report)
    assert len(html) < 150_000
    page = Page(html)
    assert page.all("details") == [{}]
    text = " ".join(page.text.split())
    for told in ("5,000,000", "30,000broken", "1,000other reasons", "The first 200, one by one"):
        assert told in text
    assert "30,800 more are in the ledger" in text
    few = Page(render_enhance_report(enhance_report()))
    assert [list(found) for found in few.all("details")] == [["open"]]


def test_a_timeline_without_failures_has_no_plot_of_them() -> None:
    timeline = Timeline(
        edges_s=(0.0, 7200.0, 9000.0), objects=(9, 3), megapixels=(0.0, 0.0), failed=(0, 0)
    )
    text = Page(render_enhance_report(replace(enhance_report(), timeline=timeline))).text
    assert "Failures per second" not in text
    assert "30 min" in text


def test_a_report_is_written_whole_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_evaluate_report(path, evaluate_report())
    assert path.read_text(encoding="utf-8") == render_evaluate_report(evaluate_report())
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_unwritable_report_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="report can't be written"):
        write_evaluate_report(tmp_path / "file" / "report.html", evaluate_report())


def test_histogram_refuses_edges_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 bins needs 3 edges, not 2"):
        Histogram(title="t", unit="MP", edges=(0, 1), counts=(1, 2))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 50))
def test_trimmed_and_merged_histograms_conserve_counts(counts: list[int], size: int) -> None:
    edges = (*(float(edge) for edge in range(len(counts))), math.inf)
    histogram = Histogram(title="t", unit="MP", edges=edges, counts=tuple(counts))
    for changed in (histogram.trimmed(), histogram.merged(size), histogram.readable()):
        assert sum(changed.counts) == sum(counts)
        assert set(changed.edges) <= set(edges)
    assert len(histogram.readable().counts) <= MAX_COLUMNS
    if any(counts):
        trimmed = histogram.trimmed().counts
        assert trimmed[0] > 0
        assert trimmed[-1] > 0


def test_quantiles_lie_where_the_counts_are() -> None:
    histogram = Histogram(title="t", unit="MP", edges=(0, 1, 2, math.inf), counts=(2, 2, 1))
    assert histogram.quantile(0.2) == pytest.approx(0.5)
    assert histogram.quantile(0.4) == pytest.approx(1)
    assert histogram.quantile(1.0) == 2
    assert replace(histogram, counts=(0, 0, 0)).quantile(0.5) is None
