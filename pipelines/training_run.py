"""Training under Ray Train: the job, the loop of its workers, and what becomes of failures.

    fit            starts the workers, prints what they tell, gives the last checkpoint
    train_worker   the loop of one: batches from `patch_stream`, steps from `Trainer`
    Board          an actor that outlives them: progress, starts, and the reason of the end

Workers that die are started again, by Ray Train, as many as there is room for between the bounds;
they go on from the newest checkpoint that is whole. So do those that there is more room for, once
they have one, and those of which a machine is to go, which save what they have at once. Errors that
would come again end the run.
"""

import math
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
import ray.exceptions
import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.connect import WORKER_ENVIRONMENT
from cluster.waiting import what_is_missing
from pipelines.checkpoints import (
    Checkpoint,
    Row,
    Saver,
    Scalars,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from pipelines.elastic import LOOK_EVERY_S, ElasticTrainer, machine_is_to_go
from pipelines.patch_stream import Batch, Makers, stream
from pipelines.photographs import Picture, PreparedData
from pipelines.quantities import format_duration
from pipelines.stopping import StopRules
from pipelines.storage import Store
from pipelines.training_log import write_events
from pipelines.worker_network import WorkerNetwork
from resnet_core.chance import Use, generator
from resnet_core.degradation import degrade
from resnet_core.errors import ConfigError, DataError, ResrayError
from resnet_core.levels import Levels
from resnet_core.metrics import psnr_y, ssim_y
from resnet_core.network import ResidualNetwork
from resnet_core.patches import PatchSampler
from resnet_core.pixels import to_levels, to_nchw
from resnet_core.training import Trainer, TrainingRecipe

MAX_STARTS = 4
"""Workers that die as often without getting further end the run."""
PULSE_STEPS = 10
"""Steps between looks at the losses of all workers, at the clock and at machines that are to go."""
SHOWN_PICTURES = 4
SHOWN_PX = 160
ONE_MAKER = Makers(count=1, cpus_each=0.0)
PROGRESS_EVERY_S = 2.0
PLAIN_PROGRESS_EVERY_S = 30.0
WAIT_UNTOLD_S = 30.0
"""For machines: so long the start of workers takes where there is room."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What every worker gets."""

    recipe: TrainingRecipe
    data: PreparedData
    output: Store
    """Where checkpoints and logs go."""
    rules: StopRules
    workers: tuple[int, int] = (1, 1)
    """At least and at most so many."""
    threads: int = 1
    """Threads for computing, in each worker."""
    use_gpu: bool = False
    makers: Makers = ONE_MAKER
    """Of the examples of one worker."""
    start: ResidualNetwork | None = None
    """Weights to start from, at the first start of a run."""

    @property
    def sampler(self) -> PatchSampler:
        groups = self.data.groups
        return self.recipe.sampler(groups, groups.sizes, patch_px=self.data.patch_px)

    @property
    def worker_resources(self) -> dict[str, float]:
        """Of one worker."""
        return {"GPU": 1, "CPU": 0.5} if self.use_gpu else {"CPU": self.threads}

    @property
    def least_resources(self) -> dict[str, float]:
        """Without which the run waits."""
        return {kind: self.workers[0] * each for kind, each in self.worker_resources.items()}


def fit(job: TrainingJob) -> tuple[Checkpoint, str]:
    """Runs the job on a connected Ray, from its newest checkpoint if there is one.

    Returns the last checkpoint and why the run ended there. Raises DataError with the reason if the
    workers die again and again from the same step, or with what else ends a run, and ConfigError if
    the run is beyond the recipe's steps already.
    """
    found = newest_checkpoint(job.output, print)
    begun = found and found[1]
    if begun and begun.step > job.recipe.steps:
        raise ConfigError(
            f"{job.output.url} is at step {begun.step} already, beyond steps={job.recipe.steps}"
        )
    ended = job.rules.reason(begun.history) if begun else None
    if begun and ended:
        return begun, ended
    # Beside the driver: it must outlive every other machine.
    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote(
        job.output.url_of(found[0]) if found else "none", job.least_resources
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = ElasticTrainer(
            train_worker,
            board=board,
            train_loop_config={"job": job, "board": board},
            torch_config=WorkerNetwork(),
            scaling_config=ScalingConfig(
                num_workers=job.workers if job.workers[0] < job.workers[1] else job.workers[0],
                use_gpu=job.use_gpu,
                resources_per_worker=job.worker_resources,
                elastic_resize_monitor_interval_s=LOOK_EVERY_S,
            ),
            # What Ray Train writes by itself is of no use after the run.
            run_config=RunConfig(
                name=uuid.uuid4().hex,
                storage_path=folder,
                failure_config=FailureConfig(max_failures=-1),  # the board decides
                worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            ),
        )
        with _progress(board, job.rules.last_step), _interrupt_as_usual():
            try:
                trainer.fit()
            except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
                raise DataError(f"training failed: {_root_cause(error)}") from error
    ended, failed = _get(board.outcome.remote())
    if failed:
        raise DataError(failed)
    last = load_newest(job.output)
    if last is None or not ended:
        raise DataError(f"training ended without a checkpoint in {job.output.url}")
    return last, ended


def load_newest(output: Store, tell: Any = print) -> Checkpoint | None:
    """The newest checkpoint that is whole; those that aren't are told of."""
    found = newest_checkpoint(output, tell)
    return found and found[1]


def train_worker(config: dict[str, Any]) -> None:
    """The loop of one Ray Train worker."""
    job: TrainingJob = config["job"]
    board = config["board"]
    context = ray.train.get_context()
    goes_on = None
    if context.get_world_rank() == 0:
        # Before anything that could fail: a start that isn't counted could come without end.
        goes_on = _get(board.begin.remote(context.get_world_size()))
    if not ray.train.collective.broadcast_from_rank_zero(goes_on):
        return
    try:
        _Worker(job, board).run()
    except ResrayError as error:
        # It would come again: the run ends, and the other workers with it.
        _get(board.fail.remote(str(error)))
        raise
    except (_OtherWorkerError, _RestartError):
        raise
    except Exception as error:
        _get(board.note.remote(_one_line(error)))
        raise


class _Worker:
    """One worker between its start and its end."""

    def __init__(self, job: TrainingJob, board: Any) -> None:
        torch.set_num_threads(job.threads)
        context = ray.train.get_context()
        self._rank, self._world_size = context.get_world_rank(), context.get_world_size()
        self._job = job
        self._board = board
        self._sampler = job.sampler
        self._trainer = Trainer(
            job.recipe,
            device=ray.train.torch.get_device(),
            wrap=ray.train.torch.prepare_model,
            world_size=self._world_size,
        )
        self._saver = Saver()
        self._history: list[Row] = []
        self._starts = 1
        self._losses: list[torch.Tensor] = []
        """Of this worker's share, since the last exchange."""
        self._scalars = Scalars()
        """Since the last validation."""
        self._revived = 0
        """Features, as far as told."""

    def run(self) -> None:
        self._restore()
        trainer, recipe, rules = self._trainer, self._job.recipe, self._job.rules
        validation = self._job.data.validation()
        # Workers may have died between the last checkpoint and the end.
        ended = rules.reason(self._history)
        last_step = trainer.step_count if ended else rules.last_step
        steps = range(trainer.step_count, last_step)
        began_s = time.monotonic() - _get(self._board.elapsed_s.remote())
        self._clock = _Clock(trainer.step_count, began_s=began_s)
        for inputs, targets in self._clock.waited_for(self._batches(steps)):
            self._losses.append(trainer.step(inputs, targets))
            step = trainer.step_count
            if self._rank == 0 and self._clock.shows():
                self._board.update.remote(step)
            validates = step % recipe.validate_every == 0 or step == steps.stop
            if validates or step % PULSE_STEPS == 0:
                time_is_up, is_to_go = self._exchange()
                if validates or time_is_up:
                    self._validate(validation)
                    ended = rules.reason(self._history, time_is_up=time_is_up)
                if is_to_go and not ended:
                    self._hand_on(is_saved=validates)
            if ended:
                break
            if validates:
                self._restart_if_asked()
        if not steps and not ended:
            # The newest checkpoint was written between two validations.
            self._validate(validation)
            ended = rules.reason(self._history)
        self._saver.wait()
        if self._rank == 0:
            _get(self._board.end.remote(ended))

    def _restore(self) -> None:
        """Takes the newest checkpoint that is whole."""
        key = None
        if self._rank == 0:
            found = newest_checkpoint(self._job.output, self._board.tell.remote)
            key = found and found[0]
        # So that all go on from the same one, whatever is still being written.
        key = ray.train.collective.broadcast_from_rank_zero(key)
        if key is not None:
            checkpoint = read_checkpoint(self._job.output, key)
            self._trainer.load_state(checkpoint.tensors)
            self._history, self._scalars = checkpoint.history, checkpoint.scalars
            self._starts = 1 + int(checkpoint.history[-1].get("starts", 1) if self._history else 1)
        elif self._job.start is not None:
            self._trainer.start_from(self._job.start)

    def _hand_on(self, *, is_saved: bool) -> None:
        """Lets the workers start again from here, where no machine is to go."""
        if self._rank == 0:
            self._board.tell.remote("a machine is to go: going on without it")
            self._board.ask_to_restart.remote()
            if not is_saved:
                checkpoint = self._checkpoint(self._scalars)
                self._saver.submit(partial(self._put, checkpoint))
        self._restart_if_asked()

    def _restart_if_asked(self) -> None:
        """Ends here, behind a checkpoint, if there is room for another number of workers."""
        asked = self._rank == 0 and _get(self._board.is_asked_to_restart.remote())
        if asked:
            self._saver.wait()
        if ray.train.collective.broadcast_from_rank_zero(asked):
            raise _RestartError

    def _batches(self, steps: range) -> Iterator[Batch]:
        return stream(
            self._sampler,
            steps=steps,
            rank=self._rank,
            world_size=self._world_size,
            makers=self._job.makers,
            device=self._trainer.device,
        )

    def _exchange(self) -> tuple[bool, bool]:
        """Brings the workers' losses together; whether the first one's time is up, and whether any
        has heard of a machine that is to go."""
        late = self._rank == 0 and self._clock.is_over(self._job.rules.max_time_s)
        own = torch.stack(self._losses)
        together = torch.cat([own, own.new_tensor([float(late), float(machine_is_to_go())])])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(together)
        self._losses.clear()
        *sums, lateness, leaving = together.tolist()
        first = self._trainer.step_count - len(sums)
        means = [value / self._world_size for value in sums]
        for step, loss in enumerate(means, start=first):
            if not math.isfinite(loss):
                is_own = not math.isfinite(own[step - first].item())
                self._stop_at(step, "the loss is", is_own=is_own)
            rate = self._trainer.learning_rate(step)
            self._scalars.append((step + 1, {"loss": loss, "learning rate": rate}))
        return lateness > 0, leaving > 0

    def _stop_at(self, step: int, what: str, *, is_own: bool) -> None:
        """No number came out of `step`. Only who knows whose share it was in tells the keys."""
        if not is_own:
            raise _OtherWorkerError
        indexes = range(self._rank, self._sampler.batch_size, self._world_size)
        keys = dict.fromkeys(self._key_of(step, index) for index in indexes)
        raise DataError(
            f"{what} no number any more at step {step + 1}, with patches of {', '.join(keys)}; a"
            " smaller --set learning_rate= may help, in another --output"
        )

    def _key_of(self, step: int, index: int) -> str:
        pictures = self._job.data.groups.pictures(self._sampler.group_of(step, index))
        return pictures[self._sampler.patch_of(step, index, len(pictures))][0]

    def _validate(self, validation: Sequence[Picture]) -> None:
        """Measures, and begins to save what there is."""
        trainer, recipe = self._trainer, self._job.recipe
        if not trainer.is_finite():
            self._stop_at(trainer.step_count - 1, "the weights are", is_own=True)
        took = self._clock.interval(trainer.step_count)
        share = range(self._rank, len(validation), self._world_size)
        figures, shown = list[tuple[float, float]](), list[Measured]()
        for each in measure(trainer.averaged(), validation, recipe, share):
            figures.append((each.psnr_y_db, each.ssim_y))
            if len(shown) < SHOWN_PICTURES:
                shown.append(each)
        sums = torch.tensor(figures, dtype=torch.float64).reshape(-1, 2).sum(0).to(trainer.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        psnr_y_db, ssim = (sums / len(validation)).tolist()
        row: Row = {
            "step": trainer.step_count,
            "loss": float(np.mean([values["loss"] for _, values in self._scalars])),
            "psnr_y_db": psnr_y_db,
            "ssim_y": ssim,
            "learning_rate": trainer.learning_rate(trainer.step_count - 1),
            "starts": self._starts,
            **took,
        }
        self._history.append(row)
        scalars, self._scalars = self._scalars, []
        if self._rank == 0:
            if new := trainer.revived - self._revived:
                self._board.tell.remote(f"{new} dead features in the blocks got new kernels")
                self._revived += new
            self._board.show.remote(row)
            with self._clock.saving():
                self._save(row, scalars, shown)
        self._clock.begin_interval(trainer.step_count)

    def _save(self, row: Row, scalars: Scalars, shown: Sequence["Measured"]) -> None:
        checkpoint = self._checkpoint()
        figures = {name: value for name, value in row.items() if name not in ("step", "loss")}
        events = [*scalars, (checkpoint.step, {f"validation {n}": v for n, v in figures.items()})]
        pictures = {f"validation {each.key}": each.compared for each in shown}

        def save() -> None:
            self._put(checkpoint)
            write_events(self._job.output, events, pictures)

        self._saver.submit(save)

    def _checkpoint(self, scalars: Sequence[tuple[int, dict[str, float]]] = ()) -> Checkpoint:
        """Of now."""
        return Checkpoint(
            step=self._trainer.step_count,
            tensors=self._trainer.state(),
            history=list(self._history),
            scalars=list(scalars),
        )

    def _put(self, checkpoint: Checkpoint) -> None:
        key = save_checkpoint(self._job.output, checkpoint)
        self._board.saved.remote(self._job.output.url_of(key))


class _OtherWorkerError(Exception):
    """Another worker knows more."""


class _RestartError(Exception):
    """Nothing went wrong: there is room for another number of workers."""


class _Clock:
    """What the steps between two validations took, and what they waited for."""

    def __init__(self, step: int, *, began_s: float) -> None:
        self._began_s = began_s
        self._save_s = 0.0
        self._shown_s = -math.inf
        self.begin_interval(step)

    def begin_interval(self, step: int) -> None:
        """The steps after `step` count from now."""
        self._interval_s, self._interval_step = time.monotonic(), step
        self._wait_s = 0.0

    def waited_for(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time until each is there counts as waiting, but for the first."""
        first = next(batches, None)
        if first is None:
            return
        self.begin_interval(self._interval_step)
        yield first
        while True:
            asked_s = time.monotonic()
            batch = next(batches, None)
            self._wait_s += time.monotonic() - asked_s
            if batch is None:
                return
            yield batch

    @contextmanager
    def saving(self) -> Generator[None]:
        began_s = time.monotonic()
        yield
        self._save_s = time.monotonic() - began_s

    def shows(self) -> bool:
        """Whether it is time to tell again of the step."""
        now_s = time.monotonic()
        due = now_s - self._shown_s >= PROGRESS_EVERY_S / 2
        if due:
            self._shown_s = now_s
        return due

    def is_over(self, seconds: float | None) -> bool:
        return seconds is not None and time.monotonic() - self._began_s > seconds

    def interval(self, step: int) -> dict[str, float]:
        """Of the steps until now, and how long the checkpoint before them held them up."""
        took_s = max(time.monotonic() - self._interval_s, 1e-9)
        return {
            "step_s": took_s / max(step - self._interval_step, 1),
            "data_wait_share": self._wait_s / took_s,
            "checkpoint_stall_share": self._save_s / took_s,
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One validation picture: uint8 HWC RGB; figures on BT.601 luma without the border."""

    key: str
    target: Levels
    base: Levels
    output: Levels
    border_px: int

    @property
    def psnr_y_db(self) -> float:
        return psnr_y(self.output, self.target, border_px=self.border_px)

    @property
    def ssim_y(self) -> float:
        return ssim_y(self.output, self.target, border_px=self.border_px)

    @property
    def compared(self) -> Levels:
        """The middle of base, output and target, side by side."""
        return np.hstack([_middle(each) for each in (self.base, self.output, self.target)])


def measure(
    network: ResidualNetwork,
    pictures: Sequence[Picture],
    recipe: TrainingRecipe,
    indexes: range | None = None,
) -> Iterator[Measured]:
    """Each of the pictures (uint8 HWC RGB) degraded as in training, always from the same seed."""
    device = next(network.parameters()).device
    scale = recipe.network.scale
    for index in range(len(pictures)) if indexes is None else indexes:
        key, target = pictures[index]
        worn = degrade(target, recipe.degradation, generator(Use.VALIDATION, recipe.seed, index))
        x = to_nchw(worn, device)
        with torch.inference_mode():
            base, output = (
                to_levels(network(x, strength=strength), np.dtype(np.uint8))[0]
                for strength in (0.0, 1.0)
            )
        border_px = scale if scale > 1 else 0
        yield Measured(key=key, target=target, base=base, output=output, border_px=border_px)


def _middle(pixels: Levels) -> Levels:
    sides = [min(SHOWN_PX, side) for side in pixels.shape[:2]]
    top, left = ((s - side) // 2 for s, side in zip(pixels.shape[:2], sides, strict=True))
    return pixels[top : top + sides[0], left : left + sides[1]]


class Board:
    """Where the workers write how far they are, and the driver reads it: an actor."""

    def __init__(self, last_good: str, least_resources: Mapping[str, float]) -> None:
        self._began_s = time.monotonic()
        self._least_resources = least_resources
        self._waits_since_s: float | None = self._began_s
        self._step = self._furthest = 0
        self._starts = self._workers = 0
        self._is_asked_to_restart = False
        self._last_good = last_good
        self._rows: list[Row] = []
        self._lines: list[str] = []
        self._note = "they gave no reason"
        self._ended: str | None = None
        self._failed: str | None = None

    def begin(self, workers: int) -> bool:
        """Take note that so many workers start. False if they shouldn't."""
        if self._step > self._furthest:
            # Who got so far died there: that counts.
            self._furthest, self._starts = self._step, 1
        self._starts += not self._is_asked_to_restart
        self._is_asked_to_restart = False
        if self._workers not in (0, workers):
            self.tell(f"going on with {workers} workers, {self._workers} before")
        self._workers = workers
        if self._starts > MAX_STARTS:
            self._failed = self._failed or (
                f"training failed: the workers died {MAX_STARTS} times without getting beyond step"
                f" {self._furthest}: {self._note}"
            )
        return self._failed is None

    def ask_to_restart(self) -> None:
        """There is room for another number of workers."""
        self._is_asked_to_restart = True

    def is_asked_to_restart(self) -> bool:
        return self._is_asked_to_restart

    def wait_for_machines(self, waits: bool) -> None:
        """Take note whether there are workers, or none yet."""
        if not waits:
            self._waits_since_s = None
        elif self._waits_since_s is None:
            self._waits_since_s = time.monotonic()

    def elapsed_s(self) -> float:
        """Since the command began."""
        return time.monotonic() - self._began_s

    def update(self, step: int) -> None:
        self._step = step

    def show(self, row: Row) -> None:
        self._rows.append(row)

    def tell(self, line: str) -> None:
        self._lines.append(line)

    def note(self, reason: str) -> None:
        """Take note of why a worker died, if it could tell."""
        self._note = reason

    def saved(self, checkpoint: str) -> None:
        """Take note of the newest checkpoint that is whole."""
        self._last_good = checkpoint

    def fail(self, reason: str) -> None:
        """The run can't go on. The first reason counts."""
        self._failed = self._failed or reason

    def end(self, reason: str | None) -> None:
        self._ended = reason

    def outcome(self) -> tuple[str | None, str | None]:
        """Why the run ended, and why it failed and what is left."""
        failed = self._failed and f"{self._failed}; the last good checkpoint is {self._last_good}"
        return self._ended, failed

    def take(self) -> tuple[int, list[Row], list[str]]:
        """The last step, and the rows and lines since the last call."""
        since_s = self._waits_since_s
        if since_s is not None and time.monotonic() - since_s > WAIT_UNTOLD_S:
            self.tell(f"waiting for machines: {what_is_missing(self._least_resources)}")
            self._waits_since_s = math.inf
        rows, self._rows = self._rows, []
        lines, self._lines = self._lines, []
        return self._step, rows, lines


@contextmanager
def _progress(board: Any, steps: int) -> Generator[None]:
    """Prints the workers' figures while the block runs."""
    done = threading.Event()
    thread = threading.Thread(target=_print_progress, args=(board, steps, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _print_progress(board: Any, steps: int, done: threading.Event) -> None:
    first: tuple[float, int] | None = None
    next_line_s = time.monotonic() + PLAIN_PROGRESS_EVERY_S
    while True:
        finished = done.wait(PROGRESS_EVERY_S)
        try:
            step, rows, lines = _get(board.take.remote())
        except ray.exceptions.RayError:
            return  # Ray is gone, and the main thread says why
        for line in (*lines, *map(partial(_row_line, steps=steps), rows)):
            print(line, flush=True)
        now = time.monotonic()
        if step and (first is None or step < first[1]):
            first = (now, step)
        if first and step > first[1] and (now >= next_line_s):
            step_s = (now - first[0]) / (step - first[1])
            left = format_duration((steps - step) * step_s)
            print(f"step {step} of {steps}, {1000 * step_s:.0f} ms a step, {left} left", flush=True)
            next_line_s = now + PLAIN_PROGRESS_EVERY_S
        if finished:
            return


def _row_line(row: Row, *, steps: int) -> str:
    return (
        f"step {row['step']:.0f} of {steps}: loss {row['loss']:.5f}, validation "
        f"{row['psnr_y_db']:.2f} dB PSNR-Y, {row['ssim_y']:.4f} SSIM-Y"
    )


def _root_cause(error: BaseException) -> str:
    """In one line. Workers that only lost their connection to the one at fault come last."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        failures = [_unwrapped(failure) for failure in error.worker_failures.values()]
        return _one_line(min(failures, key=lambda f: "onnection" in str(f)))
    if isinstance(error, ControllerError):
        return _one_line(_unwrapped(error.controller_failure))
    return _one_line(_unwrapped(error))


def _unwrapped(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    # Ray gives the error of a remote process as its traceback, whose last line is the error.
    is_trace = "Traceback" in text or isinstance(error, ray.exceptions.RayTaskError)
    line = text.splitlines()[-1] if is_trace else " ".join(text.split())
    return line or type(error).__name__


@contextmanager
def _interrupt_as_usual() -> Generator[None]:
    """Ray Train answers Ctrl-C by leaving with status 0, and keeps its handler afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stopped:
        raise KeyboardInterrupt from stopped
    finally:
        signal.signal(signal.SIGINT, usual)


def _get(ref: Any) -> Any:
    return ray.get(ref)
