"""Training steps: resray with one worker and with two, and loops with all data in memory.

The loops have their batches degraded and in memory before they begin; resray reads patches, crops
and degrades while it trains. One is plain PyTorch (`plain_training`), the other calls resray's own
`Trainer.step`. All take the steps of the same recipe, `sr-x2`.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from cluster.connect import WORKER_ENVIRONMENT, ray_session
from parts.end_to_end import photographs
from parts.figures import Figure, median_ratio, table
from parts.plain_training import plain_step
from pipelines import patch_stream, training_run
from pipelines.checkpoints import Row
from pipelines.data_engine import quieten
from pipelines.photographs import PreparedData, open_prepared, prepare
from pipelines.recipes import build_recipe
from pipelines.stopping import StopRules
from pipelines.storage import open_source, open_store
from pipelines.train import PATCH_PX, make_job
from pipelines.training_run import TrainingJob, fit, measure
from resnet_core.patches import STEPS_A_GROUP, PatchSampler
from resnet_core.training import Trainer, TrainingRecipe

WARM_UP, MEASURED = 1, 2
"""Intervals. The examples that were made ahead are used up in the first ones (of FULL)."""
INTERVALS = WARM_UP + MEASURED
PRECISION_TURNS = 20
MEMORY_INTERVAL = 60
LOOP_TURNS = 6


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    groups: int
    interval: int
    """Steps between two checkpoints: fewer than in earnest, so that their cost is seen."""
    in_memory: int
    """Batches of the loops, which come again."""


QUICK = Size(groups=1, interval=3 * STEPS_A_GROUP, in_memory=16)
FULL = Size(groups=3, interval=10 * STEPS_A_GROUP, in_memory=64)


def measure_steps(folder: Path, size: Size) -> list[Figure]:
    """One worker with all threads, two with half of them, and the loops, in turn."""
    interval = size.interval
    recipe = build_recipe("sr-x2", [f"steps={INTERVALS * interval}", f"validate_every={interval}"])
    one: list[list[Row]] = []
    two: list[list[Row]] = []
    loop: list[float] = []
    bare: list[float] = []
    with ray_session() as resources:
        data = _prepared(folder / "photographs", 20)
        jobs = {
            number: make_job(
                recipe,
                data,
                open_store(str(folder)),
                StopRules(steps=recipe.steps),
                resources=resources,
                workers=(number, number),
            )
            for number in (1, 2)
        }
        first_step_s = _first_step_s(jobs[1], folder)
        for group in range(size.groups):
            plain_s, bare_s = _loops(
                data, folder / "loops.json", threads=jobs[1].threads, in_memory=size.in_memory
            )
            loop.append(plain_s)
            bare.append(bare_s)
            for number, found in ((1, one), (2, two)):
                output = open_store(str(folder / f"{group}-{number}"))
                last, _ = fit(replace(jobs[number], output=output))
                found.append(last.history[WARM_UP:])
            print(f"group {group + 1} of {size.groups}", flush=True)
    one_s, two_s = ([median(row["step_s"] for row in rows) for rows in each] for each in (one, two))
    waits = [row["data_wait_share"] for rows in one for row in rows]
    stalls = [row["checkpoint_stall_share"] for rows in one for row in rows]
    print(
        table(
            f"Steps of sr-x2, {size.groups} x {MEASURED} intervals of {interval}, validation apart",
            ("", "ms a step", "range"),
            [
                ("a plain PyTorch loop, its batches in memory", *_told(loop)),
                ("the same loop with resray's step", *_told(bare)),
                ("resray, one worker", *_told(one_s)),
                ("resray, two workers with half the threads", *_told(two_s)),
            ],
        )
    )
    print(f"From the start to the first step's checkpoint: {first_step_s:.1f} s\n")
    return [
        Figure(name="train_vs_loop", value=median_ratio(loop, one_s), aim=0.95),
        Figure(name="train_vs_bare_step", value=median_ratio(bare, one_s), aim=0.95),
        Figure(name="data_wait_share", value=median(waits), aim=0.03, at_least=False),
        Figure(name="two_workers_vs_one", value=median_ratio(one_s, two_s), aim=0.9),
        Figure(name="checkpoint_stall_share", value=median(stalls), aim=0.05, at_least=False),
    ]


def measure_precision(folder: Path, *, steps: int) -> list[Figure]:
    """bfloat16 with channels last against float32: the time, and the PSNR after equal steps."""
    with ray_session():
        data = _prepared(folder / "photographs", 20)
    fields = [f"steps={steps}", f"warmup_steps={min(200, steps // 4)}"]
    exact = build_recipe("sr-x2", [*fields, "precision=float32", "channels_last=false"])
    trainers = [Trainer(exact), Trainer(replace(exact, precision="bfloat16", channels_last=True))]
    sampler = _sampler(data, exact)
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in np.array_split(range(steps), PRECISION_TURNS):
        batches = [sampler.batch(int(step)) for step in turn]
        for trainer, found in zip(trainers, seconds, strict=True):
            began_s = time.monotonic()
            for batch in batches:
                trainer.step(*batch)
            found.append((time.monotonic() - began_s) / len(turn))
    validation = data.validation()
    scores = [
        fmean(each.psnr_y_db for each in measure(trainer.averaged(), validation, exact))
        for trainer in trainers
    ]
    print(
        table(
            f"Precision, {steps} equal steps of sr-x2",
            ("", "ms a step", "range", "validation PSNR-Y, dB"),
            [
                ("float32", *_told(seconds[0][1:]), f"{scores[0]:.3f}"),
                ("bfloat16, channels last", *_told(seconds[1][1:]), f"{scores[1]:.3f}"),
            ],
        )
    )
    gain = median_ratio(seconds[0][1:], seconds[1][1:])
    return [
        Figure(name="bf16_gain", value=gain, aim=1.0),
        Figure(name="bf16_psnr_loss_db", value=scores[0] - scores[1], aim=0.05, at_least=False),
    ]


def measure_memory(folder: Path, *, counts: tuple[int, int]) -> list[Figure]:
    """Peak memory of each process with few photographs and with many."""
    peaks: list[tuple[int, ...]] = []
    for count in counts:
        command = [sys.executable, "-m", "parts.training", str(folder), str(count)]
        done = subprocess.run(  # noqa: S603
            command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
        )
        peaks.append(tuple(json.loads(done.stdout.splitlines()[-1])))
    print(
        table(
            f"Peak memory over {2 * MEMORY_INTERVAL} steps, MiB",
            ("photographs", "worker", "largest maker of examples", "driver"),
            [
                (str(count), *(f"{peak // 1024}" for peak in row))
                for count, row in zip(counts, peaks, strict=True)
            ],
        )
    )
    growth = max(many / few for few, many in zip(*peaks, strict=True))
    return [Figure(name="train_memory_growth", value=growth, aim=1.1, at_least=False)]


def _peaks(folder: Path, count: int) -> tuple[int, int, int]:
    """Of the worker, of the largest maker and of this process, in KiB."""
    steps = [f"steps={2 * MEMORY_INTERVAL}", f"validate_every={MEMORY_INTERVAL}"]
    recipe = build_recipe("sr-x2", steps)
    notes = folder / f"peaks-{count}"
    notes.mkdir()
    work, maker = training_run.train_worker, patch_stream.Maker

    def note(what: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (notes / f"{what}-{os.getpid()}").write_text(str(peak))

    class NotedMaker(maker):
        def __call__(self, table: Any) -> dict[str, Any]:
            made = super().__call__(table)
            note("maker")
            return made

    def worker(config: dict[str, Any]) -> None:
        patch_stream.Maker = NotedMaker
        work(config)
        note("worker")

    training_run.train_worker = worker
    with ray_session() as resources:
        data = _prepared(folder / f"photographs-{count}", count)
        fit(
            make_job(
                recipe,
                data,
                open_store(str(folder / f"memory-{count}")),
                StopRules(steps=recipe.steps),
                resources=resources,
            )
        )
    note("driver")
    largest = (
        max(int(path.read_text()) for path in notes.glob(f"{what}-*"))
        for what in ("worker", "maker", "driver")
    )
    return tuple(largest)


def _prepared(folder: Path, count: int) -> PreparedData:
    quieten()
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(photographs(count)):
        (folder / f"{number:04}.jpg").write_bytes(picture)
    cache = open_store(str(folder.parent))
    return prepare(open_source(str(folder)), None, cache, patch_px=PATCH_PX, tell=lambda _: None)


def _sampler(data: PreparedData, recipe: TrainingRecipe) -> PatchSampler:
    in_memory = [data.groups[index] for index in range(len(data.groups))]
    return recipe.sampler(in_memory, data.groups.sizes, patch_px=data.patch_px)


def _first_step_s(job: TrainingJob, folder: Path) -> float:
    output = folder / "first"
    began_s = time.time()
    rules = replace(job.rules, max_steps=1)
    fit(replace(job, output=open_store(str(output)), rules=rules))
    (checkpoint,) = (output / "checkpoints").iterdir()
    return checkpoint.stat().st_mtime - began_s


def _loops(
    data: PreparedData, answer: Path, *, threads: int, in_memory: int
) -> tuple[float, float]:
    """Median seconds of a plain step and of resray's, in a process with a worker's environment."""
    asked = {"folder": data.store.url, "threads": threads, "in_memory": in_memory}
    answer.write_text(json.dumps(asked))
    environment = {**os.environ, **WORKER_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    code = "from parts.training import run_loops; import sys; run_loops(sys.argv[1])"
    subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, str(answer)],
        cwd=Path(__file__).parent.parent,
        env=environment,
        check=True,
    )
    plain_s, bare_s = json.loads(answer.read_text())
    return plain_s, bare_s


def run_loops(answer: str) -> None:
    """Both in turn, so that what slows the machine down slows both down."""
    asked = json.loads(Path(answer).read_text())
    torch.set_num_threads(asked["threads"])
    recipe = build_recipe("sr-x2", [])
    sampler = _sampler(open_prepared(open_store(asked["folder"])), recipe)
    batches = [sampler.batch(step) for step in range(asked["in_memory"])]
    trainer = Trainer(recipe)
    steps = (plain_step(recipe), lambda *batch: trainer.step(*batch).item())
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(LOOP_TURNS):
        for which in (0, 1) if turn % 2 else (1, 0):
            began_s = time.monotonic()
            for batch in batches:
                steps[which](*batch)
            seconds[which].append((time.monotonic() - began_s) / len(batches))
    Path(answer).write_text(json.dumps([median(found[1:]) for found in seconds]))


def _told(seconds: Sequence[float]) -> tuple[str, str]:
    milliseconds = [1000 * value for value in seconds]
    return f"{median(milliseconds):.0f}", f"{min(milliseconds):.0f} to {max(milliseconds):.0f}"


if __name__ == "__main__":
    print(json.dumps(_peaks(Path(sys.argv[1]), int(sys.argv[2]))))
