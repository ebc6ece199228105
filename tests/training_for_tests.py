"""Small trainings: what tests of the run, of its faults and of the command share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipelines.photographs import PreparedData
from pipelines.recipes import build_recipe
from pipelines.stopping import StopRules
from pipelines.storage import open_store
from pipelines.training_run import TrainingJob
from resnet_core.network import ResidualNetwork
from resnet_core.training import Trainer, TrainingRecipe

SMALL = (
    "precision=float32",
    "network.num_blocks=1",
    "network.channels=16",
    "batch_size=4",
    "input_px=16",
)
FEW_STEPS = ("steps=6", "validate_every=2", "warmup_steps=2")
SETS = [word for value in (*SMALL, *FEW_STEPS) for word in ("--set", value)]


def small_recipe(**fields: object) -> TrainingRecipe:
    return replace(build_recipe("sr-x2", [*SMALL, *FEW_STEPS]), **fields)


def small_job(data: PreparedData, output: Path, **fields: object) -> TrainingJob:
    recipe = fields.pop("recipe", None) or small_recipe()
    assert isinstance(recipe, TrainingRecipe)
    values = {
        "recipe": recipe,
        "data": data,
        "output": open_store(str(output)),
        "rules": StopRules(steps=recipe.steps),
    }
    return TrainingJob(**(values | fields))  # pyright: ignore[reportArgumentType]


def plain_loop(recipe: TrainingRecipe, data: PreparedData) -> tuple[Trainer, list[float]]:
    """The same training without an engine: mean loss of each interval between validations."""
    trainer = Trainer(recipe)
    sampler = small_job(data, Path(), recipe=recipe).sampler
    losses = [trainer.step(*sampler.batch(step)).item() for step in range(recipe.steps)]
    means = np.reshape(losses, (-1, recipe.validate_every)).mean(axis=1)
    return trainer, means.tolist()


def averaged(recipe: TrainingRecipe, tensors: dict[str, torch.Tensor]) -> ResidualNetwork:
    trainer = Trainer(recipe)
    trainer.load_state(tensors)
    return trainer.averaged()


def assert_same_weights(a: ResidualNetwork, b: ResidualNetwork, *, atol: float = 1e-6) -> None:
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[name], rtol=0, atol=atol)
