"""Training batches through Ray Data: actors on CPUs crop and degrade, while the workers compute.

    PlanSource   one read task names the spans: up to STEPS_A_GROUP steps, as a block each
    map          an actor reads a group of patches for each index of the worker's share and makes
                 the examples of all the span's steps: one block
    the worker   takes the blocks in the order of their steps, some of them ahead

Each worker runs the plan of its own share, so whichever spans are late or made again, and however
many workers there are, a step has the same examples (see `PatchSampler`).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data
import torch
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayTaskError
from torch import Tensor

from pipelines.data_engine import data_context, iterate
from resnet_core.errors import DataError
from resnet_core.patches import STEPS_A_GROUP, PatchSampler
from resnet_core.pixels import to_nchw

SPANS_AHEAD = 2
"""Blocks that a worker has in memory before they are wanted."""

ENGINE_PAUSE_S = 0.2
"""Between two looks of the engine at its tasks, which last seconds."""

Batch = tuple[Tensor, Tensor]
Table = Any
"""A pyarrow table or a batch of numpy columns, which come without types."""


@dataclass(frozen=True, kw_only=True)
class Makers:
    """The actors that make one worker's examples. (Ray ends the processes of tasks that come
    seconds apart, and to start one anew costs as much as dozens of steps.)"""

    count: int
    cpus_each: float


def stream(
    sampler: PatchSampler,
    *,
    steps: range,
    rank: int,
    world_size: int,
    makers: Makers,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """A worker's share of each of `steps`, in order, as `PatchSampler.batch` gives it, on `device`.

    Needs a connected Ray. Raises the DataError that reading the patches raises.
    """
    share = _Share(sampler=sampler, indexes=range(rank, sampler.batch_size, world_size))
    batches = _dataset(share, steps, makers).iter_batches(
        batch_size=None, prefetch_batches=SPANS_AHEAD
    )
    try:
        for block in iterate(batches):
            for inputs, targets in zip(block["inputs"][0], block["targets"][0], strict=True):
                yield to_nchw(inputs, device), to_nchw(targets, device)
    except RayTaskError as error:
        if not isinstance(error.cause, DataError):
            raise
        # Ray Data puts advice of its own below.
        raise DataError(str(error.cause).partition("\nFailed to apply")[0]) from error


def spans(steps: range) -> Iterator[range]:
    """`steps` cut at the multiples of STEPS_A_GROUP."""
    start = steps.start
    while start < steps.stop:
        stop = min(start // STEPS_A_GROUP * STEPS_A_GROUP + STEPS_A_GROUP, steps.stop)
        yield range(start, stop)
        start = stop


@dataclass(frozen=True, kw_only=True)
class _Share:
    sampler: PatchSampler
    indexes: range

    @property
    def span_bytes(self) -> int:
        sides = (self.sampler.input_px, self.sampler.target_px)
        return STEPS_A_GROUP * len(self.indexes) * 3 * sum(side * side for side in sides)


class Maker:
    """An actor that makes the examples of one span after another."""

    def __init__(self, share: _Share) -> None:
        self._share = share

    def __call__(self, table: Table) -> dict[str, Any]:
        """One row, so that it stays one block: uint8 (steps, indexes, side, side, 3)."""
        steps = range(int(table["start"][0]), int(table["stop"][0]))
        inputs, targets = self._share.sampler.shares(steps, self._share.indexes)
        return {"inputs": inputs[None], "targets": targets[None]}


class _PlanSource(Datasource):
    """The spans, each a block of its own."""

    def __init__(self, steps: range) -> None:
        super().__init__()
        self._steps = steps

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
        for span in spans(self._steps):
            yield pa.table({"start": [span.start], "stop": [span.stop]})


class _Pause(ExecutionCallback):
    """The engine's loop runs in the worker's process, and has no pause of its own while all tasks
    are ahead: it would take half of the worker's core."""

    def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002
        time.sleep(ENGINE_PAUSE_S)


def _dataset(share: _Share, steps: range, makers: Makers) -> ray.data.Dataset:
    context = data_context()
    context.target_max_block_size = 1  # each span of the plan is a block of its own
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True
    context.custom_execution_callback_classes = [_Pause]
    # The engine would fill a quarter of the memory with what is wanted in an hour.
    held = 2 * (SPANS_AHEAD + makers.count) * share.span_bytes
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=held)
    with DataContext.current(context):
        plan = ray.data.read_datasource(_PlanSource(steps), override_num_blocks=1, num_cpus=0)
        return plan.map_batches(
            Maker,
            batch_size=None,
            fn_constructor_kwargs={"share": share},
            compute=ActorPoolStrategy(size=makers.count),
            num_cpus=makers.cpus_each,
        )
