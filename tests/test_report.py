"""The page is one file that needs nothing else, shows all it is told, and trusts no name."""

import base64
import hashlib
import io
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.page_images import pair_view
from pipelines.report import (
    MAX_COLUMNS,
    ConditionResult,
    Counts,
    CropStrip,
    EnhanceReport,
    Estimate,
    EvaluateReport,
    FailedObject,
    FailureKind,
    Histogram,
    ImageRow,
    MethodRow,
    PairGroup,
    ReportPair,
    SlowObject,
    StageTimes,
    Timeline,
    WeightsCard,
    render_enhance_report,
    render_evaluate_report,
    write_evaluate_report,
)
from resnet_core.errors import DataError

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>&{{ 7 * 7 }}'
WHEN = datetime(2026, 5, 4, 10, 30, tzinfo=UTC)
VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """What a browser would see: the tags, their attributes, the text; tags must nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def encoded(size: tuple[int, int], seed: int = 0, kind: str = "PNG") -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def stage(name: str, total_s: float) -> StageTimes:
    edges = tuple(2.0**power for power in range(-10, 11))
    times = Histogram(title=name, unit="s", edges=edges, counts=(0,) * 9 + (3, 5) + (0,) * 9)
    return StageTimes(name=name, total_s=total_s, times=times)


def enhance_report(name: str = "cat.jpg") -> EnhanceReport:
    return EnhanceReport(
        title=f"Enhanced {name}",
        source=f"in/{name}",
        destination=f"out/{name}",
        started_at=WHEN,
        duration_s=75.0,
        counts=Counts(ok=1204, failed=3, skipped=20, done_before=77),
        weights=WeightsCard(name=name, sha256="ab" * 32, task="sr-x2", scale=2, licence=name),
        settings=(("strength", "1.0"), (name, name)),
        machine=name,
        bytes_in=1_000_000,
        bytes_out=2_500_000,
        megapixels_out=812.0,
        stages=(stage("decode", 2.0), stage(name, 6.0)),
        whole_objects=stage("whole object", 8.0),
        timeline=Timeline(
            edges_s=(0.0, 32.0, 64.0, 75.0),
            objects=(500, 600, 104),
            megapixels=(300.0, 412.0, 100.0),
            failed=(0, 3, 0),
        ),
        histograms=(
            Histogram(title=name, unit=name, edges=(0, 1, math.inf), counts=(3, 4), note=name),
        ),
        pair_groups=(
            PairGroup(
                title=f"Most changed {name}",
                pairs=(
                    ReportPair(
                        key=name,
                        view=pair_view(encoded((20, 12)), encoded((40, 24)), budget_bytes=100_000),
                        before_label=name,
                        after_label=name,
                        caption=name,
                        gain_db=3.21,
                        change_levels=1.84,
                    ),
                ),
            ),
        ),
        pairs_left_out=(f"2 very large results {name}",),
        slowest=(SlowObject(key=name, seconds=9.0, width=40, height=24),),
        failed=(FailedObject(key=name, reason=name),),
        failure_kinds=(FailureKind(example=name, count=2),),
        estimate=Estimate(
            objects=5_000_000,
            sample_objects=20,
            duration_s=7200,
            bytes_out=10**12,
            machine_hours=2.0,
            relative_error=0.125,
        ),
    )


def evaluate_report(name: str = "cat.png") -> EvaluateReport:
    methods = (
        MethodRow(
            name="bicubic",
            is_weights=False,
            psnr_db=30.0,
            ssim=0.9,
            ms_per_megapixel=5.0,
            gain_db=0.0,
        ),
        MethodRow(
            name=name,
            is_weights=True,
            psnr_db=33.5,
            ssim=0.95,
            ms_per_megapixel=300.0,
            gain_db=3.5,
            sha256="cd" * 32,
        ),
    )
    result = ConditionResult(
        label=f"bicubic x2 {name}",
        psnr_name="PSNR-Y",
        ssim_name="SSIM-Y",
        methods=methods,
        images=(ImageRow(key=name, psnr_db=(30.0, 33.5), ssim=(0.9, 0.95)),),
        strips=(CropStrip(key=name, crops=((name, 33.5, encoded((8, 8), kind="WEBP")),)),),
    )
    return EvaluateReport(
        title=name,
        folder=name,
        num_images=1,
        created_at=WHEN,
        machine=name,
        command=name,
        conventions=(name,),
        conditions=(result,),
        weights=(WeightsCard(name=name, sha256="cd" * 32, task="sr-x2", scale=2),),
    )


PAGES = {
    "enhance": lambda name: render_enhance_report(enhance_report(name)),
    "evaluate": lambda name: render_evaluate_report(evaluate_report(name)),
}


@pytest.mark.parametrize("kind", PAGES)
def test_page_needs_nothing_outside_itself(kind: str) -> None:
    html = PAGES[kind]("cat.jpg")
    page = Page(html)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            link = attributes.get(name)
            assert link is None or link.startswith(("data:image/", "#"))
    assert page.all("link") == []
    assert not re.search(r"url\(|@import|fetch\(|https?://", html)


@pytest.mark.parametrize("kind", PAGES)
def test_policy_allows_the_own_style_and_script_and_no_other(kind: str) -> None:
    html = PAGES[kind]("cat.jpg")
    policy = next(
        meta["content"]
        for meta in Page(html).all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
        assert len(bodies) == 1
        digest = base64.b64encode(hashlib.sha256(bodies[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert 'style="' not in html  # the policy would block it


@pytest.mark.parametrize("kind", PAGES)
def test_names_are_shown_as_text_and_never_run(kind: str) -> None:
    evil, good = Page(PAGES[kind](EVIL)), Page(PAGES[kind]("cat.jpg"))
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in good.tags]
    assert EVIL in evil.text
    assert all(not name.startswith("on") for _, found in evil.tags for name in found)


@pytest.mark.parametrize("kind", PAGES)
def test_every_picture_and_control_has_a_name(kind: str) -> None:
    page = Page(PAGES[kind]("cat.jpg"))
    assert all(image.get("alt") for image in page.all("img"))
    assert all(slider.get("aria-label") for slider in page.all("input"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") == "true" for svg in page.all("svg"))
    assert page.all("html") == [{"lang": "en"}]


@pytest.mark.parametrize("kind", PAGES)
def test_every_inner_link_and_label_has_its_target(kind: str) -> None:
    page = Page(PAGES[kind]("cat.jpg"))
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    wanted = {(link["href"] or "")[1:] for link in page.all("a")}
    wanted |= {found["aria-labelledby"] for _, found in page.tags if "aria-labelledby" in found}
    assert wanted <= set(ids)


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
        "2026-05-04 10:30 UTC",
    ):
        assert told in text.replace("\xa0", " ")


def test_evaluate_page_tells_the_figures() -> None:
    text = " ".join(Page(render_evaluate_report(evaluate_report())).text.split())
    for told in ("33.50", "+3.50", "0.9500", "PSNR-Y dB", "Quality against time", "image by image"):
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
