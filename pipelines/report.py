"""What a run did, as plain data, and the one HTML file that shows it (see `html_page`).

EnhanceReport  -> render_enhance_report    after `resray enhance`
EvaluateReport -> write_evaluate_report    after `resray evaluate --report`
"""

import contextlib
import math
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

from markupsafe import Markup

from pipelines import charts
from pipelines.html_page import render_page
from pipelines.page_images import PairView
from pipelines.quantities import format_duration, format_figure
from resnet_core.errors import DataError

RIDGE_MERGE = 4
"""Bins of a stage's times that are drawn as one."""
MAX_COLUMNS = 10
"""Of a histogram as drawn: more could not be read on a telephone."""
MAX_UNFOLDED = 20
"""Failed objects that are listed without being asked for."""


@dataclass(frozen=True, kw_only=True)
class WeightsCard:
    """Which weights ran. `sha256` is of the weights file; `task` as in its metadata ("sr-x2")."""

    name: str
    sha256: str
    task: str
    scale: int
    parameters: int | None = None
    """Weights in the folded network."""
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Objects by final state. `skipped` are no images, and what the listing passes over."""

    ok: int
    suspect: int = 0
    left_alone: int = 0
    """Of those that are ok, like the suspect ones."""
    failed: int = 0
    skipped: int = 0
    done_before: int = 0
    """By an earlier run, from the same sources with the same weights and settings."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """`counts[i]` values lie in `edges[i] <= value < edges[i + 1]`; the last edge may be inf."""

    title: str
    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    note: str = ""
    """What the values are, in a sentence."""

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(
                f"a histogram of {len(self.counts)} bins needs {len(self.counts) + 1} edges, "
                f"not {len(self.edges)}"
            )

    def quantile(self, share: float) -> float | None:
        """A value that `share` of all lie under, from within the right bin; None of nothing.

        Inside a bin by proportion; from a last bin without end, its lower edge.
        """
        rank = share * sum(self.counts)
        below = 0
        for low, high, count in zip(self.edges, self.edges[1:], self.counts, strict=False):
            if count and below + count >= rank:
                within = min(max((rank - below) / count, 0.0), 1.0)
                return low if math.isinf(high) else low + (high - low) * within
            below += count
        return None

    def trimmed(self) -> "Histogram":
        """Without the empty bins at both ends; one bin stays."""
        taken = [index for index, count in enumerate(self.counts) if count] or [0]
        first, last = taken[0], taken[-1] + 1
        return replace(self, edges=self.edges[first : last + 1], counts=self.counts[first:last])

    def merged(self, size: int) -> "Histogram":
        """With each `size` neighbours as one bin, the last ones maybe fewer."""
        starts = range(0, len(self.counts), size)
        return replace(
            self,
            edges=(*(self.edges[start] for start in starts), self.edges[-1]),
            counts=tuple(sum(self.counts[start : start + size]) for start in starts),
        )

    def readable(self) -> "Histogram":
        """As it is drawn: trimmed, and of MAX_COLUMNS at most."""
        trimmed = self.trimmed()
        return trimmed.merged(math.ceil(len(trimmed.counts) / MAX_COLUMNS))


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """What one stage took.

    `times` is its histogram in seconds, in bins of one ratio above zero, the same for all stages.
    """

    name: str
    total_s: float
    """Summed over all objects and workers."""
    times: Histogram


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What was finished when: bin i lasts from `edges_s[i]` to `edges_s[i + 1]` after the start."""

    edges_s: tuple[float, ...]
    objects: tuple[int, ...]
    """Enhanced."""
    megapixels: tuple[float, ...]
    """Of their outputs."""
    failed: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SlowObject:
    """One of the objects that took longest."""

    key: str
    seconds: float
    width: int
    """Of the output, in pixels."""
    height: int


@dataclass(frozen=True, kw_only=True)
class FailedObject:
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SuspectObject:
    """A result that is too far from its source; `deviation` is a share of what is allowed."""

    key: str
    deviation: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class FailureKind:
    """Failures whose reasons are alike. `example` is one of their reasons in full."""

    example: str
    count: int


@dataclass(frozen=True, kw_only=True)
class ReportPair:
    """One image before and after, cut and compressed for the page by `page_images.pair_view`."""

    key: str
    view: PairView
    before_label: str = "Bicubic"
    after_label: str = "resray"
    caption: str = ""
    gain_db: float | None = None
    """PSNR of after minus PSNR of before, where a true image was there to measure against."""
    change_levels: float | None = None
    """Mean absolute difference between the result and its base, in levels of 255."""


@dataclass(frozen=True, kw_only=True)
class PairGroup:
    """Pairs that are shown for one reason, such as "Most changed"."""

    title: str
    pairs: tuple[ReportPair, ...]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the whole would take, from a sample."""

    objects: int
    sample_objects: int
    duration_s: float
    bytes_out: int
    machine_hours: float
    machines: int
    relative_error: float | None = None
    """Standard error of the duration as a share of it; None where the sample can't tell."""


@dataclass(frozen=True, kw_only=True)
class EnhanceReport:
    """Everything that the page after `resray enhance` shows.

    `failed` may hold fewer than `counts.failed`: the page then says how many it leaves out.
    """

    title: str
    source: str
    destination: str
    started_at: datetime
    duration_s: float
    counts: Counts
    weights: WeightsCard
    settings: tuple[tuple[str, str], ...] = ()
    """Name and value of each setting as the user would write it, in the order to show."""
    machine: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    megapixels_out: float = 0.0
    stages: tuple[StageTimes, ...] = ()
    """In the order of the pipeline."""
    whole_objects: StageTimes | None = None
    """All stages of an object together."""
    timeline: Timeline | None = None
    histograms: tuple[Histogram, ...] = ()
    pair_groups: tuple[PairGroup, ...] = ()
    pairs_left_out: tuple[str, ...] = ()
    """What could not be shown as a pair, and why."""
    slowest: tuple[SlowObject, ...] = ()
    suspect: tuple[SuspectObject, ...] = ()
    """The worst first; they may be fewer than `counts.suspect`."""
    failed: tuple[FailedObject, ...] = ()
    failure_kinds: tuple[FailureKind, ...] = ()
    """The most frequent first; they may stand for fewer than all."""
    estimate: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One line of a results table; `is_weights` tells this project's networks from the rest.

    `psnr_db`, `ssim`: means over the images. `ms_per_megapixel`: median, of output; None for the
    input itself, which costs nothing.
    """

    name: str
    is_weights: bool
    psnr_db: float
    ssim: float
    ms_per_megapixel: float | None
    gain_db: float
    """PSNR above the first row of the table."""
    deviation: float | None = None
    """The largest of the guard, of weights alone."""
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """One image's figures, by method in the order of the table."""

    key: str
    psnr_db: tuple[float, ...]
    ssim: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class CropStrip:
    """The same window of one image by every method, as WebP bytes: (label, PSNR dB, bytes)."""

    key: str
    crops: tuple[tuple[str, float | None, bytes], ...]


@dataclass(frozen=True, kw_only=True)
class ConditionResult:
    """All methods under one degradation ("bicubic x2", "noise sigma 25")."""

    label: str
    psnr_name: str
    ssim_name: str
    methods: tuple[MethodRow, ...]
    images: tuple[ImageRow, ...]
    strips: tuple[CropStrip, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluateReport:
    """Everything that the page after `resray evaluate` shows."""

    title: str
    folder: str
    num_images: int
    created_at: datetime
    machine: str
    command: str
    conventions: tuple[str, ...]
    conditions: tuple[ConditionResult, ...]
    weights: tuple[WeightsCard, ...] = ()


def write_evaluate_report(path: Path, report: EvaluateReport) -> None:
    """Write the page of an evaluation to `path`, whole or not at all. DataError if it can't be."""
    text = render_evaluate_report(report)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise DataError(f"{path}: the report can't be written: {reason}") from error


def render_enhance_report(report: EnhanceReport) -> str:
    """The page as text."""
    return render_page(
        "enhance.html",
        title=report.title,
        report=report,
        stages=_stage_plot(report),
        plots=_timeline_plots(report.timeline) if report.timeline else (),
        max_unfolded=MAX_UNFOLDED,
    )


def render_evaluate_report(report: EvaluateReport) -> str:
    """The page as text."""
    views = [_condition_view(result) for result in report.conditions]
    return render_page("evaluate.html", title=report.title, report=report, views=views)


@dataclass(frozen=True, kw_only=True)
class _StageLine:
    """A stage as a line of the table; `share` of the sum of all stages, from 0 to 1."""

    stage: StageTimes
    share: float
    median_s: float | None
    p95_s: float | None
    ridge: Markup


@dataclass(frozen=True, kw_only=True)
class _StagePlot:
    """All stages over one logarithmic axis of time."""

    shares: Markup
    lines: tuple[_StageLine, ...]
    axis: Markup


def _stage_plot(report: EnhanceReport) -> _StagePlot | None:
    """One line for each stage, then one for whole objects; None where nothing was timed."""
    shown = (*report.stages, *([report.whole_objects] if report.whole_objects else []))
    ridges = [stage.times.merged(RIDGE_MERGE) for stage in shown]
    taken = [index for ridge in ridges for index, count in enumerate(ridge.counts) if count]
    if not taken:
        return None
    first, last = max(min(taken) - 1, 0), min(max(taken) + 2, len(ridges[0].counts))
    low, high = ridges[0].edges[first], ridges[0].edges[last]

    def across(seconds: float) -> float:
        return math.log(seconds / low) / math.log(high / low)

    total_s = sum(stage.total_s for stage in report.stages) or 1.0
    lines: list[_StageLine] = []
    for index, (stage, ridge) in enumerate(zip(shown, ridges, strict=True)):
        median_s, p95_s = stage.times.quantile(0.5), stage.times.quantile(0.95)
        drawing = charts.ridge(
            ridge.counts[first:last],
            marks=[across(seconds) for seconds in (median_s, p95_s) if seconds],
            color=f"s{index}" if index < len(report.stages) else "plain",
            label=f"{stage.name}: how long it took",
        )
        lines.append(
            _StageLine(
                stage=stage,
                share=stage.total_s / total_s,
                median_s=median_s,
                p95_s=p95_s,
                ridge=drawing,
            )
        )
    decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    every = math.ceil(len(decades) / 5) or 1
    ticks = [(across(10.0**decade), _decade_name(decade)) for decade in decades[::every]]
    shares = [(stage.name, stage.total_s) for stage in report.stages]
    return _StagePlot(
        shares=charts.shares(shares, label="Share of each stage"),
        lines=tuple(lines),
        axis=charts.ruler(ticks, label="Time of one object"),
    )


def _decade_name(decade: int) -> str:
    """A power of ten of seconds: -2 -> "10 ms"."""
    return f"{10 ** (decade + 3):g} ms" if decade < 0 else f"{10**decade:,} s"


@dataclass(frozen=True, kw_only=True)
class _TimelinePlot:
    title: str
    note: str
    drawing: Markup


def _timeline_plots(timeline: Timeline) -> list[_TimelinePlot]:
    """Small plots over the same time, one below the other; that of failures only if there are."""
    edges = timeline.edges_s
    spans_s = [end - begin for begin, end in pairwise(edges)]
    ticks = [(second / edges[-1], text) for second, text in _elapsed_ticks(edges[-1])]
    spans = [f"{_clock(begin)} to {_clock(end)}" for begin, end in pairwise(edges)]
    measures = [("Objects per second", timeline.objects, "steps")]
    measures += [("Output megapixels per second", timeline.megapixels, "steps")]
    measures += [("Failures per second", timeline.failed, "steps bad")] * any(timeline.failed)
    plots: list[_TimelinePlot] = []
    for index, (title, values, kind) in enumerate(measures):
        rates = [value / span_s for value, span_s in zip(values, spans_s, strict=True)]
        mean, peak = format_figure(sum(values) / edges[-1]), format_figure(max(rates))
        plots.append(
            _TimelinePlot(
                title=title,
                note=f"mean {mean}, peak {peak}",
                drawing=charts.steps(
                    [edge / edges[-1] for edge in edges],
                    rates,
                    names=spans,
                    ticks=ticks if index == len(measures) - 1 else (),
                    kind=kind,
                    label=f"{title} over time",
                ),
            )
        )
    return plots


def _elapsed_ticks(end_s: float) -> list[tuple[float, str]]:
    """At most four round times up to `end_s` and the start, with how they read."""
    units = (
        (1.0, (1, 2, 5, 10, 15, 30)),
        (60.0, (1, 2, 5, 10, 15, 30)),
        (3600.0, (1, 2, 3, 6, 12)),
    )
    steps = [unit_s * factor for unit_s, factors in units for factor in factors]
    days = math.ceil(end_s / 86400 / 4)
    step_s = next((step for step in steps if end_s / step <= 4), 86400.0 * days)
    return [(0.0, "start")] + [
        (step_s * index, _clock(step_s * index)) for index in range(1, int(end_s / step_s) + 1)
    ]


def _clock(seconds: float) -> str:
    """A moment after the start."""
    return f"{seconds:.3g} s" if seconds < 60 else format_duration(seconds)


@dataclass(frozen=True, kw_only=True)
class _ConditionView:
    """A condition with what its drawings need. `best`: the weights with the highest PSNR."""

    result: ConditionResult
    best: MethodRow | None
    points: tuple[charts.Point, ...]
    gains: tuple[tuple[str, float], ...]


def _condition_view(result: ConditionResult) -> _ConditionView:
    ours = [row for row in result.methods if row.is_weights]
    best = max(ours, key=lambda row: row.psnr_db, default=None)
    gains: list[tuple[str, float]] = []
    if best is not None:
        index = result.methods.index(best)
        gains = [(image.key, image.psnr_db[index] - image.psnr_db[0]) for image in result.images]
    return _ConditionView(
        result=result,
        best=best,
        points=tuple(
            charts.Point(
                label=row.name, x=row.ms_per_megapixel, y=row.psnr_db, emphasis=row.is_weights
            )
            for row in result.methods
            if row.ms_per_megapixel and math.isfinite(row.psnr_db)
        ),
        gains=tuple(gain for gain in gains if math.isfinite(gain[1])),
    )
