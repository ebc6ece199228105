"""A bulk run made of the parts of `resray enhance`, with its times taken."""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.bulk import BulkRun, Pool, Stage
from pipelines.enhance_object import ObjectStages, RunSettings, naming
from pipelines.ledger import LedgerRow, LedgerWriter, list_parts
from pipelines.selection import Selection
from pipelines.storage import Source, Store, open_source, open_target
from pipelines.summary import RunSummary
from resnet_core.weights import load_weights, weights_path

WEIGHTS = "sr-x2"


@dataclass(kw_only=True)
class Timing:
    """What came out of a run; times in seconds."""

    duration_s: float = 0.0
    """All of it, with what the engine takes to start its workers; Ray itself was up before."""
    to_first_s: float | None = None
    """Until the driver had the first row."""
    began_unix_s: float = float("inf")
    """When the first object was begun, by the workers' clock."""
    ended_unix_s: float = 0.0
    """When the last row was in the ledger."""
    summary: RunSummary = field(default_factory=RunSummary)

    @property
    def work_s(self) -> float:
        return self.ended_unix_s - self.began_unix_s

    def note(self, row: LedgerRow) -> None:
        self.began_unix_s = min(self.began_unix_s, row.finished_at.timestamp() - row.total_s)
        self.summary.add(row)


@dataclass(frozen=True, kw_only=True)
class Job:
    """From one prefix to another, as the command does it."""

    source: Source
    target: Store
    settings: RunSettings
    weights: str
    """The file."""

    @classmethod
    def between(cls, source_url: str, target_url: str) -> "Job":
        weights = load_weights(WEIGHTS)
        source = open_source(source_url)
        return cls(
            source=source,
            target=open_target(target_url, source),
            settings=RunSettings(weights_name=weights.name, weights_sha256=weights.sha256),
            weights=str(Path(weights_path(WEIGHTS)).resolve()),
        )

    @property
    def stages(self) -> ObjectStages:
        return ObjectStages(source=self.source, target=self.target, settings=self.settings)

    def run(self, stages: Sequence[Stage], pool: Pool, *, only_first: bool = False) -> Timing:
        """All that isn't done yet, or as far as the first result, which isn't recorded."""
        timing, began_s = Timing(), time.monotonic()
        selection = Selection(
            source=self.source,
            target=self.target,
            naming=naming(None),
            weights_sha256=self.settings.weights_sha256,
            settings_hash=self.settings.hash,
            parts=tuple(list_parts(self.target)),
        )
        bulk = BulkRun(list_works=selection, stages=stages, pool=pool)
        with LedgerWriter(self.target) as ledger:
            for row in bulk.rows():
                if timing.to_first_s is None:
                    timing.to_first_s = time.monotonic() - began_s
                    if only_first:
                        return timing
                ledger.append(row)
                timing.note(row)
        timing.ended_unix_s = time.time()
        timing.duration_s = time.monotonic() - began_s
        return timing


def fused_stage(stages: ObjectStages, build: Callable[[], Callable[..., LedgerRow]]) -> Stage:
    """All of an object in one worker, as on CPUs."""
    return Stage(name="all", build=build, give_up=stages.failed, has_network=True)


def peak_memory_bytes() -> int:
    """Of this process, ever (VmHWM)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
