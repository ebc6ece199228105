"""Ray Data under the bulk run: one row for each object, whatever happens to the workers."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.connect import Resources, ray_session
from pipelines.bulk import (
    BATCHES_AHEAD,
    MAX_ATTEMPTS,
    BulkRun,
    Conductor,
    Pool,
    Stage,
    Stopped,
    Totals,
    pack,
    unpack,
)
from pipelines.ledger import LedgerRow
from pipelines.pacing import Plan
from pipelines.storage import StoreError
from pipelines.worklist import Verdict, Work
from resnet_core.errors import ConfigError


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
    """Says who did it. Dies at each of `deadly` as often as the folder has no note of it yet.

    The store is gone at `gone`; `slow` takes a second, all others `pause_s`.
    """

    notes: Path
    deadly: tuple[tuple[str, int], ...] = ()
    gone: str = ""
    slow: str = ""
    pause_s: float = 0.0

    def __call__(self, item: Work | SimpleNamespace) -> LedgerRow:
        key = item.key if isinstance(item, Work) else item.work.key
        for deadly, times in self.deadly:
            deaths = len(list(self.notes.glob(f"{key}.*")))
            if deadly == key and deaths < times:
                (self.notes / f"{key}.{deaths}").touch()
                os._exit(1)
        time.sleep(1.0 if key == self.slow else self.pause_s)
        if key == self.gone:
            raise StoreError("no space left on device")
        work, by = (item, os.getpid()) if isinstance(item, Work) else (item.work, item.by)
        return row(work, f"done by {by} {os.environ.get('MALLOC_TRIM_THRESHOLD_')}")

    def give_up(self, item: Work, reason: str) -> LedgerRow:
        return row(item, reason)

    def fused(self) -> list[Stage]:
        return [Stage(name="all", build=lambda: self, give_up=self.give_up, has_network=True)]

    def apart(self, deadly_stage: str) -> list[Stage]:
        """Three stages, of which one dies."""

        def stage(name: str, process: Callable[[Any], Any]) -> Stage:
            if name == deadly_stage:
                inner = process

                def process(item: Any) -> Any:
                    self(item)
                    return inner(item)

            return Stage(
                name=name,
                build=lambda: process,
                give_up=self.give_up,
                has_network=name == "network",
            )

        return [
            stage("read", lambda work: SimpleNamespace(work=work, by=os.getpid())),
            stage("network", lambda half: SimpleNamespace(work=half.work, by=os.getpid())),
            stage("write", lambda half: row(half.work, f"done by {half.by}")),
        ]


class FailsInConductor:
    """A listing that goes on for long, and fails in the process that counts it."""

    def __call__(self) -> Iterator[tuple[Work, Verdict]]:
        yield from listing(100)
        if "_survey" in threading.current_thread().name:
            raise OSError("the listing broke")
        yield from listing(100_000)


@pytest.fixture(scope="module")
def resources() -> Iterator[Resources]:
    with ray_session() as found:
        # Workers can't import this file, so its classes travel as they are.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield found
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def start(stages: list[Stage], pool: Pool, count: int, **options: int) -> BulkRun:
    return BulkRun(
        list_works=partial(listing, count, done=options.get("done", 0)),
        stages=stages,
        pool=pool,
        limit=options.get("limit"),
    )


def run(fake: Fake, pool: Pool, count: int, **options: int) -> tuple[BulkRun, list[LedgerRow]]:
    bulk = start(fake.fused(), pool, count, **options)
    return bulk, list(bulk.rows())


def keys(count: int, first: int = 0) -> list[str]:
    return [f"{number:04d}.png" for number in range(first, count)]


@pytest.mark.ray
def test_every_object_has_one_row_and_workers_have_their_allocator_set(
    resources: Resources, tmp_path: Path
) -> None:
    bulk, rows = run(Fake(tmp_path), Pool.of(resources, workers=(2, 2)), 60, done=10)
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
    assert by_key.pop("0023.png") == f"its worker died {MAX_ATTEMPTS} times at it (all)"
    assert all(reason.startswith("done by") for reason in by_key.values())
    # Alone, and before that once among others, unless another one ended that worker first.
    assert len(list(tmp_path.glob("0023.png.*"))) in {MAX_ATTEMPTS, MAX_ATTEMPTS + 1}


@pytest.mark.ray
@pytest.mark.parametrize("deadly_stage", ["read", "network", "write"])
def test_stages_apart_give_one_row_for_each_object_whichever_dies(
    resources: Resources, tmp_path: Path, deadly_stage: str
) -> None:
    fake = Fake(tmp_path, deadly=(("0003.png", 1), ("0011.png", 99)))
    pool = replace(Pool.of(resources), cpus=0.0, apart=True)
    bulk = start(fake.apart(deadly_stage), pool, 24)
    by_key = {item.key: item.reason or "" for item in bulk.rows()}
    assert sorted(by_key) == keys(24)
    given_up = f"its worker died {MAX_ATTEMPTS} times at it ({deadly_stage})"
    assert by_key.pop("0011.png") == given_up
    assert all(reason.startswith("done by") for reason in by_key.values())


@pytest.mark.ray
def test_an_object_that_is_slow_while_another_is_deadly_is_done(
    resources: Resources, tmp_path: Path
) -> None:
    fake = Fake(tmp_path, deadly=(("0001.png", 99),), slow="0000.png")
    by_key = {
        item.key: item.reason or "" for item in start(fake.fused(), Pool.of(resources), 2).rows()
    }
    assert by_key["0000.png"].startswith("done by")
    assert by_key["0001.png"] == f"its worker died {MAX_ATTEMPTS} times at it (all)"


@pytest.mark.ray
def test_a_count_of_the_listing_that_fails_ends_the_run(
    resources: Resources, tmp_path: Path
) -> None:
    bulk = start(Fake(tmp_path, pause_s=0.02).fused(), Pool.of(resources), 0)
    bulk.list_works = FailsInConductor()
    with pytest.raises(Exception, match="the listing broke"):
        list(bulk.rows())


@pytest.mark.ray
def test_a_store_that_is_gone_ends_the_run_after_what_was_done(
    resources: Resources, tmp_path: Path
) -> None:
    bulk = start(Fake(tmp_path, gone="0150.png").fused(), Pool.of(resources), 3000)
    rows: list[LedgerRow] = []
    with pytest.raises(StoreError, match=r"^no space left on device$"):
        rows.extend(bulk.rows())  # keeps what came before the error
    assert set(keys(100)) <= {item.key for item in rows}
    assert len(rows) < 3000


def test_items_travel_and_come_back() -> None:
    items = [work(0), row(work(1), "a reason")]
    assert list(unpack(pack(items))) == [items]
    assert list(unpack(pack([]))) == [[]]


@pytest.mark.parametrize(
    ("found", "workers", "expected"),
    [
        ((2, 0, 2), None, (1, 1, 2.0, 0.0, 2)),
        ((8, 0, 8), (3, 3), (3, 3, 2.0, 0.0, 2)),
        ((2, 0, 2), (4, 4), (4, 4, 0.5, 0.0, 1)),
        ((12, 0, 4), None, (3, 3, 4.0, 0.0, 4)),
        ((12, 0, 4), (6, 20), (6, 20, 2.0, 0.0, 2)),
        ((16, 1, 16), None, (1, 1, 0.0, 1.0, 16)),
        ((16, 4, 4), None, (4, 4, 0.0, 1.0, 4)),
        ((16, 1, 16), (2, 2), (2, 2, 0.0, 0.5, 8)),
        ((16, 2, 16), (3, 8), (3, 8, 0.0, 0.5, 5)),
        ((16, 1, 16), (6, 6), (6, 6, 0.0, 0.1666, 2)),
    ],
)
def test_workers_share_the_machines(
    found: tuple[float, ...], workers: tuple[int, int] | None, expected: tuple[float, ...]
) -> None:
    cpus, gpus, node_cpus = found
    resources = Resources(cpus=cpus, gpus=gpus, smallest_node_cpus=node_cpus)
    pool = Pool.of(resources, workers=workers)
    assert (pool.smallest, pool.largest, pool.cpus, pool.gpus, pool.threads) == expected
    assert pool.apart == (gpus > 0)
    assert pool.smallest * pool.cpus <= cpus
    assert pool.smallest <= gpus * int(1 / (pool.gpus or 1)) or not gpus


def test_more_workers_than_the_machines_hold_are_refused() -> None:
    found = Resources(cpus=2, gpus=0, smallest_node_cpus=2)
    with pytest.raises(ConfigError, match="--workers: 17 are more than 2 CPUs can hold"):
        Pool.of(found, workers=(17, 17))


def conductor_of(list_works: Callable[[], Iterable[tuple[Work, Verdict]]]) -> Conductor:
    machine = Resources(cpus=2, gpus=0, smallest_node_cpus=2)
    return Conductor(list_works, pool=Pool.of(machine))


PLAN = Plan.first(largest_bytes=10**12, ahead=BATCHES_AHEAD)


def test_the_conductor_lets_the_listing_run_a_few_batches_ahead() -> None:
    conductor = conductor_of(partial(listing, 3))
    assert conductor.admit(0, 0) == "wait"  # the driver hasn't told its plan
    conductor.report(0, PLAN)
    for number in range(BATCHES_AHEAD):
        assert conductor.admit(number, number) == PLAN.limits(0)
    assert conductor.admit(BATCHES_AHEAD, BATCHES_AHEAD) == "wait"
    _, plan = conductor.report(1, PLAN)
    assert conductor.admit(BATCHES_AHEAD, BATCHES_AHEAD) == "wait"  # not within its horizon yet
    conductor.report(1, plan)
    assert conductor.admit(BATCHES_AHEAD, BATCHES_AHEAD) == PLAN.limits(0)


def test_a_conductor_that_begins_again_gives_the_batches_of_the_first() -> None:
    first = conductor_of(partial(listing, 0))
    first.report(0, PLAN)
    first.admit(0, 0)
    first.note(1, 10, 0.1)
    _, plan = first.report(0, PLAN)
    first.report(0, plan)
    given = [first.admit(number, 0) for number in range(plan.horizon)]
    assert len({str(limits) for limits in given}) == 1 + (plan.horizon > BATCHES_AHEAD)
    second = conductor_of(partial(listing, 0))
    second.note(1, 10, 0.5)
    assert second.admit(0, 0) == "wait"
    second.report(0, plan)
    second.note(1, 10, 0.9)
    assert [second.admit(number, 0) for number in range(plan.horizon)] == given


def test_the_conductor_counts_attempts_until_one_ends() -> None:
    conductor = conductor_of(partial(listing, 0))
    assert conductor.begin(["a", "b"]) == "new"
    assert conductor.begin(["b", "c"]) == "again"
    assert [conductor.attempt("b"), conductor.attempt("b"), conductor.attempt("c")] == [1, 2, 1]
    conductor.end(["a", "b", "c"])
    assert conductor.begin(["a", "b", "c"]) == "new"


def test_a_stopped_conductor_ends_everything() -> None:
    conductor = conductor_of(partial(listing, 0))
    conductor.stop("disk full")
    conductor.stop("another")
    assert conductor.begin(["a"]) == Stopped("disk full")
    assert conductor.admit(0, 0) == "end"


def test_a_listing_that_fails_is_told_to_whoever_asks() -> None:
    def broken() -> Iterable[tuple[Work, Verdict]]:
        raise OSError("gone")

    conductor = conductor_of(broken)

    def ask() -> None:
        while True:
            conductor.report(0, PLAN)

    with pytest.raises(OSError, match="gone"):
        ask()
