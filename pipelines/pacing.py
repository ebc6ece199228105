"""How many objects a worker is given at once: so many that they take it about BATCH_S.

The engine takes about ten blocks a second from a worker, so batches of quick objects must be large;
and what a worker has in hand is lost with it, so those of slow ones must be small. What an object
costs is known only when the first are done, and changes along a listing.

A listing that is begun again, because its process died, must give the same batches: the engine
skips as many as it has. So the driver keeps the plan, and a change begins only behind the horizon,
up to which batches may have been listed: no batch behind it is, before the driver moves it.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.worklist import Work

BATCH_S = 2.0
LARGEST_BATCH = 500
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

    def is_near(self, other: "Limits") -> bool:
        """Whether a change from one to the other isn't worth it."""
        pairs = ((self.objects, other.objects), (self.bytes, other.bytes))
        return all(max(pair) <= 1.5 * min(pair) + 1 for pair in pairs)


@dataclass(kw_only=True)
class Costs:
    """What objects cost lately."""

    objects: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0

    def note(self, *, objects: int, source_bytes: int, seconds: float) -> None:
        """A worker took `seconds` for a batch of `objects`."""
        self.objects = _MEMORY * self.objects + objects
        self.bytes = _MEMORY * self.bytes + source_bytes
        self.seconds = _MEMORY * self.seconds + seconds

    def limits(self, *, largest_bytes: int) -> Limits | None:
        """Of a batch that takes BATCH_S, as far as the largest; None if nothing was noted."""
        if self.objects == 0:
            return None
        batches = BATCH_S / max(self.seconds, 1e-9)
        return Limits(
            objects=_within(batches * self.objects, LARGEST_BATCH),
            bytes=_within(batches * self.bytes, largest_bytes) if self.bytes else largest_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The limits of every batch below the horizon; the last ones go on behind it.

    `changes`: from which batch on, counted from 0, there are which limits.
    """

    changes: tuple[tuple[int, Limits], ...]
    horizon: int

    @classmethod
    def first(cls, *, largest_bytes: int, ahead: int) -> "Plan":
        """Single objects, so that all workers start at once, for `ahead` batches."""
        return cls(changes=((0, Limits(objects=1, bytes=largest_bytes)),), horizon=ahead)

    def limits(self, number: int) -> Limits:
        """Of batch `number`."""
        return next(limits for first, limits in reversed(self.changes) if first <= number)

    def moved(self, wanted: Limits | None, *, horizon: int) -> "Plan":
        """The horizon further on, never back, and from the old one the limits that are wanted."""
        changes = self.changes
        if wanted is not None and not wanted.is_near(changes[-1][1]):
            kept = changes if changes[-1][0] < self.horizon else changes[:-1]
            changes = (*kept, (self.horizon, wanted))
        return Plan(changes=changes, horizon=max(self.horizon, horizon))


def _within(value: float, most: int) -> int:
    return max(1, min(round(value), most))
