"""`resray train`: a recipe and photographs in, a weights file out, through Ray Train.

The step is `resnet_core.training.Trainer`; here stand its surroundings: workers, checkpoints,
validation, resume. The same --output resumes: Ray Train finds the run's last checkpoint there.
"""

import argparse
import json
import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.exceptions
import ray.train
import ray.train.torch
import torch
import torch.distributed
from numpy.typing import NDArray
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file, save_file

from cluster.connect import WORKER_ENVIRONMENT, Resources, ray_session
from pipelines.photographs import PreparedData, prepare
from pipelines.quantities import format_duration
from pipelines.recipes import RECIPES, build_recipe, describe_fields
from resnet_core.degradation import degrade, describe
from resnet_core.errors import ConfigError, DataError
from resnet_core.metrics import psnr_y, ssim_y
from resnet_core.network import ResidualNetwork
from resnet_core.patches import PatchSampler
from resnet_core.pixels import to_levels, to_nchw
from resnet_core.training import Trainer, TrainingRecipe
from resnet_core.weights import Weights, WeightsMetadata, load_weights, save_weights

STATE_FILE = "state.safetensors"
HISTORY_FILE = "history.json"
RUN_FILE = "run.json"
PATCH_PX = 192
MAX_RESTARTS = 3
PROGRESS_EVERY_S = 2.0
PLAIN_PROGRESS_EVERY_S = 30.0

DESCRIPTION = """\
Trains a residual network on a folder of photographs and writes one .safetensors file.

Photographs are decoded and cut into patches once; each step degrades patches on the fly as the
recipe says, from its seed. Every `validate_every` steps the averaged weights are measured on
photographs that are held out, and a checkpoint is written. The same command with the same --output
goes on where the run stopped."""

EPILOG = f"""\
fields for --set, with the values of sr-x2
{describe_fields(RECIPES["sr-x2"]())}

examples
  resray train sr-x2 --data photographs
  resray train sr-x4 --data photographs --from sr-x2 --set steps=10000
  resray train sr-x2 --data photographs --num-workers 4 --use-gpu --set precision=bfloat16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `resray train`."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", metavar="RECIPE", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--data", required=True, metavar="DIR", help="photographs")
    parser.add_argument(
        "--validation",
        metavar="DIR",
        help="photographs to measure on (default: every twentieth of --data, held out)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="where checkpoints and weights go; all workers must see it (default: runs/RECIPE)",
    )
    parser.add_argument("--num-workers", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--use-gpu", action="store_true", help="one GPU for each worker")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a recipe's field"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="NAME|PATH",
        help="start from these weights (the scale may differ, their network may be smaller)",
    )
    parser.add_argument(
        "--data-note", metavar="TEXT", help="the data in words, for the weights' metadata"
    )
    parser.add_argument(
        "--licence", default="unstated", metavar="TEXT", help="of the weights, for their metadata"
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="a Ray cluster (default: this machine)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show Ray's own messages")


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What every worker gets."""

    recipe: TrainingRecipe
    data: PreparedData
    threads: int
    """Threads for computing, in each worker."""
    start: ResidualNetwork | None
    """Weights to start from, at the first start of a run."""


def run(args: argparse.Namespace) -> int:
    """Trains as `args` say and prints what came out. Returns the exit status."""
    recipe = build_recipe(args.recipe, args.set)
    _check_recipe(recipe, args.num_workers)
    start = load_weights(args.start) if args.start else None
    if start is not None:
        # Said now, not in a worker.
        fresh = Trainer(recipe).start_from(start.network)
        _tell(f"starting from {start.name}" + (f"; new: {', '.join(fresh)}" if fresh else ""))
    for path in (args.data, args.validation, args.output):
        _check_local(path)
    output = Path(args.output or Path("runs") / recipe.name).absolute()
    data = prepare(
        Path(args.data).absolute(),
        args.validation and Path(args.validation).absolute(),
        output.parent,
        patch_px=PATCH_PX,
        tell=_tell,
    )
    begun = _claim(output, recipe, data, start)
    _tell(f"{data.num_photographs} photographs, {data.num_patches} patches; output in {output}")
    try:
        with ray_session(address=args.address, verbose=args.verbose) as resources:
            check_resources(resources, num_workers=args.num_workers, use_gpu=args.use_gpu)
            job = TrainingJob(
                recipe=recipe,
                data=data,
                threads=_threads(resources, args.num_workers),
                start=start and start.network,
            )
            trainer, history = fit(job, output, num_workers=args.num_workers, use_gpu=args.use_gpu)
    except KeyboardInterrupt:
        print("resray: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    note = args.data_note or f"{data.num_photographs} photographs from {Path(args.data).name}"
    metadata = describe_run(recipe, history, begun=begun, data_note=note, licence=args.licence)
    path = output / f"{recipe.name}.safetensors"
    sha256 = save_weights(path, trainer.averaged(), metadata)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in metadata.figures.items())
    _tell(f"{path}  (sha256 {sha256[:12]}; {figures})")
    return 0


def fit(
    job: TrainingJob, output: Path, *, num_workers: int = 1, use_gpu: bool = False
) -> tuple[Trainer, list[dict[str, float]]]:
    """Runs the job on a connected Ray, from its last checkpoint under `output` if there is one.

    Returns the trainer in its last state, and one row for each validation: step, loss, psnr_y_db,
    ssim_y. Raises DataError with the reason if the workers died more often than they are started
    again, and ConfigError if the run is already longer than the recipe's steps.
    """
    board = ProgressBoard.options(num_cpus=0).remote()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "board": board},
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=_resources(job, use_gpu)
        ),
        run_config=RunConfig(
            name=output.name,
            storage_path=str(output.parent),
            failure_config=FailureConfig(
                max_failures=MAX_RESTARTS, controller_failure_limit=MAX_RESTARTS
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )
    with _progress(board, job.recipe.steps), _interrupt_as_usual():
        try:
            result = trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            raise DataError(f"training failed: {_root_cause(error)}") from error
    if result.checkpoint is None:
        raise DataError(f"the run in {output} left no checkpoint")
    with result.checkpoint.as_directory() as folder:
        final = Trainer(job.recipe)
        final.load_state(load_file(Path(folder) / STATE_FILE))
        if final.step_count > job.recipe.steps:
            raise ConfigError(
                f"{output} is at step {final.step_count} already, beyond steps={job.recipe.steps}"
            )
        return final, json.loads((Path(folder) / HISTORY_FILE).read_text())


def train_worker(config: dict[str, Any]) -> None:
    """The loop of one Ray Train worker."""
    job: TrainingJob = config["job"]
    torch.set_num_threads(job.threads)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    trainer = Trainer(
        job.recipe,
        device=ray.train.torch.get_device(),
        wrap=ray.train.torch.prepare_model,
    )
    history = _restore(trainer, job.start)
    sampler = PatchSampler(
        patches=job.data.patches(),
        degradation=job.recipe.degradation,
        input_px=job.recipe.input_px,
        batch_size=job.recipe.batch_size,
        seed=job.recipe.seed,
    )
    validation = job.data.validation() if rank == 0 else []
    total, count = torch.zeros((), device=trainer.device), 0
    batches = _batches(sampler, trainer.step_count, job.recipe.steps, rank, world_size)
    for inputs, targets in batches:
        total += trainer.step(inputs, targets)
        count += 1
        if rank == 0:
            config["board"].update.remote(trainer.step_count)
        due = trainer.step_count % job.recipe.validate_every == 0
        if not due and trainer.step_count != job.recipe.steps:
            continue
        row = {"step": trainer.step_count, "loss": _mean_over_workers(total / count)}
        if not math.isfinite(row["loss"]):
            raise DataError(
                f"the loss is no number any more at step {trainer.step_count}; "
                "a smaller --set learning_rate= may help"
            )
        total, count = torch.zeros_like(total), 0
        if rank == 0:
            row |= validate(trainer.averaged(), validation, job.recipe)
            config["board"].show.remote(row)
            history.append(row)
        _report(trainer, history, row, rank)


def validate(
    network: ResidualNetwork, images: list[NDArray[np.uint8]], recipe: TrainingRecipe
) -> dict[str, float]:
    """`psnr_y_db` and `ssim_y`: means on BT.601 luma, border of `scale` pixels cropped.

    The images (uint8 HWC RGB) are degraded as in training, always from the same seed.
    """
    device = next(network.parameters()).device
    psnrs, ssims = list[float](), list[float]()
    for index, target in enumerate(images):
        worn = degrade(target, recipe.degradation, np.random.default_rng((recipe.seed, index)))
        with torch.inference_mode():
            output = to_levels(network(to_nchw(worn).to(device)), np.dtype(np.uint8))[0]
        psnrs.append(psnr_y(output, target, border_px=recipe.network.scale))
        ssims.append(ssim_y(output, target, border_px=recipe.network.scale))
    return {"psnr_y_db": float(np.mean(psnrs)), "ssim_y": float(np.mean(ssims))}


def describe_run(
    recipe: TrainingRecipe,
    history: list[dict[str, float]],
    *,
    begun: dict[str, Any],
    data_note: str,
    licence: str,
) -> WeightsMetadata:
    """The metadata of the weights that a run ends with; `begun` is what its start recorded."""
    last = history[-1]
    settings = asdict(recipe)
    for field in ("name", "degradation"):
        settings.pop(field)
    curve = [[row["step"], round(row["loss"], 6), round(row["psnr_y_db"], 3)] for row in history]
    return WeightsMetadata(
        task=recipe.degradation.name,
        degradation=recipe.degradation,
        data=data_note,
        licence=licence,
        git_revision=begun["revision"],
        created=begun["created"],
        training={**settings, "started from": begun["start"], "curve": curve},
        figures={f"validation {name}": last[name] for name in ("psnr_y_db", "ssim_y")},
    )


@ray.remote
class ProgressBoard:
    """Where the workers write how far they are, and the driver reads it."""

    def __init__(self) -> None:
        self._step = 0
        self._rows: list[dict[str, float]] = []

    def update(self, step: int) -> None:
        self._step = step

    def show(self, row: dict[str, float]) -> None:
        self._rows.append(row)

    def take(self) -> tuple[int, list[dict[str, float]]]:
        """The last step, and the rows since the last call."""
        rows, self._rows = self._rows, []
        return self._step, rows


def _restore(trainer: Trainer, start: ResidualNetwork | None) -> list[dict[str, float]]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        if start is not None:
            trainer.start_from(start)
        return []
    with checkpoint.as_directory() as folder:
        trainer.load_state(load_file(Path(folder) / STATE_FILE))
        return json.loads((Path(folder) / HISTORY_FILE).read_text())


def _batches(
    sampler: PatchSampler, first: int, last: int, rank: int, world_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of the steps `first` to `last`, each made while the step before runs."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(sampler.batch, first, rank=rank, world_size=world_size)
        for step in range(first, last):
            batch = ahead.result()
            if step + 1 < last:
                ahead = pool.submit(sampler.batch, step + 1, rank=rank, world_size=world_size)
            yield batch


def _mean_over_workers(value: torch.Tensor) -> float:
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value = value / torch.distributed.get_world_size()
    return value.item()


def _report(
    trainer: Trainer, history: list[dict[str, float]], row: dict[str, float], rank: int
) -> None:
    if rank != 0:
        ray.train.report(row)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_file(trainer.state(), Path(folder) / STATE_FILE)
        (Path(folder) / HISTORY_FILE).write_text(json.dumps(history))
        ray.train.report(row, checkpoint=ray.train.Checkpoint.from_directory(folder))


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
            step, rows = ray.get(board.take.remote())
        except ray.exceptions.RayError:
            return  # Ray is gone, and the main thread says why
        for row in rows:
            _tell(
                f"step {row['step']:.0f} of {steps}: loss {row['loss']:.5f}, validation "
                f"{row['psnr_y_db']:.2f} dB PSNR-Y, {row['ssim_y']:.4f} SSIM-Y"
            )
        now = time.monotonic()
        if first is None and step:
            first = (now, step)
        if first and step > first[1] and (now >= next_line_s):
            step_s = (now - first[0]) / (step - first[1])
            left = format_duration((steps - step) * step_s)
            _tell(f"step {step} of {steps}, {1000 * step_s:.0f} ms a step, {left} left")
            next_line_s = now + PLAIN_PROGRESS_EVERY_S
        if finished:
            return


def _check_recipe(recipe: TrainingRecipe, num_workers: int) -> None:
    target_px = recipe.input_px * recipe.degradation.scale
    if target_px > PATCH_PX:
        raise ConfigError(
            f"input_px is {recipe.input_px}: targets of {target_px} px don't fit in patches of "
            f"{PATCH_PX} px"
        )
    if num_workers < 1:
        raise ConfigError(f"--num-workers is {num_workers}, expected at least 1")
    if recipe.batch_size % num_workers:
        raise ConfigError(
            f"--num-workers is {num_workers}: the batch of {recipe.batch_size} examples can't be "
            f"shared equally; choose a divisor, or --set batch_size="
        )
    if num_workers > 1 and recipe.network.kind == "residual-bn":
        raise ConfigError(
            "residual-bn trains on one worker only: the statistics of a batch are those of a "
            "worker's share, and the result would depend on the number of workers"
        )


def check_resources(resources: Resources, *, num_workers: int, use_gpu: bool) -> None:
    """Ray waits without end for what isn't there."""
    kind, have = ("GPU", resources.gpus) if use_gpu else ("CPU", resources.cpus)
    if num_workers > have:
        raise ConfigError(
            f"{num_workers} workers need {num_workers} {kind}s, and Ray has {have:g}; "
            f"change --num-workers" + (" or leave out --use-gpu" if use_gpu else "")
        )


def _check_local(path: str | None) -> None:
    if path and "://" in path:
        raise ConfigError(f"{path}: object stores can't be trained from yet; give a folder")


def _claim(
    output: Path, recipe: TrainingRecipe, data: PreparedData, start: Weights | None
) -> dict[str, Any]:
    """Makes the output folder this run's own; what its first start recorded there.

    Raises ConfigError if it holds a run of another recipe, other data or another start. `steps`
    and `validate_every` may differ: a run may be made longer.
    """
    settings = asdict(replace(recipe, steps=1, validate_every=1))
    settings |= {"degradation": describe(recipe.degradation)}
    wanted = {
        **json.loads(json.dumps(settings)),
        "data": data.folder.name,
        "start": f"{start.name} ({start.sha256[:12]})" if start else "random weights",
    }
    file = output / RUN_FILE
    try:
        if not file.exists():
            output.mkdir(parents=True, exist_ok=True)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps({**wanted, "revision": _revision(), "created": now}))
            partial.replace(file)
        found = json.loads(file.read_text())
    except OSError as error:
        raise DataError(
            f"{output}: can't be written ({error.strerror}); choose another --output"
        ) from error
    except ValueError as error:
        raise DataError(f"{file}: damaged ({error}); choose another --output") from error
    changed = [name for name in wanted if found.get(name) != wanted[name]]
    if changed:
        raise ConfigError(
            f"{output} holds another run ({', '.join(changed)} differ); choose another --output"
        )
    return found


def _threads(resources: Resources, num_workers: int) -> int:
    """Of each worker: an equal share of all CPUs, but no more than one node has."""
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return max(1, min(int(resources.cpus) // num_workers, int(max(nodes))))


def _resources(job: TrainingJob, use_gpu: bool) -> dict[str, float]:
    return {"GPU": 1, "CPU": 1} if use_gpu else {"CPU": job.threads}


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
    line = text.splitlines()[-1] if "Traceback" in text else " ".join(text.split())
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


def _revision() -> str:
    """The git revision of this code, with `+` where files were changed; else the version."""
    here = Path(__file__)
    try:
        # Installed code may lie in some other project's repository, which doesn't track it.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--abbrev=40", "--dirty=+", "--match=")
    except (OSError, subprocess.CalledProcessError):
        return f"resray {version('resray')}"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _tell(line: str) -> None:
    print(line, flush=True)
