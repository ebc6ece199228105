"""What a bulk run did, gathered row by row in constant memory, and its report."""

import bisect
import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from pipelines.auto import NO_WEIGHTS
from pipelines.ledger import LedgerRow
from pipelines.page_images import pair_view
from pipelines.report import (
    Counts,
    EnhanceReport,
    Estimate,
    FailedObject,
    FailureKind,
    Histogram,
    PairGroup,
    ReportPair,
    SlowObject,
    StageTimes,
    SuspectObject,
    Timeline,
    WeightsCard,
)
from pipelines.storage import Source, Store, StoreError
from resnet_core.errors import ResrayError

NUM_PAIRS = 6
"""By chance, beside the most and the least changed ones."""
NUM_EXTREMES = 3
NUM_SLOWEST = 10
NUM_SUSPECT = 10
MAX_FAILED = 200
MAX_REASON_CHARACTERS = 300
MAX_FAILURE_KINDS = 100
SHOWN_FAILURE_KINDS = 10
MAX_PAIR_PIXELS = 40_000_000
"""Larger outputs aren't shown in the report: it would take longer than the work itself."""
PAGE_IMAGES_BYTES = 4_000_000
"""Encoded bytes that all pictures of one page share."""
MAX_TIME_BINS = 128
MIN_TIMELINE_OBJECTS = 12
"""Fewer make no course of time."""

STAGES = ("get", "decode", "network", "encode", "put")

MEGAPIXEL_EDGES = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, math.inf)
NOISE_EDGES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, math.inf)
QUALITY_EDGES = tuple(float(quality) for quality in range(0, 101, 10))
LEVEL_EDGES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, math.inf)
SECOND_EDGES = tuple(2.0 ** (eighth / 8) for eighth in range(-17 * 8, 17 * 8 + 1))
"""From 8 microseconds to 36 hours in bins of 9 %."""


class HistogramCounter:
    """Counts values into fixed bins, one at a time, in constant memory."""

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = tuple(edges)
        self._counts = [0] * (len(self._edges) - 1)

    def add(self, value: float) -> None:
        """Count one value; those outside the edges go to the first or the last bin."""
        index = bisect.bisect_right(self._edges, value) - 1
        self._counts[min(max(index, 0), len(self._counts) - 1)] += 1

    def histogram(self, *, title: str, unit: str, note: str = "") -> Histogram:
        return Histogram(
            title=title, unit=unit, note=note, edges=self._edges, counts=tuple(self._counts)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _TimeBin:
    """What was finished within one width of time."""

    objects: int = 0
    pixels: int = 0
    failed: int = 0

    def __add__(self, other: "_TimeBin") -> "_TimeBin":
        return _TimeBin(
            objects=self.objects + other.objects,
            pixels=self.pixels + other.pixels,
            failed=self.failed + other.failed,
        )


def _paired(bins: Sequence[_TimeBin]) -> list[_TimeBin]:
    """Neighbours together: half as many bins of double width."""
    return [sum(bins[index : index + 2], _TimeBin()) for index in range(0, len(bins), 2)]


class TimelineCounter:
    """Counts what was finished when, in at most MAX_TIME_BINS bins however long it goes on.

    The bins are of one width, a power of two seconds. Where they don't reach, it doubles and
    neighbours become one, so that the bins depend on the rows and not on their order.
    """

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._width_s = 1
        self._end_s = 0.0
        self._bins: list[_TimeBin] = []

    def add(self, finished_at: datetime, *, pixels: int = 0, failed: bool = False) -> None:
        """Count one object, enhanced or failed. A time before the start counts as the start."""
        after_s = max((finished_at - self._start).total_seconds(), 0.0)
        while after_s >= self._width_s * MAX_TIME_BINS:
            self._bins = _paired(self._bins)
            self._width_s *= 2
        index = int(after_s // self._width_s)
        self._bins += [_TimeBin()] * (index + 1 - len(self._bins))
        self._bins[index] += _TimeBin(objects=not failed, pixels=pixels, failed=failed)
        self._end_s = max(self._end_s, after_s)

    def timeline(self) -> Timeline | None:
        """The course of the run, in fewer and wider bins where it has few objects.

        None where there are too few for any. It ends with the last object; a rest of less than
        half a bin belongs to the bin before.
        """
        count = sum(bin_.objects + bin_.failed for bin_ in self._bins)
        bins, width_s = self._bins, self._width_s
        while len(bins) > 12 and count < 4 * len(bins):
            bins, width_s = _paired(bins), width_s * 2
        if len(bins) > 1 and self._end_s - (len(bins) - 1) * width_s < width_s / 2:
            bins = [*bins[:-2], bins[-2] + bins[-1]]
        if count < MIN_TIMELINE_OBJECTS or len(bins) < 2:
            return None
        return Timeline(
            edges_s=(*(float(index * width_s) for index in range(len(bins))), self._end_s),
            objects=tuple(bin_.objects for bin_ in bins),
            megapixels=tuple(bin_.pixels / 1e6 for bin_ in bins),
            failed=tuple(bin_.failed for bin_ in bins),
        )


class _Ranking:
    """The `limit` rows with the smallest rank, or the largest if `descending`, best first."""

    def __init__(self, limit: int, *, descending: bool = False) -> None:
        self._limit = limit
        self._descending = descending
        self._ranked: list[tuple[Any, LedgerRow]] = []

    def add(self, rank: object, row: LedgerRow) -> None:
        self._ranked.append((rank, row))
        self._ranked.sort(key=itemgetter(0), reverse=self._descending)
        del self._ranked[self._limit :]

    @property
    def rows(self) -> list[LedgerRow]:
        return [row for _, row in self._ranked]


class _PairChoice:
    """The objects to show: suspect, the most and the least changed, and some others by chance.

    The chance is a hash of the key, so that the same objects are shown in whatever order they
    come, and each is as likely as any other.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._most = _Ranking(NUM_EXTREMES, descending=True)
        self._least = _Ranking(NUM_EXTREMES)
        self._suspect = _Ranking(NUM_EXTREMES, descending=True)
        self._by_chance = _Ranking(NUM_PAIRS + 3 * NUM_EXTREMES)

    def add(self, row: LedgerRow) -> None:
        if row.output_pixels > MAX_PAIR_PIXELS:
            self.left_out += 1
            return
        digest = hashlib.blake2b(row.key.encode("utf-8", "surrogateescape"), digest_size=8)
        self._by_chance.add(digest.digest(), row)
        if row.status == "suspect":
            self._suspect.add((row.deviation or 0.0, row.key), row)
        elif row.change_levels is not None:
            self._most.add((row.change_levels, row.key), row)
            self._least.add((row.change_levels, row.key), row)

    def groups(self) -> list[tuple[str, list[LedgerRow]]]:
        """Title and rows of each group; no object is in two of them.

        Few objects are one group without a title.
        """
        suspect = self._suspect.rows
        first = [("Suspect", suspect)] if suspect else []
        suspects = {row.key for row in suspect}
        most, least = self._most.rows, self._least.rows
        extremes = {row.key for row in (*most, *least)}
        are_few = len(extremes) < 2 * NUM_EXTREMES
        taken = suspects if are_few else suspects | extremes
        others = [row for row in self._by_chance.rows if row.key not in taken][:NUM_PAIRS]
        if are_few:
            return [*first, ("Others" if suspect else "", others)]
        return [
            *first,
            ("Most changed", most),
            ("Least changed", least),
            ("Others, chosen by chance", others),
        ]


class _FailureKinds:
    """Counts failures by reasons that are alike but for numbers and quoted names."""

    def __init__(self) -> None:
        self._kinds: dict[str, FailureKind] = {}

    def add(self, reason: str) -> None:
        """Count one; new kinds above MAX_FAILURE_KINDS are not."""
        kind = re.sub(r"'[^']*'|\"[^\"]*\"|\d[\d.,]*", "#", reason)
        known = self._kinds.get(kind)
        if known is not None:
            self._kinds[kind] = replace(known, count=known.count + 1)
        elif len(self._kinds) < MAX_FAILURE_KINDS:
            self._kinds[kind] = FailureKind(example=reason, count=1)

    def most_frequent(self) -> tuple[FailureKind, ...]:
        ranked = sorted(self._kinds.values(), key=lambda kind: -kind.count)
        return tuple(ranked[:SHOWN_FAILURE_KINDS])


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The source, as counted, for the estimate from a sample."""

    objects: int
    bytes: int


@dataclass
class _Costs:
    """Sums of seconds and bytes of single objects, for a ratio estimate and its error."""

    count: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    seconds_squared: float = 0.0
    bytes_squared: float = 0.0
    product: float = 0.0

    def add(self, size: int, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds
        self.bytes += size
        self.seconds_squared += seconds * seconds
        self.bytes_squared += size * size
        self.product += seconds * size

    def relative_error(self) -> float | None:
        """Standard error of the ratio of seconds to bytes, as a share of it (Cochran 1977)."""
        if self.count < 3 or self.seconds <= 0 or self.bytes <= 0:
            return None
        ratio = self.seconds / self.bytes
        residual = self.seconds_squared - 2 * ratio * self.product + ratio**2 * self.bytes_squared
        variance = max(residual, 0.0) / (self.count - 1)
        return math.sqrt(variance / self.count) / (self.seconds / self.count)


class _StageCounter:
    """The sum and the histogram of what one stage took."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self._times = HistogramCounter(SECOND_EDGES)

    def add(self, seconds: float) -> None:
        self.total_s += seconds
        self._times.add(seconds)

    def times(self, name: str) -> StageTimes:
        histogram = self._times.histogram(title=name, unit="s")
        return StageTimes(name=name, total_s=self.total_s, times=histogram)


@dataclass(kw_only=True)
class RunSummary:
    """Figures of a run so far."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ok: int = 0
    """Enhanced, the suspect ones and those that `auto` left alone too."""
    suspect: int = 0
    failed: int = 0
    skipped: int = 0
    finished_bytes: int = 0
    """Of all sources, the failed ones too."""
    bytes_in: int = 0
    bytes_out: int = 0
    pixels_out: int = 0
    failures: list[FailedObject] = field(default_factory=list[FailedObject])

    def __post_init__(self) -> None:
        self._timeline = TimelineCounter(self.started_at)
        self._stages = {stage: _StageCounter() for stage in STAGES}
        self._whole_objects = _StageCounter()
        self._costs = _Costs()
        self._sizes = HistogramCounter(MEGAPIXEL_EDGES)
        self._changes = HistogramCounter(LEVEL_EDGES)
        self._noise = HistogramCounter(NOISE_EDGES)
        self._qualities = HistogramCounter(QUALITY_EDGES)
        self._choices = Counter[str]()
        self._slowest = _Ranking(NUM_SLOWEST, descending=True)
        self._suspects = _Ranking(NUM_SUSPECT, descending=True)
        self._pairs = _PairChoice()
        self._failure_kinds = _FailureKinds()

    @property
    def objects(self) -> int:
        return self.ok + self.failed + self.skipped

    @property
    def stage_s(self) -> dict[str, float]:
        """Seconds of work for each stage, summed over all workers."""
        return {name: stage.total_s for name, stage in self._stages.items()}

    @property
    def suspects(self) -> tuple[SuspectObject, ...]:
        """The worst first."""
        return tuple(
            SuspectObject(key=row.key, deviation=row.deviation or 0.0, reason=row.reason or "")
            for row in self._suspects.rows
        )

    @property
    def left_alone(self) -> int:
        """For which `auto` chose no weights."""
        return self._choices[NO_WEIGHTS.name]

    @property
    def choices(self) -> str:
        """How often `auto` chose what, on one line; "" without it."""
        counts = sorted(self._choices.items(), key=lambda each: (-each[1], each[0]))
        return ", ".join(f"{count:,} {name}" for name, count in counts)

    def add(self, row: LedgerRow) -> None:
        self.finished_bytes += row.source_bytes
        self._costs.add(row.source_bytes, row.total_s)
        match row.status:
            case "ok":
                self._add_ok(row)
            case "suspect":
                self.suspect += 1
                self._suspects.add((row.deviation or 0.0, row.key), row)
                self._add_ok(row)
            case "failed":
                self._add_failed(row)
            case "skipped":
                self.skipped += 1

    def _add_failed(self, row: LedgerRow) -> None:
        self.failed += 1
        self._timeline.add(row.finished_at, failed=True)
        reason = row.reason or "no reason was recorded"
        if len(reason) > MAX_REASON_CHARACTERS:
            reason = reason[: MAX_REASON_CHARACTERS - 1] + "…"
        self._failure_kinds.add(reason)
        if len(self.failures) < MAX_FAILED:
            self.failures.append(FailedObject(key=row.key, reason=reason))

    def _add_ok(self, row: LedgerRow) -> None:
        self.ok += 1
        self.bytes_in += row.source_bytes
        self.bytes_out += row.output_bytes or 0
        self.pixels_out += row.output_pixels
        self._timeline.add(row.finished_at, pixels=row.output_pixels)
        for name, stage in self._stages.items():
            stage.add(getattr(row, f"{name}_s"))
        self._whole_objects.add(row.total_s)
        self._sizes.add((row.source_width_px or 0) * (row.source_height_px or 0) / 1e6)
        if row.change_levels is not None:
            self._changes.add(row.change_levels)
        if row.chosen is not None:
            self._choices[row.chosen] += 1
        if row.noise_levels is not None:
            self._noise.add(row.noise_levels)
        if row.jpeg_quality is not None:
            self._qualities.add(row.jpeg_quality)
        self._slowest.add((row.total_s, row.key), row)
        self._pairs.add(row)

    def estimate(self, whole: Whole, *, parallel: float, machines: int = 1) -> Estimate | None:
        """What the whole would take: costs go with source bytes, those of what is no image too.

        `parallel`: how many objects are in work at once, on average, on so many machines. None if
        nothing was enhanced.
        """
        if self.bytes_in == 0:
            return None
        work_s = self._costs.seconds / self.finished_bytes * whole.bytes
        return Estimate(
            objects=whole.objects,
            sample_objects=self.ok,
            duration_s=work_s / parallel,
            bytes_out=round(self.bytes_out / self.finished_bytes * whole.bytes),
            machine_hours=machines * work_s / parallel / 3600,
            machines=machines,
            relative_error=self._costs.relative_error(),
        )

    def report(
        self,
        *,
        source: Source,
        target: Store,
        weights: WeightsCard,
        settings: Sequence[tuple[str, str]],
        machine: str,
        duration_s: float,
        done_before: int,
        estimate: Estimate | None = None,
    ) -> EnhanceReport:
        groups, left_out = self._read_pairs(source, target)
        name = source.url.rstrip("/").rpartition("/")[2] or source.url
        return EnhanceReport(
            title=f"{name}: sample of {self.objects}" if estimate else name,
            source=source.url,
            destination=target.url,
            started_at=self.started_at,
            duration_s=duration_s,
            counts=Counts(
                ok=self.ok,
                suspect=self.suspect,
                left_alone=self.left_alone,
                failed=self.failed,
                skipped=self.skipped,
                done_before=done_before,
            ),
            weights=weights,
            settings=(*([("chosen", self.choices)] if self.choices else []), *settings),
            machine=machine,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            megapixels_out=self.pixels_out / 1e6,
            stages=tuple(stage.times(name) for name, stage in self._stages.items()),
            whole_objects=self._whole_objects.times("whole object"),
            timeline=self._timeline.timeline(),
            histograms=self._histograms(),
            pair_groups=groups,
            pairs_left_out=left_out,
            slowest=tuple(
                SlowObject(
                    key=row.key,
                    seconds=row.total_s,
                    width=row.output_width_px or 0,
                    height=row.output_height_px or 0,
                )
                for row in self._slowest.rows
            ),
            suspect=self.suspects,
            failed=tuple(self.failures),
            failure_kinds=self._failure_kinds.most_frequent(),
            estimate=estimate,
        )

    def _histograms(self) -> tuple[Histogram, ...]:
        """Those that have something in them."""
        every = (
            self._sizes.histogram(
                title="Sizes of the sources", unit="megapixels", note="Of those enhanced."
            ),
            self._changes.histogram(
                title="How much they changed",
                unit="levels of 255",
                note="Mean difference of a result from its base: the source itself, or its bicubic"
                " enlargement.",
            ),
            self._noise.histogram(title="Noise of the sources", unit="levels of 255"),
            self._qualities.histogram(
                title="JPEG quality of the sources",
                unit="quality",
                note="Of those that are or were JPEG; the lowest, where they were saved again.",
            ),
        )
        return tuple(histogram for histogram in every if any(histogram.counts))

    def _read_pairs(
        self, source: Source, target: Store
    ) -> tuple[tuple[PairGroup, ...], tuple[str, ...]]:
        """Before and after of the chosen objects, and a line for each that can't be shown.

        Once a store fails as a whole it is asked no more.
        """
        chosen = self._pairs.groups()
        budget = PAGE_IMAGES_BYTES // max(sum(len(rows) for _, rows in chosen), 1)
        large = self._pairs.left_out
        left_out = [f"{large:,} very large result{'s' * (large > 1)}"] if large else []
        pairs: dict[str, list[ReportPair]] = {title: [] for title, _ in chosen}
        for title, row in ((title, row) for title, rows in chosen for row in rows):
            try:
                before = source.get(row.key).data
                after = target.get(row.out_key or row.key).data
                view = pair_view(before, after, budget_bytes=budget)
            except ResrayError as error:
                left_out.append(f"{row.key}: {str(error).removeprefix(f'{row.key}: ')}")
                if isinstance(error, StoreError):
                    break
            else:
                is_enlarged = row.output_width_px != row.source_width_px
                pair = ReportPair(
                    key=row.key,
                    view=view,
                    before_label="Bicubic" if is_enlarged else "Input",
                    change_levels=row.change_levels,
                    caption=_told_choice(row),
                )
                pairs[title].append(pair)
        groups = (PairGroup(title=title, pairs=tuple(found)) for title, found in pairs.items())
        return tuple(group for group in groups if group.pairs), tuple(left_out)


def _told_choice(row: LedgerRow) -> str:
    """What `auto` chose for an image, and what it saw there; "" without it."""
    if row.chosen is None:
        return ""
    seen = [] if row.noise_levels is None else [f"noise {row.noise_levels:.1f} levels"]
    seen += [] if row.grain_levels is None else [f"grain {row.grain_levels:.1f}"]
    seen += [] if row.colour_levels is None else [f"in colour {row.colour_levels:.1f}"]
    seen += [] if row.sharpness is None else [f"sharpness {row.sharpness:.2f}"]
    seen += [] if row.jpeg_quality is None else [f"JPEG quality {row.jpeg_quality}"]
    return f"chosen: {row.chosen} ({', '.join(seen) or 'nothing told'})"
