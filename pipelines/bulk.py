"""Ray Data under `resray enhance`: the one module of the bulk run that knows the engine.

    ListingSource  one read task lists the source and yields batches of keys, as they are found
    stages         what is done with each object: one actor pool for all of it on CPUs; apart on
                   GPU machines, reading and writing as tasks on CPUs, the network on its GPU
    the driver     takes one small row for each object, as soon as it is done

A row of the dataset is a whole batch, and a block of its own (blocks are at most one byte large, so
each row is one), so it goes out as soon as it is there. A batch is some seconds of work (see
`pacing`), and it is given back whole, in one block, since the engine skips as many blocks of a
retry as it has from the attempt that died.

The Conductor, an actor without a CPU, keeps the listing a few batches ahead of the results (the
driver's memory stays the same for any number of objects), counts the whole meanwhile for the time
left, remembers which objects were in work when a worker died, so that an object that kills its
worker is given up after MAX_ATTEMPTS, and lets the run end where the store is gone. One that is
started again, because its process died, has its plan of batches from the driver.

Ray Data's own job checkpointing (2.60, beta) doesn't hold the contract: it needs one write task
behind a Parquet read, drops what a custom datasource read in silence, takes rows with an error for
done, doesn't look at etags, and loads every id into each of its actors. So the ledger is ours.
"""

import itertools
import pickle
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.connect import WORKER_ENVIRONMENT, Resources
from pipelines.data_engine import data_context, iterate, quieten
from pipelines.ledger import LedgerRow, Table
from pipelines.pacing import Costs, Limits, Plan
from pipelines.storage import StoreError
from pipelines.worklist import Verdict, Work
from resnet_core.errors import ConfigError

KEYS_BATCH_BYTES = 2**40
"""Without GPUs a batch is keys alone: no limit."""
PIXELS_BATCH_BYTES = 8_000_000
"""With them it holds images in the object store, ten to twenty times as large."""
CALLS_AT_ONCE = 2
"""Batches that a worker has in hand: the next one is read while the last of this one is written."""
TASKS_IN_FLIGHT = 2 * CALLS_AT_ONCE
BATCHES_AHEAD = TASKS_IN_FLIGHT + 1
"""Of each worker: those in flight and one that is listed."""
LISTED_AT_ONCE = 1000
MAX_ATTEMPTS = 3
"""With no other that may be at fault, after it was among those that a worker died at."""
POLL_S = 0.2
REPORT_EVERY_S = 0.2
REPORT_WITHIN_S = 2.0
MAX_WORKERS_A_CPU = 8
OVERLAP = 16
"""Objects that one worker has in hand at once, to read and write while others compute."""

ListWorks = Callable[[], Iterable[tuple[Work, Verdict]]]
"""Lists the source anew, with what is to be done about each object. Picklable."""

Item = Any
"""A Work, what a stage makes of it (with its `work`), a LedgerRow, which is done, or Stopped."""


@dataclass(frozen=True)
class Stopped:
    """In the place of what was not begun: why the run can't go on."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is done with every object, in order. All of it travels to the workers."""

    name: str
    build: Callable[[], Callable[[Item], Item]]
    """Called once in each worker, where it makes what it needs."""
    give_up: Callable[[Work, str], LedgerRow]
    """The row of an object that isn't tried again."""
    has_network: bool


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many workers with a network there are, and what each of them has."""

    smallest: int
    largest: int
    cpus: float
    gpus: float
    threads: int
    """Threads for computing, in each worker."""
    batch_bytes: int
    """Source bytes in one batch of objects at most, or one object that has more."""
    apart: bool
    """Whether reading and writing are stages of their own, on CPUs."""

    @classmethod
    def of(cls, resources: Resources, *, workers: tuple[int, int] | None = None) -> "Pool":
        """One worker for each GPU, else one for each node with all of its cores.

        `workers`: at least and at most so many, with equal shares of what is there. ConfigError if
        the machines are too small for the least.
        """
        gpus, node_cpus = int(resources.gpus), resources.smallest_node_cpus
        usual = gpus or max(int(resources.cpus // max(node_cpus, 1)), 1)
        smallest, largest = workers or (usual, usual)
        if smallest > MAX_WORKERS_A_CPU * max(resources.cpus, 1):
            raise ConfigError(
                f"--workers: {smallest} are more than {resources.cpus:g} CPUs can hold;"
                f" expected at most {int(MAX_WORKERS_A_CPU * resources.cpus)}"
            )
        on_node = max(-(-smallest * node_cpus // max(resources.cpus, 1)), 1)
        cpus = node_cpus / on_node
        share = cpus if cpus < 1 else float(int(cpus))
        return cls(
            smallest=smallest,
            largest=largest,
            cpus=0.0 if gpus else share,
            gpus=_share_of_gpu(gpus, smallest) if gpus else 0.0,
            threads=max(1, int(cpus)),
            batch_bytes=PIXELS_BATCH_BYTES if gpus else KEYS_BATCH_BYTES,
            apart=gpus > 0,
        )


def _share_of_gpu(gpus: int, workers: int) -> float:
    """What each worker holds of one GPU: none lies on two, and Ray counts in ten-thousandths."""
    on_one = -(-workers // gpus)
    return 10_000 // on_one / 10_000


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

    def __init__(self, list_works: ListWorks, *, pool: Pool) -> None:
        self._batches_ahead = BATCHES_AHEAD * pool.largest
        self._largest_bytes = pool.batch_bytes
        self._costs = Costs()
        self._finished = 0
        self._plan: Plan | None = None
        self._admitted = 0
        self._attempts: dict[str, int] = {}
        self._totals = Totals()
        self._error: Exception | None = None
        self._stopped: Stopped | None = None
        threading.Thread(target=self._survey, args=(list_works,), daemon=True).start()

    def _survey(self, list_works: ListWorks) -> None:
        try:
            for work, verdict in list_works():
                self._totals.count(work, verdict)
            self._totals.complete = True
        except Exception as error:  # noqa: BLE001  raised again where the driver asks
            self._error = error

    def report(self, finished: int, plan: Plan) -> tuple[Totals, Plan]:
        """Take note of what the driver has, results and plan; give the totals and a newer plan."""
        self._finished, self._plan = finished, plan
        if self._error is not None:
            raise self._error
        complete = self._totals.complete  # before the counts, which another thread goes on with
        wanted = self._costs.limits(largest_bytes=self._largest_bytes)
        newer = plan.moved(wanted, horizon=self._admitted + self._batches_ahead)
        return replace(self._totals, complete=complete), newer

    def stop(self, reason: str) -> None:
        """The run can't go on: nothing more is begun. The first reason counts."""
        self._stopped = self._stopped or Stopped(reason)

    def admit(self, number: int, listed: int) -> Limits | Literal["wait", "end"]:
        """Of batch `number`, behind `listed` objects."""
        if self._stopped:
            return "end"
        if self._plan is None or number >= self._plan.horizon:
            return "wait"
        limits = self._plan.limits(number)
        if listed >= self._finished + limits.objects * self._batches_ahead:
            return "wait"
        self._admitted = max(self._admitted, number + 1)
        return limits

    def begin(self, keys: Sequence[str]) -> Literal["new", "again"] | Stopped:
        """Take note that a worker starts on objects; `again` if one of them ended a worker."""
        if self._stopped:
            return self._stopped
        if any(key in self._attempts for key in keys):
            return "again"
        self._attempts.update(dict.fromkeys(keys, 0))
        return "new"

    def attempt(self, key: str) -> int:
        """Take note that a worker tries an object alone; which attempt this is, from 1."""
        self._attempts[key] = self._attempts.get(key, 0) + 1
        return self._attempts[key]

    def end(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._attempts.pop(key, None)

    def note(self, objects: int, source_bytes: int, seconds: float) -> None:
        """Take note of what a batch cost."""
        self._costs.note(objects=objects, source_bytes=source_bytes, seconds=seconds)


class ListingSource(Datasource):
    """The source's listing as a stream of blocks, each with one batch of works."""

    def __init__(
        self, list_works: ListWorks, conductor: Any, *, pool: Pool, limit: int | None
    ) -> None:
        super().__init__()
        self._list_works = list_works
        self._conductor = conductor
        self._pool = pool
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
        works = itertools.islice(todo, self._limit)
        listed = 0
        for number in itertools.count():
            limits = self._admitted(number, listed)
            batch = limits.take(works) if limits else []
            if not batch:
                return
            listed += len(batch)
            yield pack(batch)

    def _admitted(self, number: int, listed: int) -> Limits | None:
        """Of the next batch, as soon as it may be listed; None if the run is to end."""
        while (answer := _get(self._conductor.admit.remote(number, listed))) == "wait":
            time.sleep(POLL_S)
        return None if answer == "end" else answer


class StageWorker:
    """Runs one stage: an actor's class, or a task's function once made."""

    def __init__(self, stage: Stage, conductor: Any) -> None:
        self._stage = stage
        self._process = stage.build()
        self._conductor = conductor
        self._threads = ThreadPoolExecutor(OVERLAP)
        self._one_alone = threading.Lock()

    def __call__(self, table: Table) -> Iterator[Table]:
        for items in unpack(table):
            done = [item for item in items if isinstance(item, LedgerRow | Stopped)]
            todo = [item for item in items if not isinstance(item, LedgerRow | Stopped)]
            keys = [self._mark(item) for item in todo]
            began_s = time.monotonic()
            results = pack([*done, *self._results(todo, keys)])
            if todo and self._stage.has_network:
                source_bytes = sum(_work(item).bytes for item in todo)
                self._conductor.note.remote(len(todo), source_bytes, time.monotonic() - began_s)
            yield results
            self._conductor.end.remote(keys)

    def _results(self, todo: Sequence[Item], keys: Sequence[str]) -> Iterator[Item]:
        begun = _get(self._conductor.begin.remote(keys))
        if isinstance(begun, Stopped):
            yield begun
        elif begun == "new":
            yield from self._together(todo)
        else:
            yield from self._one_by_one(todo)

    def _together(self, todo: Sequence[Item]) -> Iterator[Item]:
        """Where the store is gone, what was in work still comes."""
        futures = [self._threads.submit(self._process, item) for item in todo]
        for future in futures:
            try:
                yield future.result()
            except CancelledError:
                continue
            except StoreError as error:
                yield self._stop(error)
                for each in futures:
                    each.cancel()

    def _one_by_one(self, todo: Sequence[Item]) -> Iterator[Item]:
        """After a crash: so only the object at fault is found in work again."""
        try:
            yield from map(self._alone, todo)
        except StoreError as error:
            yield self._stop(error)

    def _stop(self, error: StoreError) -> Stopped:
        _get(self._conductor.stop.remote(str(error)))
        return Stopped(str(error))

    def _alone(self, item: Item) -> Item:
        mark = self._mark(item)
        with self._one_alone:
            attempt: int = _get(self._conductor.attempt.remote(mark))
            if attempt > MAX_ATTEMPTS:
                reason = f"its worker died {MAX_ATTEMPTS} times at it ({self._stage.name})"
                return self._stage.give_up(_work(item), reason)
            result = self._process(item)
            self._conductor.end.remote([mark])
        return result

    def _mark(self, item: Item) -> str:
        return f"{self._stage.name}:{_work(item).key}"


def _run_task(table: Table, *, stage: Stage, conductor: Any) -> Iterator[Table]:
    yield from StageWorker(stage, conductor)(table)


def _work(item: Item) -> Work:
    return item if isinstance(item, Work) else item.work


def pack(items: Sequence[Item]) -> Table:
    """Items as one row of a table. Pickles stay between processes of one run."""
    pickles = [pickle.dumps(item, pickle.HIGHEST_PROTOCOL) for item in items]
    return pa.table({"items": pa.array([pickles], pa.list_(pa.large_binary()))})


def unpack(table: Table) -> Iterator[list[Item]]:
    """The items of each row."""
    for values in table["items"]:
        yield [pickle.loads(memoryview(value.as_buffer())) for value in values.values]  # noqa: S301


@dataclass(kw_only=True)
class BulkRun:
    """A run: iterate over `rows`, and read `totals` meanwhile."""

    list_works: ListWorks
    stages: Sequence[Stage]
    pool: Pool
    limit: int | None = None
    verbose: bool = False
    totals: Totals = field(default_factory=Totals)
    _finished: int = 0
    _stopped: Stopped | None = None
    _failure: Exception | None = None

    def __post_init__(self) -> None:
        ahead = BATCHES_AHEAD * self.pool.largest
        self._plan = Plan.first(largest_bytes=self.pool.batch_bytes, ahead=ahead)

    def rows(self) -> Iterator[LedgerRow]:
        """One row for each object, as soon as it is done, in no particular order.

        Raises StoreError after the last row of what was in work if the store is gone.
        """
        if not self._has_work():
            return
        # Beside the driver: no other machine that goes takes it along.
        node_id = ray.get_runtime_context().get_node_id()
        here: Any = NodeAffinitySchedulingStrategy(node_id, soft=True)
        conductor: Any = (
            ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(
                Conductor
            )
        ).remote(self.list_works, pool=self.pool)
        with self._reporting(conductor):
            for table in self._tables(conductor):
                for item in itertools.chain.from_iterable(unpack(table)):
                    if isinstance(item, Stopped):
                        self._stopped = self._stopped or item
                        # Again, to one that was started anew since.
                        conductor.stop.remote(item.reason)
                        continue
                    self._finished += 1
                    yield item
            while not (self.totals.complete or self._stopped or self._failure or self._is_enough):
                time.sleep(POLL_S)
        if self._failure is not None:
            raise self._failure
        if self._stopped is not None:
            raise StoreError(self._stopped.reason)

    @property
    def _is_enough(self) -> bool:
        return self._finished == self.limit

    def _has_work(self) -> bool:
        """Whether anything is to be done: a finished job needs no workers, only `totals`."""
        for work, verdict in self.list_works():
            self.totals.count(work, verdict)
            if verdict == "todo":
                return True
        self.totals.complete = True
        return False

    def _tables(self, conductor: Any) -> Iterator[Table]:
        batches = self._dataset(conductor).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        )
        yield from iterate(batches)

    @contextmanager
    def _reporting(self, conductor: Any) -> Generator[None]:
        """Meanwhile the conductor knows what has come, and `totals` are its newest."""
        over = threading.Event()

        def report() -> None:
            try:
                self._report(conductor)
                while not over.wait(REPORT_EVERY_S):
                    self._report(conductor)
            except Exception as error:  # noqa: BLE001  raised again where the run waits for it
                self._failure = error
                conductor.stop.remote(str(error))

        thread = threading.Thread(target=report, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(REPORT_WITHIN_S)

    def _report(self, conductor: Any) -> None:
        totals, self._plan = _get(conductor.report.remote(self._finished, self._plan))
        if self.limit is not None and self.limit < totals.todo:
            # Which of the bytes they are isn't known.
            totals = replace(totals, todo=self.limit, todo_bytes=0)
        self.totals = totals

    def _dataset(self, conductor: Any) -> ray.data.Dataset:
        if not self.verbose:
            quieten()
        context = data_context()
        context.target_max_block_size = 1
        # The conductor holds the listing back; the engine would take two batches of it, ten times
        # a second (`ray_remote_args`, which also says so, is deprecated).
        context._max_num_blocks_in_streaming_gen_buffer = LISTED_AT_ONCE  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        source = ListingSource(self.list_works, conductor, pool=self.pool, limit=self.limit)
        with DataContext.current(context):
            # The listing holds no CPU: an actor with all of them would starve it.
            dataset = ray.data.read_datasource(source, override_num_blocks=1, num_cpus=0)
            for stage in self.stages:
                if stage.has_network:
                    dataset = self._in_actors(dataset, stage, conductor)
                else:
                    dataset = self._in_tasks(dataset, stage, conductor)
            return dataset

    def _in_actors(
        self, dataset: ray.data.Dataset, stage: Stage, conductor: Any
    ) -> ray.data.Dataset:
        # `map_batches` wants a size of batches where there are GPUs, and would collect as many
        # objects first; here a block is a batch.
        return dataset.map_batches_internal(
            StageWorker,
            fn_constructor_args=(stage, conductor),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=self.pool.smallest,
                max_size=self.pool.largest,
                max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT,
                max_concurrent_calls_per_actor=CALLS_AT_ONCE,
                enable_true_multi_threading=True,
            ),
            num_cpus=self.pool.cpus,
            num_gpus=self.pool.gpus,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        )

    def _in_tasks(
        self, dataset: ray.data.Dataset, stage: Stage, conductor: Any
    ) -> ray.data.Dataset:
        return dataset.map_batches(
            partial(_run_task, stage=stage, conductor=conductor),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        )


def _get(ref: Any) -> Any:
    return ray.get(ref)
