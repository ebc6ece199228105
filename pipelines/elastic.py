"""Numbers of workers that follow the machines there are, without a step that is taken twice.

Ray Train (2.60) ends running workers wherever they are once there is room for another number of
them. Here it only asks; the workers end behind their next checkpoint, and Ray Train starts as many
as there is room for then. It lets workers go on until a machine that is to go (a drained node) is
gone, and counts it as room; here they hear of it, and it is none.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from ray._private import worker as ray_worker
from ray._private.state import state
from ray.train import Result, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    SchedulingState,
    TrainControllerState,
)
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2.api.callback import RayTrainCallback

LOOK_EVERY_S = 5.0
"""Between two looks at how many workers there is room for."""


def machine_is_to_go() -> bool:
    """Whether this worker has heard that a machine of the workers is to go.

    `ray.train.get_preemption_info` holds up all workers until each has asked.
    """
    return get_train_context().preemption_context.preemption_info is not None


class ElasticTrainer(TorchTrainer):
    """Calls `board.ask_to_restart` where the other one would end the workers, and
    `board.wait_for_machines` while there is no room for any.

    Every process of Ray looks around a hundred times a second, and takes part of a core. There is
    none here for datasets of Ray Train, which no worker has; and where Ray ends with this process,
    none that frees the workers' places behind it, or that looks for machines that are to go.
    """

    def __init__(self, *args: Any, board: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._board = board

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        needless = (DatasetsCallback, PlacementGroupCleanerCallback)[: 1 + _ends_with_us()]
        callbacks = super()._create_default_callbacks()
        kept = [each for each in callbacks if not isinstance(each, needless)]
        return [*kept, _WaitTeller(self._board)]

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        if self.scaling_config.elasticity_enabled:
            parts["scaling_policy"] = _AskingPolicy(self.scaling_config, self._board)
        with _without_preemption_watcher() if _ends_with_us() else nullcontext():
            return super()._initialize_and_run_controller(**parts)


def _ends_with_us() -> bool:
    """Whether Ray was started by this process, for itself."""
    node = ray_worker.global_worker.node
    return node is not None and node.is_head()


@contextmanager
def _without_preemption_watcher() -> Generator[None]:
    """Unless the user has said whether there is one. The controller starts in this environment."""
    is_ours = ENABLE_PREEMPTION_WATCHER_ENV_VAR not in os.environ
    if is_ours:
        os.environ[ENABLE_PREEMPTION_WATCHER_ENV_VAR] = "0"
    try:
        yield
    finally:
        if is_ours:
            del os.environ[ENABLE_PREEMPTION_WATCHER_ENV_VAR]


class _WaitTeller(ControllerCallback):
    def __init__(self, board: Any) -> None:
        self._board = board

    def after_controller_state_update(
        self,
        previous_state: TrainControllerState,  # noqa: ARG002
        current_state: TrainControllerState,
    ) -> None:
        waiting = (InitializingState, SchedulingState, ReschedulingState)
        self._board.wait_for_machines.remote(isinstance(current_state, waiting))


class _AskingPolicy(ElasticScalingPolicy):
    def __init__(self, scaling_config: ScalingConfig, board: Any) -> None:
        super().__init__(scaling_config)
        self._board = board

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        decision = super().make_decision_for_running_worker_group(
            worker_group_state, worker_group_status
        )
        if isinstance(decision, ResizeDecision):
            self._board.ask_to_restart.remote()
        return NoopDecision()

    def _count_possible_workers(self, reserved_resources: Mapping[str, Any]) -> int:
        draining = state.get_draining_nodes()
        staying = {node: each for node, each in reserved_resources.items() if node not in draining}
        return super()._count_possible_workers(staying)
