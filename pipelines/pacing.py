"""How many objects a worker is given at once: so many that they take it about BATCH_S.

The engine takes about ten blocks a second from a worker, so batches of quick objects must be large;
and what a worker has in hand is lost with it, so those of slow ones must be small. What an object
costs is known only when the first are done, and changes along a listing.

A listing that is begun again, because its process died, must give the same batches: the engine
skips as many as it has. So limits are never changed for a batch that may have been given out; the
changes are kept, a few in a run.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.worklist import Work

BATCH_S = 2.0
LARGEST_BATCH = 500
WORTH_A_CHANGE = 1.5
_MEMORY = 0.9
"""Share of what was learnt that stays when the next batch is noted."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A batch is full with so many objects, or as soon as their sources have so many bytes."""

    objects: int
    bytes: int

    def take(self, works: Iterator[Work]) -> list[Work]:
        """The next batch; empty at the end."""
        batch: list[Work] = []
        size_bytes = 0
        for work in itertools.islice(works, self.objects):
            batch.append(work)
            size_bytes += work.bytes
            if size_bytes >= self.bytes:
                break
        return batch


Plan = tuple[tuple[int, Limits], ...]
"""From which batch on, counted from 0, there are which limits; the first from 0."""


class Pace:
    """The limits of each batch of a run, from what earlier ones cost. `largest_bytes`: at most."""

    def __init__(self, *, largest_bytes: int) -> None:
        self._largest_bytes = largest_bytes
        self._next = 0
        self._objects = self._bytes = self._seconds = 0.0
        self.plan: Plan = ((0, Limits(objects=1, bytes=largest_bytes)),)

    def limits(self, number: int) -> Limits:
        """Of batch `number`, which counts as given out."""
        self._next = max(self._next, number + 1)
        return next(limits for first, limits in reversed(self.plan) if first <= number)

    def note(self, *, objects: int, source_bytes: int, seconds: float) -> None:
        """A worker took `seconds` for a batch of `objects`."""
        self._objects = _MEMORY * self._objects + objects
        self._bytes = _MEMORY * self._bytes + source_bytes
        self._seconds = _MEMORY * self._seconds + seconds
        batches = BATCH_S / max(self._seconds, 1e-9)
        wanted = Limits(
            objects=_within(batches * self._objects, LARGEST_BATCH),
            bytes=_within(batches * self._bytes, self._largest_bytes),
        )
        if _differ(wanted.objects, self.plan[-1][1].objects) or _differ(
            wanted.bytes, self.plan[-1][1].bytes
        ):
            self._change(wanted)

    def _change(self, limits: Limits) -> None:
        kept = self.plan if self.plan[-1][0] < self._next else self.plan[:-1]
        self.plan = (*kept, (self._next, limits))


def _within(value: float, most: int) -> int:
    return max(1, min(round(value), most))


def _differ(one: int, other: int) -> bool:
    return max(one, other) > WORTH_A_CHANGE * min(one, other)
