"""Ray Data under the bulk run: one row for each object, whatever happens to the workers."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import ray

from cluster.connect import Resources, ray_session
from pipelines.bulk import (
    LARGEST_BATCH,
    MAX_ATTEMPTS,
    BulkRun,
    Conductor,
    Pool,
    Totals,
    bundles,
    unbundle,
)
from pipelines.ledger import LedgerRow
from pipelines.worklist import Verdict, Work


def work(number: int) -> Work:
    key = f"{number:04d}.png"
    return Work(key=key, bytes=10, etag="1", changed_key=key)


def listing(count: int, *, done: int = 0) -> Iterable[tuple[Work, Verdict]]:
    for number in range(count):
        yield work(number), "done" if number < done else "todo"


def row(item: Work, reason: str) -> LedgerRow:
    return LedgerRow(
        key=item.key,
        status="failed",
        reason=reason,
        source_etag=item.etag,
        source_bytes=item.bytes,
        weights_sha256="w",
        settings_hash="s",
    )


@dataclass(frozen=True)
class Fake:
    """Says who did it. Dies at each of `deadly` as often as the folder has no note of it yet."""

    notes: Path
    deadly: tuple[tuple[str, int], ...] = ()

    def __call__(self, item: Work) -> LedgerRow:
        for key, times in self.deadly:
            deaths = len(list(self.notes.glob(f"{key}.*")))
            if item.key == key and deaths < times:
                (self.notes / f"{key}.{deaths}").touch()
                os._exit(1)
        return row(item, f"done by {os.getpid()} {os.environ.get('MALLOC_TRIM_THRESHOLD_')}")

    def give_up(self, item: Work, reason: str) -> LedgerRow:
        return row(item, reason)


@pytest.fixture(scope="module")
def resources() -> Iterator[Resources]:
    with ray_session() as found:
        # Workers can't import this file, so its classes travel as they are.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield found
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def run(fake: Fake, pool: Pool, count: int, **options: int) -> tuple[BulkRun, list[LedgerRow]]:
    bulk = BulkRun(
        list_works=partial(listing, count, done=options.get("done", 0)),
        build=lambda: fake,
        pool=pool,
        limit=options.get("limit"),
    )
    return bulk, list(bulk.rows())


def keys(count: int, first: int = 0) -> list[str]:
    return [f"{number:04d}.png" for number in range(first, count)]


@pytest.mark.ray
def test_every_object_has_one_row_and_workers_have_their_allocator_set(
    resources: Resources, tmp_path: Path
) -> None:
    bulk, rows = run(Fake(tmp_path), Pool.of(resources, workers=2), 60, done=10)
    assert sorted(item.key for item in rows) == keys(60, 10)
    assert bulk.totals == Totals(todo=50, todo_bytes=500, done=10, complete=True)
    assert {(item.reason or "").split()[-1] for item in rows} == {"8000000000"}
    assert str(os.getpid()) not in {(item.reason or "").split()[2] for item in rows}


@pytest.mark.ray
def test_a_limit_takes_the_first_ones_that_are_still_to_do(
    resources: Resources, tmp_path: Path
) -> None:
    bulk, rows = run(Fake(tmp_path), Pool.of(resources), 30, done=3, limit=4)
    assert sorted(item.key for item in rows) == keys(7, 3)
    assert bulk.totals.todo == 4


@pytest.mark.ray
def test_workers_that_die_cost_nothing_but_time_and_a_deadly_object_is_given_up(
    resources: Resources, tmp_path: Path
) -> None:
    fake = Fake(tmp_path, deadly=(("0005.png", 1), ("0023.png", 99)))
    _, rows = run(fake, Pool.of(resources), 40)
    assert sorted(item.key for item in rows) == keys(40)
    by_key = {item.key: item.reason or "" for item in rows}
    assert by_key.pop("0023.png") == f"its worker died {MAX_ATTEMPTS} times at it"
    assert all(reason.startswith("done by") for reason in by_key.values())
    assert len(list(tmp_path.glob("0023.png.*"))) == MAX_ATTEMPTS


def test_results_travel_in_bundles_and_come_back() -> None:
    rows = [row(work(number), f"reason {number}") for number in range(5)]
    tables = list(bundles(rows))
    assert len(tables) == 1
    assert tables[0].num_rows == 1
    assert unbundle(tables[0]) == rows
    assert list(bundles([])) == []


@pytest.mark.parametrize(
    ("found", "workers", "expected"),
    [
        (Resources(cpus=2, gpus=0), None, (1, 2.0, 0.0, 2, 1)),
        (Resources(cpus=8, gpus=0), 3, (3, 2.0, 0.0, 2, 1)),
        (Resources(cpus=2, gpus=0), 4, (4, 0.5, 0.0, 1, 1)),
        (Resources(cpus=16, gpus=1), None, (1, 16.0, 1.0, 16, 8)),
        (Resources(cpus=16, gpus=4), None, (4, 4.0, 1.0, 4, 4)),
        (Resources(cpus=16, gpus=1), 2, (2, 8.0, 0.5, 8, 8)),
    ],
)
def test_workers_share_the_machine(
    found: Resources, workers: int | None, expected: tuple[float, ...]
) -> None:
    pool = Pool.of(found, workers=workers)
    assert (pool.workers, pool.cpus, pool.gpus, pool.threads, pool.overlap) == expected
    assert pool.workers * pool.cpus <= found.cpus


def test_the_conductor_lets_the_listing_run_ahead_by_a_window_only() -> None:
    conductor = Conductor(partial(listing, 3), window=LARGEST_BATCH)
    assert conductor.admits(LARGEST_BATCH - 1)
    assert not conductor.admits(LARGEST_BATCH)
    conductor.totals(finished=1)
    assert conductor.admits(LARGEST_BATCH)


def test_the_conductor_counts_attempts_until_one_ends() -> None:
    conductor = Conductor(partial(listing, 0), window=1)
    assert not conductor.any_begun(["a", "b"])
    assert [conductor.begin("a"), conductor.begin("a")] == [1, 2]
    assert conductor.any_begun(["a", "b"])
    conductor.end("a")
    assert conductor.begin("a") == 1


def test_a_listing_that_fails_is_told_to_whoever_asks() -> None:
    def broken() -> Iterable[tuple[Work, Verdict]]:
        raise OSError("gone")

    conductor = Conductor(broken, window=1)

    def ask() -> None:
        while True:
            conductor.totals(0)

    with pytest.raises(OSError, match="gone"):
        ask()
