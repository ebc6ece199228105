"""What a run did, as plain data, and the one HTML file that shows it.

A report is a single file with no outside asset: styles and script are inline (and named by hash
in a Content-Security-Policy that allows nothing else), pictures are data URIs. A moved or mailed
page still works. The templates lie in `pipelines/pages/`; every value is escaped there.

    EnhanceReport  -> write_enhance_report     after `resray enhance`
    EvaluateReport -> write_evaluate_report    after `resray evaluate --report`
"""

import base64
import bisect
import contextlib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from uuid import uuid4

import jinja2
from markupsafe import Markup

from pipelines import charts
from pipelines.page_images import EncodedView, PairView, pair_view
from resnet_core.errors import DataError

PAGE_IMAGES_BYTES = 4_000_000
"""Encoded bytes that all pictures of one page share."""

MEGAPIXEL_EDGES = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, math.inf)
"""Bin edges, in megapixels, for a histogram of image sizes."""


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
    """Objects by final state. `skipped`: already done by an earlier run with the same settings."""

    ok: int
    failed: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        return self.ok + self.failed + self.skipped


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """`counts[i]` values lie in `edges[i] <= value < edges[i + 1]`; the last edge may be inf."""

    title: str
    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(
                f"a histogram of {len(self.counts)} bins needs {len(self.counts) + 1} edges, "
                f"not {len(self.edges)}"
            )


class HistogramCounter:
    """Counts values into fixed bins, one at a time, in constant memory."""

    def __init__(self, edges: Sequence[float] = MEGAPIXEL_EDGES) -> None:
        self._edges = tuple(edges)
        self._counts = [0] * (len(self._edges) - 1)

    def add(self, value: float) -> None:
        """Count one value; those outside the edges go to the first or the last bin."""
        index = bisect.bisect_right(self._edges, value) - 1
        self._counts[min(max(index, 0), len(self._counts) - 1)] += 1

    def histogram(self, *, title: str, unit: str = "MP") -> Histogram:
        return Histogram(title=title, unit=unit, edges=self._edges, counts=tuple(self._counts))


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
class ReportPair:
    """One image before and after, as encoded bytes of any format that the project reads.

    `before` may be the source itself: it is turned upright and enlarged by bicubic to the size of
    `after`. Large pictures are shown as their most detailed window at full size.
    """

    key: str
    before: bytes
    after: bytes
    before_label: str = "Bicubic"
    after_label: str = "resray"
    caption: str = ""
    gain_db: float | None = None
    """PSNR of after minus PSNR of before, where a true image was there to measure against."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the whole would take, from a sample."""

    objects: int
    sample_objects: int
    duration_s: float
    bytes_out: int
    machine_hours: float
    machines: int = 1
    relative_error: float | None = None
    """Standard error of the duration as a share of it; None where the sample can't tell."""


@dataclass(frozen=True, kw_only=True)
class EnhanceReport:
    """Everything that the page after `resray enhance` shows.

    `failed` may hold fewer than `counts.failed`: the page then says how many it leaves out.
    `stage_s` are seconds of work summed over all workers, in the order of the pipeline.
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
    stage_s: tuple[tuple[str, float], ...] = ()
    histograms: tuple[Histogram, ...] = ()
    pairs: tuple[ReportPair, ...] = ()
    slowest: tuple[SlowObject, ...] = ()
    failed: tuple[FailedObject, ...] = ()
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


@dataclass(frozen=True, kw_only=True)
class _Page:
    """The parts that every page shares."""

    title: str
    style: Markup
    script: Markup
    policy: str
    charts: object = field(default=charts)


def write_enhance_report(path: Path, report: EnhanceReport) -> None:
    """Write the page of a run to `path`, whole or not at all. DataError where it can't be."""
    _write_whole(path, render_enhance_report(report))


def write_evaluate_report(path: Path, report: EvaluateReport) -> None:
    """Write the page of an evaluation to `path`, whole or not at all. DataError if it can't be."""
    _write_whole(path, render_evaluate_report(report))


def render_enhance_report(report: EnhanceReport) -> str:
    """The page as text."""
    budget = PAGE_IMAGES_BYTES // max(len(report.pairs), 1)
    views = [_view(pair, budget) for pair in report.pairs]
    page = _environment().get_template("enhance.html")
    return page.render(page=_page(report.title), report=report, pairs=views)


def render_evaluate_report(report: EvaluateReport) -> str:
    """The page as text."""
    views = [_condition_view(result) for result in report.conditions]
    page = _environment().get_template("evaluate.html")
    return page.render(page=_page(report.title), report=report, views=views)


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


def _view(pair: ReportPair, budget_bytes: int) -> tuple[ReportPair, PairView]:
    return pair, pair_view(pair.before, pair.after, budget_bytes=budget_bytes)


def _page(title: str) -> _Page:
    style, script = _asset("style.css"), _asset("page.js")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    # Both are the package's own files, never user data.
    return _Page(title=title, style=Markup(style), script=Markup(script), policy=policy)  # noqa: S704


@cache
def _asset(name: str) -> str:
    return (resources.files("pipelines") / "pages" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=format_count,
        duration=format_duration,
        size=format_bytes,
        figure=format_figure,
        data_uri=_data_uri,
        webp_uri=_webp_uri,
    )
    return environment


def _data_uri(view: EncodedView) -> str:
    return f"data:{view.media_type};base64,{base64.b64encode(view.data).decode('ascii')}"


def _webp_uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"


def _write_whole(path: Path, text: str) -> None:
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


def format_count(value: int) -> str:
    """1204 -> "1,204"."""
    return f"{value:,}"


def format_duration(seconds: float) -> str:
    """0.0123 -> "12 ms", 75 -> "1 min 15 s", 90000 -> "1 d 1 h"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two_units(whole, 60, "min", "s")
    if whole < 86400:
        return _two_units(round(whole / 60), 60, "h", "min")
    return _two_units(round(whole / 3600), 24, "d", "h")


def _two_units(value: int, ratio: int, large: str, small: str) -> str:
    whole, rest = divmod(value, ratio)
    return f"{whole:,} {large} {rest} {small}" if rest else f"{whole:,} {large}"


def format_bytes(value: float) -> str:
    """Decimal units: 1_530_000 -> "1.5 MB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} PB"


def format_figure(value: float, digits: int = 3) -> str:
    """About `digits` significant digits without an exponent: 1234.5 -> "1,234"."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "n/a"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"
