"""What a bulk run did, gathered row by row in constant memory, and its report."""

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipelines.folder_store import FolderStore
from pipelines.ledger import LedgerRow
from pipelines.report import (
    Counts,
    EnhanceReport,
    Estimate,
    FailedObject,
    HistogramCounter,
    ReportPair,
    SlowObject,
    WeightsCard,
)
from resnet_core.errors import DataError

NUM_PAIRS = 6
NUM_SLOWEST = 10
MAX_FAILED = 200
MAX_PAIR_PIXELS = 40_000_000
"""Larger outputs aren't shown in the report: it would take longer than the work itself."""

STAGES = ("get", "decode", "network", "encode", "put")


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


@dataclass(kw_only=True)
class RunSummary:
    """Figures of a run so far."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    num_pairs: int = NUM_PAIRS
    ok: int = 0
    failed: int = 0
    skipped: int = 0
    finished_bytes: int = 0
    """Of all sources, the failed ones too."""
    bytes_in: int = 0
    bytes_out: int = 0
    pixels_out: int = 0
    stage_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    failures: list[FailedObject] = field(default_factory=list[FailedObject])
    _costs: _Costs = field(default_factory=_Costs)
    _sizes_in: HistogramCounter = field(default_factory=HistogramCounter)
    _sizes_out: HistogramCounter = field(default_factory=HistogramCounter)
    _slowest: list[tuple[float, int, LedgerRow]] = field(
        default_factory=list[tuple[float, int, LedgerRow]]
    )
    _pairs: list[LedgerRow] = field(default_factory=list[LedgerRow])
    _pairs_seen: int = 0
    _chance: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    @property
    def objects(self) -> int:
        return self.ok + self.failed + self.skipped

    def add(self, row: LedgerRow) -> None:
        self.finished_bytes += row.source_bytes
        if row.status == "failed":
            self.failed += 1
            if len(self.failures) < MAX_FAILED:
                self.failures.append(FailedObject(key=row.key, reason=row.reason or ""))
        elif row.status == "skipped":
            self.skipped += 1
        else:
            self._add_ok(row)

    def _add_ok(self, row: LedgerRow) -> None:
        self.ok += 1
        self.bytes_in += row.source_bytes
        self.bytes_out += row.output_bytes or 0
        self.pixels_out += row.output_pixels
        for stage in STAGES:
            self.stage_s[stage] += getattr(row, f"{stage}_s")
        self._costs.add(row.source_bytes, row.total_s)
        self._sizes_in.add((row.source_width_px or 0) * (row.source_height_px or 0) / 1e6)
        self._sizes_out.add(row.output_pixels / 1e6)
        heapq.heappush(self._slowest, (row.total_s, self.ok, row))
        if len(self._slowest) > NUM_SLOWEST:
            heapq.heappop(self._slowest)
        if row.output_pixels <= MAX_PAIR_PIXELS:
            self._consider_pair(row)

    def _consider_pair(self, row: LedgerRow) -> None:
        """Each object has the same chance to be shown (reservoir sampling, Vitter 1985)."""
        self._pairs_seen += 1
        if len(self._pairs) < self.num_pairs:
            self._pairs.append(row)
            return
        place = self._chance.randrange(self._pairs_seen)
        if place < self.num_pairs:
            self._pairs[place] = row

    def estimate(self, whole: Whole, *, parallel: int) -> Estimate | None:
        """What the whole would take: costs go with source bytes. None if nothing was enhanced.

        `parallel`: how many objects are in work at once.
        """
        if self.bytes_in == 0:
            return None
        work_s = self._costs.seconds / self.bytes_in * whole.bytes
        return Estimate(
            objects=whole.objects,
            sample_objects=self.ok,
            duration_s=work_s / parallel,
            bytes_out=round(self.bytes_out / self.bytes_in * whole.bytes),
            machine_hours=work_s / parallel / 3600,
            relative_error=self._costs.relative_error(),
        )

    def report(
        self,
        *,
        source: FolderStore,
        target: FolderStore,
        weights: WeightsCard,
        settings: Sequence[tuple[str, str]],
        machine: str,
        duration_s: float,
        done_before: int,
        estimate: Estimate | None = None,
    ) -> EnhanceReport:
        name = source.root.name or source.url
        return EnhanceReport(
            title=f"{name}: sample of {self.objects}" if estimate else name,
            source=source.url,
            destination=target.url,
            started_at=self.started_at,
            duration_s=duration_s,
            counts=Counts(ok=self.ok, failed=self.failed, skipped=self.skipped + done_before),
            weights=weights,
            settings=tuple(settings),
            machine=machine,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            megapixels_out=self.pixels_out / 1e6,
            stage_s=tuple(self.stage_s.items()),
            histograms=(
                self._sizes_in.histogram(title="Sizes of the sources"),
                self._sizes_out.histogram(title="Sizes of the results"),
            ),
            pairs=self._read_pairs(source, target),
            slowest=tuple(
                SlowObject(
                    key=row.key,
                    seconds=seconds,
                    width=row.output_width_px or 0,
                    height=row.output_height_px or 0,
                )
                for seconds, _, row in sorted(self._slowest, key=lambda slow: -slow[0])
            ),
            failed=tuple(self.failures),
            estimate=estimate,
        )

    def _read_pairs(self, source: FolderStore, target: FolderStore) -> tuple[ReportPair, ...]:
        """Before and after of the chosen objects; one that changed or went meanwhile is left."""
        pairs: list[ReportPair] = []
        for row in sorted(self._pairs, key=lambda row: row.key):
            try:
                before, after = source.get(row.key).data, target.get(row.out_key or row.key).data
            except DataError:
                continue
            caption = (
                f"{row.source_width_px} x {row.source_height_px} to "
                f"{row.output_width_px} x {row.output_height_px} pixels"
            )
            pairs.append(ReportPair(key=row.key, before=before, after=after, caption=caption))
        return tuple(pairs)
