"""Trains `sr-x2` in many ways for the same time each: the table of training-notes.md.

.venv/bin/python docs/training_notes.py PATCHES [--steps N] [--only WORD]

PATCHES is the folder `data-FINGERPRINT` that `resray train` leaves beside its output. All have the
CPU time of N steps of the recipe as it is, batches apart: what a step of another costs beside one
of these is measured first, in turn, so that other work on the machine doesn't count. Each schedule
ends with the time.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median

import torch

from pipelines.machine import machine_name
from pipelines.photographs import PreparedData, open_prepared
from pipelines.recipes import build_recipe
from pipelines.storage import open_store
from pipelines.training_run import measure
from resnet_core.training import Trainer, TrainingRecipe

Batch = tuple[torch.Tensor, torch.Tensor]

CHOICES = {
    "the recipe: 16 x 48, Muon, rate 1e-3, L1, 16 inputs of 32 px": (),
    "seed: another": ("seed=1",),
    "block: `residual-bn`": ("network.kind=residual-bn",),
    "block: `plain`": ("network.kind=plain",),
    "width and depth: 8 x 68": ("network.num_blocks=8", "network.channels=68"),
    "width and depth: 36 x 32": ("network.num_blocks=36", "network.channels=32"),
    "width and depth: 32 x 64, 3.5 times the weights": (
        "network.num_blocks=32",
        "network.channels=64",
    ),
    "width and depth: 10 x 32, a quarter": ("network.num_blocks=10", "network.channels=32"),
    "folding: kernels expanded by 2": ("network.expansion=2",),
    "loss: Charbonnier": ("loss=charbonnier",),
    "loss: L1 and 0.1 of the spectrum's": ("fft_weight=0.1",),
    "patch: 64 inputs of 16 px": ("batch_size=64", "input_px=16"),
    "patch: 4 inputs of 64 px": ("batch_size=4", "input_px=64"),
    "patch: 16 inputs of 64 px": ("input_px=64",),
    "learning rate: 5e-4": ("learning_rate=5e-4",),
    "learning rate: 2e-3": ("learning_rate=2e-3",),
    "optimiser: Adam, rate 5e-4": ("optimizer=adam", "learning_rate=5e-4"),
    "optimiser: Adam, rate 1e-3": ("optimizer=adam",),
    "average: 0.99 instead of 0.999": ("ema_decay=0.99",),
}
"""What is told of a choice, and its settings."""
TIMED_STEPS = 12


def batches(recipe: TrainingRecipe, data: PreparedData, steps: int) -> Iterator[Batch]:
    sampler = recipe.sampler(data.groups, data.groups.sizes, patch_px=data.patch_px)
    return map(sampler.batch, range(steps))


def cost(recipe: TrainingRecipe, data: PreparedData) -> float:
    """Time of a step as a multiple of the recipe's own, in turn with it."""
    pair = (build_recipe("sr-x2", []), recipe)
    trainers = [Trainer(each) for each in pair]
    ratios: list[float] = []
    for step in zip(*(batches(each, data, 2 * TIMED_STEPS) for each in pair), strict=True):
        seconds: list[float] = []
        for trainer, batch in zip(trainers, step, strict=True):
            began_s = time.process_time()
            trainer.step(*batch)
            seconds.append(time.process_time() - began_s)
        ratios.append(seconds[1] / seconds[0])
    return median(ratios[TIMED_STEPS:])


def try_choice(settings: Sequence[str], data: PreparedData, base_steps: int) -> tuple[int, float]:
    """Steps, and PSNR-Y in dB of the validation photographs behind them."""
    steps = round(base_steps / cost(build_recipe("sr-x2", settings), data))
    recipe = build_recipe("sr-x2", [*settings, f"steps={steps}", f"warmup_steps={steps // 10}"])
    trainer = Trainer(recipe)
    for batch in batches(recipe, data, steps):
        trainer.step(*batch)
    pictures = measure(trainer.averaged(), data.validation(), recipe)
    return steps, fmean(each.psnr_y_db for each in pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("patches", type=Path)
    parser.add_argument("--steps", type=int, default=600, help="of the recipe as it is (600)")
    parser.add_argument("--only", default="", help="choices that begin so")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = open_prepared(open_store(str(args.patches)))
    print(f"{machine_name('cpu')}\n")
    print("| choice | steps | validation PSNR-Y |\n|---|---|---|")
    for told, settings in CHOICES.items():
        if told.startswith(args.only):
            steps, psnr_y_db = try_choice(settings, data, args.steps)
            print(f"| {told} | {steps:,} | {psnr_y_db:.2f} dB |", flush=True)


if __name__ == "__main__":
    main()
