"""Ray Data under `resray enhance`: the one module of the bulk run that knows the engine.

    ListingSource  one read task lists the source and yields batches of keys, as they are found
    EnhanceWorker  an actor with the network: reads, enhances and writes one object after the other
    the driver     takes one small row for each object, as soon as it is done

A row of the dataset is a whole batch, and a block of its own (blocks are at most one byte large, so
each row is one), so it goes out as soon as it is there. The engine looks after its tasks about ten
times a second, so workers give their results in bundles: at the end of a batch, and every half
second within it.

The Conductor, an actor without a CPU, keeps the listing at most a window ahead of the results (the
driver's memory stays the same for any number of objects), counts the whole meanwhile for the time
left, and remembers which objects were in work when a worker died, so that an object that kills its
worker is given up after MAX_ATTEMPTS.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from cluster.connect import WORKER_ENVIRONMENT, Resources
from pipelines.ledger import SCHEMA, LedgerRow, Table
from pipelines.worklist import Verdict, Work, batches

LARGEST_BATCH = 16
TASKS_IN_FLIGHT = 2
MAX_ATTEMPTS = 3
POLL_S = 0.05
BUNDLE_S = 0.5
TOTALS_EVERY_S = 0.5

ListWorks = Callable[[], Iterable[tuple[Work, Verdict]]]
"""Lists the source anew, with what is to be done about each object. Picklable."""


class Enhance(Protocol):
    """What a worker does with one object, once built."""

    def __call__(self, work: Work) -> LedgerRow: ...

    def give_up(self, work: Work, reason: str) -> LedgerRow:
        """The row of an object that isn't tried again."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many workers there are, and what each of them has."""

    workers: int
    cpus: float
    gpus: float
    threads: int
    """Threads for computing, in each worker."""
    overlap: int
    """Objects that one worker has in hand at once, to read and write while the GPU computes."""

    @classmethod
    def of(cls, resources: Resources, *, workers: int | None = None) -> "Pool":
        """One worker for each GPU, else one with all cores; or `workers` with equal shares."""
        gpus = int(resources.gpus)
        count = workers or max(gpus, 1)
        cpus = resources.cpus / count
        return cls(
            workers=count,
            cpus=cpus if cpus < 1 else float(int(cpus)),
            gpus=min(1.0, gpus / count),
            threads=max(1, int(cpus)),
            overlap=min(8, max(2, int(cpus))) if gpus else 1,
        )


@dataclass(kw_only=True)
class Totals:
    """The whole listing, by what is to be done. Still growing unless `complete`."""

    todo: int = 0
    todo_bytes: int = 0
    done: int = 0
    failed_before: int = 0
    complete: bool = False

    @property
    def objects(self) -> int:
        return self.todo + self.done + self.failed_before

    def count(self, work: Work, verdict: Verdict) -> None:
        if verdict == "todo":
            self.todo += 1
            self.todo_bytes += work.bytes
        elif verdict == "done":
            self.done += 1
        else:
            self.failed_before += 1


class Conductor:
    """Shared knowledge of a run; every method returns at once."""

    def __init__(self, list_works: ListWorks, *, window: int) -> None:
        self._window = window
        self._finished = 0
        self._attempts: dict[str, int] = {}
        self._totals = Totals()
        self._error: Exception | None = None
        threading.Thread(target=self._survey, args=(list_works,), daemon=True).start()

    def _survey(self, list_works: ListWorks) -> None:
        try:
            for work, verdict in list_works():
                self._totals.count(work, verdict)
            self._totals.complete = True
        except Exception as error:  # noqa: BLE001  raised again where the driver asks
            self._error = error

    def totals(self, finished: int) -> Totals:
        """Take note of how many results the driver has, and give the totals so far."""
        self._finished = finished
        if self._error is not None:
            raise self._error
        return replace(self._totals)

    def admits(self, listed: int) -> bool:
        """Whether the listing may go on after `listed` objects."""
        return listed < self._finished + self._window

    def begin(self, key: str) -> int:
        """Take note that a worker starts on an object; the number of this attempt, from 1."""
        self._attempts[key] = self._attempts.get(key, 0) + 1
        return self._attempts[key]

    def end(self, key: str) -> None:
        self._attempts.pop(key, None)

    def any_begun(self, keys: list[str]) -> bool:
        """Whether an earlier attempt at one of the objects ended with its worker."""
        return any(key in self._attempts for key in keys)


class ListingSource(Datasource):
    """The source's listing as a stream of blocks, each with one batch of works."""

    def __init__(
        self, list_works: ListWorks, conductor: Any, *, workers: int, limit: int | None
    ) -> None:
        super().__init__()
        self._list_works = list_works
        self._conductor = conductor
        self._workers = workers
        self._limit = limit

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002
        per_task_row_limit: int | None = None,  # noqa: ARG002
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(self._read, unknown)]

    def _read(self) -> Iterator[Block]:
        todo = (work for work, verdict in self._list_works() if verdict == "todo")
        listed = 0
        for batch in batches(
            itertools.islice(todo, self._limit), workers=self._workers, largest=LARGEST_BATCH
        ):
            while not _get(self._conductor.admits.remote(listed)):
                time.sleep(POLL_S)
            listed += len(batch)
            yield pa.table({"works": [[work.to_dict() for work in batch]]})


class EnhanceWorker:
    """The actor. It builds what it needs itself, so nothing heavy travels."""

    def __init__(self, build: Callable[[], Enhance], conductor: Any, *, overlap: int) -> None:
        self._enhance = build()
        self._conductor = conductor
        self._overlap = overlap

    def __call__(self, batch: Table) -> Iterator[Table]:
        for works in batch["works"].to_pylist():
            yield from bundles(self._run([Work(**work) for work in works]))

    def _run(self, works: list[Work]) -> Iterator[LedgerRow]:
        # After a crash one at a time: so only the object at fault is found in work again.
        crashed: bool = _get(self._conductor.any_begun.remote([work.key for work in works]))
        threads = 1 if crashed else self._overlap
        if threads == 1:
            yield from map(self._one, works)
        else:
            with ThreadPoolExecutor(threads) as pool:
                yield from pool.map(self._one, works)

    def _one(self, work: Work) -> LedgerRow:
        attempt: int = _get(self._conductor.begin.remote(work.key))
        if attempt > MAX_ATTEMPTS:
            row = self._enhance.give_up(work, f"its worker died {MAX_ATTEMPTS} times at it")
        else:
            row = self._enhance(work)
        self._conductor.end.remote(work.key)
        return row


def bundles(rows: Iterable[LedgerRow]) -> Iterator[Table]:
    """Rows as tables of one row, a list of them: what came within BUNDLE_S or so."""
    bundle: list[LedgerRow] = []
    began_s = time.monotonic()
    for row in rows:
        bundle.append(row)
        if time.monotonic() - began_s > BUNDLE_S:
            yield _bundle(bundle)
            bundle = []
            began_s = time.monotonic()
    if bundle:
        yield _bundle(bundle)


def unbundle(table: Table) -> list[LedgerRow]:
    return [LedgerRow(**row) for rows in table["rows"].to_pylist() for row in rows]


def _bundle(rows: list[LedgerRow]) -> Table:
    values = pa.array([[asdict(row) for row in rows]], pa.list_(pa.struct(list(SCHEMA))))
    return pa.table({"rows": values})


@dataclass(kw_only=True)
class BulkRun:
    """A run: iterate over `rows`, and read `totals` meanwhile."""

    list_works: ListWorks
    build: Callable[[], Enhance]
    pool: Pool
    limit: int | None = None
    verbose: bool = False
    totals: Totals = field(default_factory=Totals)

    def rows(self) -> Iterator[LedgerRow]:
        """One row for each object, as soon as it is done, in no particular order."""
        window = 4 * LARGEST_BATCH * (self.pool.workers * TASKS_IN_FLIGHT + 1)
        conductor = (
            ray.remote(Conductor)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
            .remote(self.list_works, window=window)
        )
        finished, asked_at_s = 0, 0.0
        for table in self._dataset(conductor).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            for row in unbundle(table):
                finished += 1
                yield row
            if time.monotonic() - asked_at_s > TOTALS_EVERY_S:
                self._ask(conductor, finished)
                asked_at_s = time.monotonic()
        while not self.totals.complete:
            self._ask(conductor, finished)
            time.sleep(0 if self.totals.complete else POLL_S)

    def _ask(self, conductor: Any, finished: int) -> None:
        totals: Totals = _get(conductor.totals.remote(finished))
        if self.limit is not None and self.limit < totals.todo:
            # Which of the bytes they are isn't known.
            totals = replace(totals, todo=self.limit, todo_bytes=0)
        self.totals = totals

    def _dataset(self, conductor: Any) -> ray.data.Dataset:
        if not self.verbose:
            _quieten()
        context = DataContext.get_current().copy()
        context.target_max_block_size = 1
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1
        source = ListingSource(
            self.list_works, conductor, workers=self.pool.workers, limit=self.limit
        )
        with DataContext.current(context):
            # The listing holds no CPU: an actor with all of them would starve it.
            listing = ray.data.read_datasource(source, override_num_blocks=1, num_cpus=0)
            return listing.map_batches(
                EnhanceWorker,
                fn_constructor_args=(self.build, conductor),
                fn_constructor_kwargs={"overlap": self.pool.overlap},
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    size=self.pool.workers, max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT
                ),
                num_cpus=self.pool.cpus,
                num_gpus=self.pool.gpus,
                runtime_env={"env_vars": WORKER_ENVIRONMENT},
            )


def _get(ref: Any) -> Any:
    return ray.get(ref)


def _quieten() -> None:
    """Ray Data writes its plan and each error's trace to the terminal; files keep them."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
