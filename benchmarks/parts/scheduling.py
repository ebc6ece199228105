"""How busy the engine keeps 32 workers on simulated nodes, with a network that sleeps."""

import functools
import itertools
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from cluster.connect import ray_session
from parts.contestant import Answer, Contestant, Order, answer_orders
from parts.figures import Figure, table
from pipelines.bulk import BulkRun, Pool
from pipelines.ledger import LedgerRow
from pipelines.worklist import Verdict, Work
from resnet_core.batching import WindowBatcher

NODES = 4
CPUS_A_NODE = 8
WORKERS = NODES * CPUS_A_NODE
SLEEP_S = 0.05
OBJECT_BYTES = 100_000
OBJECTS = 1_000_000
"""More than are ever done: a run ends when its steady state has been long enough."""
LATE_S = 5.0
"""How long a result may take to the driver."""
START_S = 600.0
"""How long workers may take to start on a machine that is very busy."""
SLICES = 5
NODE_STORE_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One run of a worker's network; Unix time."""

    worker: str
    began_s: float
    ended_s: float


@dataclass(frozen=True, kw_only=True)
class Steady:
    """A part of the steady state, which begins when all workers have given a result."""

    seconds: float
    batches: int
    mean_batch_s: float

    @property
    def rate(self) -> float:
        return self.batches / self.seconds

    @property
    def share(self) -> float:
        """Of the rate of as many workers that did nothing but these batches."""
        return self.rate * self.mean_batch_s / WORKERS


def steady_start(batches: Sequence[Batch]) -> float | None:
    """When all workers had given a result, whatever they did after; None if they haven't."""
    first: dict[str, float] = {}
    for batch in batches:
        first[batch.worker] = min(batch.ended_s, first.get(batch.worker, batch.ended_s))
    return max(first.values()) if len(first) == WORKERS else None


def steady_slices(
    batches: Sequence[Batch], *, steady_s: float, slices: int = SLICES
) -> list[Steady]:
    """The steady state in equal slices of time. ValueError if it never was."""
    start = steady_start(batches)
    if start is None:
        found = len({batch.worker for batch in batches})
        raise ValueError(f"{found} workers gave results, expected {WORKERS}")
    edges = np.linspace(start, start + steady_s, slices + 1)
    parts: list[Steady] = []
    for left, right in itertools.pairwise(edges):
        inside = [batch for batch in batches if left < batch.ended_s <= right]
        durations = [batch.ended_s - batch.began_s for batch in inside]
        mean_s = float(np.mean(durations)) if durations else 0.0
        parts.append(Steady(seconds=float(right - left), batches=len(inside), mean_batch_s=mean_s))
    return parts


@dataclass(frozen=True)
class Sleeper:
    """A worker with one network, which takes SLEEP_S for each batch, of one image."""

    def __call__(self) -> Callable[[Work], LedgerRow]:
        def run(windows: Sequence[Any]) -> list[tuple[float, float]]:
            began_s = time.time()
            time.sleep(SLEEP_S)
            return [(began_s, time.time())] * len(windows)

        window = np.zeros((1, 1, 3), np.uint8)
        batcher, pid = WindowBatcher(run, batch_px=1), os.getpid()

        def process(work: Work) -> LedgerRow:
            ((began_s, ended_s),) = batcher.results([window])
            return outcome(work, f"{pid} {began_s} {ended_s}")

        return process


def outcome(work: Work, reason: str) -> LedgerRow:
    return LedgerRow(
        key=work.key,
        status="skipped",
        reason=reason,
        source_etag=work.etag,
        source_bytes=work.bytes,
        weights_sha256="",
        settings_hash="",
    )


def objects(count: int = OBJECTS) -> Iterable[tuple[Work, Verdict]]:
    for number in range(count):
        key = f"{number:08d}.jpg"
        yield Work(key=key, bytes=OBJECT_BYTES, etag="1", changed_key=key), "todo"


def measure(*, steady_s: float) -> list[Figure]:
    # Ray reads them when it is imported; its nodes listen on all of the machine's addresses.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with Contestant("scheduling", environment=token) as driver:
        slices = [Steady(**found) for found in driver.ask(steady_s=steady_s)["slices"]]
    rows = [
        (
            f"{number}",
            f"{steady.seconds:.2f}",
            f"{steady.rate:.0f}",
            f"{1000 * steady.mean_batch_s:.1f}",
            f"{steady.share:.3f}",
            f"{steady.rate * SLEEP_S / WORKERS:.3f}",
        )
        for number, steady in enumerate(slices, 1)
    ]
    title = (
        f"Scheduling: batches of {1000 * SLEEP_S:.0f} ms on {WORKERS} workers,"
        f" {NODES} simulated nodes; the steady state in {SLICES} slices"
    )
    header = ("slice", "seconds", "batches/s", "ms a batch", "share of ideal", "with 50 ms sharp")
    print(table(title, header, rows))
    value = median(steady.share for steady in slices)
    return [Figure(name="scheduling_share", value=value, aim=0.9)]


def main() -> None:
    """The driver, with a cluster of its own."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    size = {"num_cpus": CPUS_A_NODE, "object_store_memory": NODE_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=size | {"include_dashboard": False})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(**size)
        with ray_session(address=cluster.address) as resources:
            pool = Pool.of(resources, workers=(WORKERS, WORKERS))
            answer_orders(functools.partial(_run, pool=pool))
    finally:
        cluster.shutdown()


def _run(order: Order, *, pool: Pool) -> Answer:
    from pipelines.bulk import Stage  # noqa: PLC0415

    stage = Stage(name="all", build=Sleeper(), give_up=outcome, has_network=True)
    batches: list[Batch] = []
    workers: set[str] = set()
    end_s = time.monotonic() + START_S
    for row in BulkRun(list_works=objects, stages=[stage], pool=pool).rows():
        worker, began_s, ended_s = (row.reason or "").split()
        batches.append(Batch(worker=worker, began_s=float(began_s), ended_s=float(ended_s)))
        if worker not in workers:
            workers.add(worker)
            print(f"{len(workers)} of {WORKERS} workers are at work", file=sys.stderr)
            if len(workers) == WORKERS:
                end_s = time.monotonic() + order["steady_s"] + LATE_S
        if time.monotonic() > end_s:
            break
    slices = steady_slices(batches, steady_s=order["steady_s"])
    return {"slices": [vars(steady) for steady in slices]}


if __name__ == "__main__":
    main()
