"""The source's listing against the ledger: what a bulk run takes, listed in a worker.

It is apart from what enhances, so that the processes that only list never load a network.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipelines.ledger import RecordedState, read_parts
from pipelines.storage import Source, Store
from pipelines.worklist import Naming, Verdict, Work, plan_work, resume, sample_evenly


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of the source's objects a run takes. Calling it lists them; it is picklable."""

    source: Source
    target: Store
    naming: Naming
    weights_sha256: str
    settings_hash: str
    parts: tuple[str, ...]
    """Parts of the ledger from earlier runs. A list, so that a second look sees the same."""
    retry_failed: bool = False
    sample: int | None = None

    def __call__(self) -> Iterable[tuple[Work, Verdict]]:
        if self.sample is not None:
            return ((work, "todo") for work in sample_evenly(self._works, self.sample))
        return resume(
            self._works(),
            RecordedState(read_parts(self.target, self.parts)),
            weights_sha256=self.weights_sha256,
            settings_hash=self.settings_hash,
            retry_failed=self.retry_failed,
        )

    def _works(self) -> Iterator[Work]:
        return plan_work(self.source.list_objects(), self.naming)
