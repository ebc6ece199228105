"""From a listing to what is to be done: names of the results, resume, limit, sample.

Everything here is a generator over a sorted listing and holds only a few objects at a time.

Names. A result keeps its source's key. Only where the format changes does the key's extension
change with it: with `--format`, and for GIF, which becomes PNG. Two sources can then want one name
(`a.png` and `a.jpg` with `--format webp`). The source that has that name itself gets it, else the
first in the order of keys; the others fail with a reason that names the winner.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipelines.ledger import RecordedState
from pipelines.storage import ObjectInfo

Verdict = Literal["todo", "done", "failed before"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One source object and the name that its result would have if its format changes.

    `problem` says why nothing is to be done but to record it; see `ObjectInfo`.
    """

    key: str
    bytes: int
    etag: str
    changed_key: str
    problem: str | None = None
    is_error: bool = False


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How a key's extension changes. Extensions are lower case, with their dot.

    `extension` is that of `--format`, whose other spellings (".jpeg") in `kept` stay as they are;
    without `--format` it is None, and only the extensions in `replaced` change.
    """

    known: frozenset[str]
    replaced: tuple[tuple[str, str], ...] = ((".gif", ".png"),)
    extension: str | None = None
    kept: frozenset[str] = frozenset()

    def split(self, key: str) -> tuple[str, str]:
        """Stem and extension; an extension that no image format has is part of the stem."""
        folder, slash, name = key.rpartition("/")
        stem, dot, last = name.rpartition(".")
        extension = f".{last.lower()}"
        if not dot or not stem or extension not in self.known:
            return key, ""
        return f"{folder}{slash}{stem}", extension

    def is_image_name(self, key: str) -> bool:
        """Whether the name claims an image, or claims nothing."""
        name = key.rpartition("/")[2]
        return bool(self.split(key)[1]) or "." not in name

    def changed_key(self, key: str) -> str:
        stem, extension = self.split(key)
        if self.extension is None:
            replacement = dict(self.replaced).get(extension)
            return key if replacement is None else stem + replacement
        return key if extension in self.kept else stem + self.extension


def plan_work(objects: Iterable[ObjectInfo], naming: Naming) -> Iterator[Work]:
    """Give each object its result's name, and a problem to those whose name is taken.

    Keys with one stem lie between `stem` and `stem/` in the sorted listing, so a group is decided
    as soon as the listing has passed it; groups that are open at once are prefixes of one another.
    """
    groups: dict[str, list[Work]] = {}
    for info in objects:
        place = info.key.encode()
        while groups:
            stem = next(reversed(groups))
            if place < f"{stem}/".encode():
                break
            yield from _settle(groups.pop(stem))
        work = Work(
            key=info.key,
            bytes=info.bytes,
            etag=info.etag,
            changed_key=naming.changed_key(info.key),
            problem=info.problem,
            is_error=info.is_error,
        )
        if info.problem is not None:
            yield work
        else:
            groups.setdefault(naming.split(info.key)[0], []).append(work)
    for group in groups.values():
        yield from _settle(group)


def _settle(group: list[Work]) -> Iterator[Work]:
    """Members of one stem: the first that wants a name has it, those that own it before all."""
    owners: dict[str, str] = {}
    for work in sorted(group, key=lambda work: work.key != work.changed_key):
        owners.setdefault(work.changed_key, work.key)
    for work in group:
        owner = owners[work.changed_key]
        if owner == work.key:
            yield work
        else:
            problem = f"the result's name {work.changed_key} is that of {owner}: rename one of them"
            yield replace(work, problem=problem, is_error=True)


def resume(
    works: Iterable[Work],
    recorded: RecordedState,
    *,
    weights_sha256: str,
    settings_hash: str,
    retry_failed: bool,
) -> Iterator[tuple[Work, Verdict]]:
    """What is still to do: new and changed objects, and with `retry_failed` the failed ones."""
    for work in works:
        status = recorded.status(work.key, work.etag, weights_sha256, settings_hash)
        if status == "done" and not work.is_error:
            yield work, "done"
        elif status == "failed" and not retry_failed:
            yield work, "failed before"
        else:
            yield work, "todo"


def sample_evenly(list_works: Callable[[], Iterable[Work]], count: int) -> Iterator[Work]:
    """`count` works that can be done, one of each equal part of the listing, which is read twice.

    Which one is by chance, the same each time: names in a fixed turn (`a.jpg`, `a.json`, `b.jpg`)
    would otherwise give one kind alone.
    """
    total = sum(1 for work in list_works() if work.problem is None)
    rng = np.random.default_rng(count)
    edges = [index * total // count for index in range(count + 1)]
    parts = (range(*each) for each in itertools.pairwise(edges))
    chosen = {int(rng.integers(part.start, part.stop)) for part in parts if part}
    usable = (work for work in list_works() if work.problem is None)
    return (work for index, work in enumerate(usable) if index in chosen)
