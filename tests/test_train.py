"""Training through Ray Train: the core's own losses, resume, and clear errors."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs_for_tests import write_photographs
from safetensors.torch import load_file

from cluster.connect import ray_session
from pipelines.cli import main
from pipelines.photographs import PreparedData, prepare
from pipelines.recipes import build_recipe
from pipelines.train import TrainingJob, fit, train_worker, validate
from resnet_core.network import ResidualNetwork
from resnet_core.patches import PatchSampler
from resnet_core.training import Trainer, TrainingRecipe
from resnet_core.weights import load_weights

SMALL = ("network.num_blocks=1", "network.channels=16", "batch_size=4", "input_px=16")
FEW_STEPS = ("steps=6", "validate_every=2", "warmup_steps=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = write_photographs(tmp_path_factory.mktemp("photographs"), 4)
    cache = tmp_path_factory.mktemp("cache")
    return prepare(folder, None, cache, patch_px=192, tell=print)


@pytest.fixture
def recipe() -> TrainingRecipe:
    return build_recipe("sr-x2", [*SMALL, *FEW_STEPS])


def plain_loop(recipe: TrainingRecipe, data: PreparedData) -> tuple[Trainer, list[float]]:
    """The same training without an engine: mean loss of each interval between validations."""
    trainer = Trainer(recipe)
    sampler = PatchSampler(
        patches=data.patches(),
        degradation=recipe.degradation,
        input_px=recipe.input_px,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
    )
    losses = [trainer.step(*sampler.batch(step)).item() for step in range(recipe.steps)]
    means = np.reshape(losses, (-1, recipe.validate_every)).mean(axis=1)
    return trainer, means.tolist()


def assert_same_weights(a: ResidualNetwork, b: ResidualNetwork, *, atol: float = 1e-6) -> None:
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[name], rtol=0, atol=atol)


@pytest.mark.ray
def test_one_worker_and_a_plain_loop_give_the_same_losses(
    data: PreparedData, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    expected, losses = plain_loop(recipe, data)
    with ray_session():
        job = TrainingJob(recipe=recipe, data=data, threads=1, start=None)
        trainer, history = fit(job, tmp_path / "run")
    assert [row["step"] for row in history] == [2, 4, 6]
    assert [row["loss"] for row in history] == pytest.approx(losses, rel=1e-4)
    assert_same_weights(trainer.averaged(), expected.averaged(), atol=1e-5)
    assert history[-1]["psnr_y_db"] == pytest.approx(
        validate(expected.averaged(), data.validation(), recipe)["psnr_y_db"], abs=1e-3
    )


@pytest.mark.ray
def test_two_workers_take_the_steps_of_one_and_a_longer_run_goes_on_where_it_stopped(
    data: PreparedData, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    expected, losses = plain_loop(recipe, data)
    with ray_session():
        # A constant warm-up: the schedule must not depend on where the first part stops.
        part = TrainingJob(recipe=recipe, data=data, threads=1, start=None)
        trainer, history = fit(part, tmp_path / "two", num_workers=2)
        assert [row["loss"] for row in history] == pytest.approx(losses, rel=1e-3)
        assert_same_weights(trainer.averaged(), expected.averaged(), atol=1e-4)

        longer = replace(part, recipe=replace(recipe, steps=8))
        _, longer_history = fit(longer, tmp_path / "two", num_workers=2)
    assert longer_history[:3] == history
    assert [row["step"] for row in longer_history] == [2, 4, 6, 8]


@pytest.mark.ray
def test_a_worker_that_dies_goes_on_from_the_last_checkpoint(
    data: PreparedData, recipe: TrainingRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, losses = plain_loop(recipe, data)
    mark = tmp_path / "died"

    def dying_worker(config: dict[str, object]) -> None:
        step = Trainer.step

        def step_and_die(self: Trainer, *batch: torch.Tensor) -> torch.Tensor:
            if self.step_count == 3 and not mark.exists():
                mark.touch()
                os._exit(1)
            return step(self, *batch)

        Trainer.step = step_and_die
        train_worker(config)

    monkeypatch.setattr("pipelines.train.train_worker", dying_worker)
    with ray_session():
        job = TrainingJob(recipe=recipe, data=data, threads=1, start=None)
        trainer, history = fit(job, tmp_path / "run")
    assert mark.exists()
    assert [row["loss"] for row in history] == pytest.approx(losses, rel=1e-4)
    assert_same_weights(trainer.averaged(), expected.averaged(), atol=1e-5)


@pytest.mark.ray
def test_the_command_writes_weights_and_its_next_run_starts_from_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = write_photographs(tmp_path / "photographs", 3)
    sets = [word for value in (*SMALL, *FEW_STEPS) for word in ("--set", value)]
    first = ["train", "sr-x2", "--data", str(photographs), "--output", str(tmp_path / "x2"), *sets]
    with ray_session():
        assert main(first) == 0
        weights = load_weights(str(tmp_path / "x2" / "sr-x2.safetensors"))
        assert weights.metadata.task == "sr-x2"
        assert weights.metadata.data == "2 photographs from photographs"
        assert weights.metadata.training["steps"] == 6
        assert weights.metadata.figures["validation psnr_y_db"] > 10
        assert "step 6 of 6: loss" in capsys.readouterr().out

        again = load_file(tmp_path / "x2" / "sr-x2.safetensors")
        assert main(first) == 0
        assert all(
            torch.equal(value, again[name])
            for name, value in load_file(tmp_path / "x2" / "sr-x2.safetensors").items()
        )

        start = str(tmp_path / "x2" / "sr-x2.safetensors")
        second = ["train", "sr-x4", "--data", str(photographs), "--from", start, *sets]
        assert main([*second, "--output", str(tmp_path / "x4")]) == 0
    assert load_weights(str(tmp_path / "x4" / "sr-x4.safetensors")).config.scale == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sr-x5"], "no recipe named 'sr-x5'; did you mean 'sr-x4'?"),
        (["sr-x2", "--set", "lerning_rate=1"], "did you mean 'learning_rate'?"),
        (["sr-x2", "--set", "network.chanels=8"], "did you mean 'channels'?"),
        (["sr-x2", "--set", "steps=many"], "--set steps=many: expected a whole number"),
        (["sr-x2", "--set", "steps"], "--set steps: expected name=value"),
        (["sr-x2", "--num-workers", "3"], "the batch of 16 examples can't be shared equally"),
        (["sr-x2", "--from", "sr-x22"], "no weights named 'sr-x22'"),
        (["sr-x2"], "no such folder of photographs"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["train", *arguments, "--data", str(tmp_path / "none")])
    error = capsys.readouterr().err
    assert status == 1
    assert message in error
    assert error.count("\n") == 1


def test_an_output_of_another_recipe_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = write_photographs(tmp_path / "photographs", 2)
    output = tmp_path / "run"
    output.mkdir()
    (output / "recipe.json").write_text(json.dumps({"learning_rate": 1}))
    status = main(["train", "sr-x2", "--data", str(photographs), "--output", str(output)])
    assert status == 1
    assert "holds a run of another recipe" in capsys.readouterr().err
