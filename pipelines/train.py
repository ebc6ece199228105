"""`resray train`: a recipe and photographs in, a weights file out, through Ray Train.

The step is `resnet_core.training.Trainer`; here stand its surroundings: workers, checkpoints,
validation, resume. The same --output resumes: Ray Train finds the run's last checkpoint there.
"""

import argparse
import json
import subprocess
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
import ray.train
import ray.train.torch
import torch
import torch.distributed
from numpy.typing import NDArray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file, save_file

from cluster.connect import WORKER_ENVIRONMENT, Resources, ray_session
from pipelines.photographs import PreparedData, find_photographs, prepare
from pipelines.recipes import RECIPES, build_recipe, describe_fields
from pipelines.report import format_duration
from resnet_core.degradation import degrade, describe
from resnet_core.errors import ConfigError, DataError
from resnet_core.metrics import psnr_y, ssim_y
from resnet_core.network import ResidualNetwork
from resnet_core.patches import PatchSampler
from resnet_core.pixels import to_levels, to_nchw
from resnet_core.training import Trainer, TrainingRecipe
from resnet_core.weights import WeightsMetadata, load_weights, save_weights

STATE_FILE = "state.safetensors"
HISTORY_FILE = "history.json"
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
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="photographs")
    parser.add_argument(
        "--validation",
        type=Path,
        metavar="DIR",
        help="photographs to measure on (default: every twentieth of --data, held out)",
    )
    parser.add_argument(
        "--output",
        type=Path,
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
        help="start from these weights (scale may differ)",
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
    start: ResidualNetwork | None
    """Weights to start from, at the first start of a run."""


def run(args: argparse.Namespace) -> int:
    """Trains as `args` say and prints what came out. Returns the exit status."""
    recipe = build_recipe(args.recipe, args.set)
    _check_workers(recipe, args.num_workers)
    start = load_weights(args.start).network if args.start else None
    if start is not None:
        Trainer(recipe).start_from(start)  # says now, not in a worker, that it doesn't fit
    output = (args.output or Path("runs") / recipe.name).absolute()
    find_photographs(args.data)
    _claim(output, recipe)
    data = prepare(
        args.data.absolute(), args.validation, output.parent, patch_px=PATCH_PX, tell=_tell
    )
    _tell(f"{data.num_photographs} photographs, {data.num_patches} patches; output in {output}")
    with ray_session(address=args.address, verbose=args.verbose) as resources:
        job = TrainingJob(
            recipe=recipe,
            data=data,
            threads=_threads(resources, args.num_workers),
            start=start,
        )
        trainer, history = fit(
            job,
            output,
            num_workers=args.num_workers,
            use_gpu=args.use_gpu,
        )
    note = args.data_note or f"{data.num_photographs} photographs from {args.data.name}"
    path = output / f"{recipe.name}.safetensors"
    metadata = describe_run(recipe, history, start=args.start, data_note=note, licence=args.licence)
    sha256 = save_weights(path, trainer.averaged(), metadata)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in metadata.figures.items())
    _tell(f"{path}  (sha256 {sha256[:12]}; {figures})")
    return 0


def fit(
    job: TrainingJob, output: Path, *, num_workers: int = 1, use_gpu: bool = False
) -> tuple[Trainer, list[dict[str, float]]]:
    """Runs the job on a connected Ray, from its last checkpoint under `output` if there is one.

    Returns the trainer in its last state, and one row of figures for each validation.
    Raises DataError with the reason if the workers died more often than they are started again.
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
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            checkpoint_config=CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute="psnr_y_db"
            ),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )
    with _progress(board, job.recipe.steps):
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise DataError(f"training failed: {_root_cause(error)}") from error
    if result.checkpoint is None:
        raise DataError(f"the run in {output} left no checkpoint")
    with result.checkpoint.as_directory() as folder:
        final = Trainer(job.recipe)
        final.load_state(load_file(Path(folder) / STATE_FILE))
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
        total, count = torch.zeros_like(total), 0
        if rank == 0:
            row |= validate(trainer.averaged(), validation, job.recipe)
            config["board"].show.remote(row)
            history.append(row)
        _report(trainer, history, row, rank)


def validate(
    network: ResidualNetwork, images: list[NDArray[np.uint8]], recipe: TrainingRecipe
) -> dict[str, float]:
    """Mean PSNR and SSIM on BT.601 luma, border of `scale` pixels cropped.

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
    start: str | None,
    data_note: str,
    licence: str,
) -> WeightsMetadata:
    """The metadata of the weights that the run ends with."""
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
        git_revision=_revision(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        training={**settings, "started from": start or "random weights", "curve": curve},
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
        step, rows = ray.get(board.take.remote())
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


def _check_workers(recipe: TrainingRecipe, num_workers: int) -> None:
    if num_workers < 1:
        raise ConfigError(f"--num-workers is {num_workers}, expected at least 1")
    if recipe.batch_size % num_workers:
        raise ConfigError(
            f"--num-workers is {num_workers}: the batch of {recipe.batch_size} examples can't be "
            f"shared equally; choose a divisor, or --set batch_size="
        )


def _claim(output: Path, recipe: TrainingRecipe) -> None:
    """Makes the output folder this recipe's own. ConfigError if it holds a run of another recipe.

    `steps` and `validate_every` may differ: a run may be made longer.
    """
    settings = asdict(replace(recipe, steps=1, validate_every=1))
    settings |= {"degradation": describe(recipe.degradation)}
    wanted = json.loads(json.dumps(settings))
    file = output / "recipe.json"
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(json.dumps(wanted, indent=1))
    except OSError as error:
        raise DataError(
            f"{output}: can't be written ({error.strerror}); choose --output"
        ) from error
    found = json.loads(file.read_text())
    changed = [name for name in wanted if found.get(name) != wanted[name]]
    if changed:
        raise ConfigError(
            f"{output} holds a run of another recipe ({', '.join(changed)} differ); "
            f"choose another --output"
        )


def _threads(resources: Resources, num_workers: int) -> int:
    return max(1, int(resources.cpus) // num_workers)


def _resources(job: TrainingJob, use_gpu: bool) -> dict[str, float]:
    return {"GPU": 1, "CPU": 1} if use_gpu else {"CPU": job.threads}


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _revision() -> str:
    """The git revision of this code, with `+` where files were changed; else the version."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--match="],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return f"resray {version('resray')}"
    return described.stdout.strip()


def _tell(line: str) -> None:
    print(line, flush=True)
