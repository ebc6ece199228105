"""Training through Ray Train: the core's own losses, resume, and clear errors."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs_for_tests import write_photographs

from cluster.connect import Resources, ray_session
from pipelines.cli import main
from pipelines.photographs import PreparedData, prepare
from pipelines.recipes import build_recipe
from pipelines.train import TrainingJob, check_resources, fit, train_worker, validate
from resnet_core.errors import ConfigError, DataError
from resnet_core.network import ResidualNetwork
from resnet_core.patches import PatchSampler
from resnet_core.training import Trainer, TrainingRecipe
from resnet_core.weights import load_weights

SMALL = ("network.num_blocks=1", "network.channels=16", "batch_size=4", "input_px=16")
FEW_STEPS = ("steps=6", "validate_every=2", "warmup_steps=2")
SETS = [word for value in (*SMALL, *FEW_STEPS) for word in ("--set", value)]

STANDING_STILL = """
import sys, time
from pipelines import train
from pipelines.cli import main
from resnet_core.training import Trainer

stop, work, step = int(sys.argv[1]), train.train_worker, Trainer.step

def step_or_wait(trainer, *batch):
    while trainer.step_count == stop:
        time.sleep(0.1)
    return step(trainer, *batch)

def standing_worker(config):
    Trainer.step = step_or_wait
    work(config)

train.train_worker = standing_worker
sys.exit(main(sys.argv[2:]))
"""
"""The command, but the worker stands still after so many steps, without end."""


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
    mark, taken = tmp_path / "died", tmp_path / "steps"

    def dying_worker(config: dict[str, object]) -> None:
        step = Trainer.step

        def step_and_die(self: Trainer, *batch: torch.Tensor) -> torch.Tensor:
            with taken.open("a") as file:
                file.write(f"{self.step_count} ")
            if self.step_count == 3 and not mark.exists():
                mark.touch()
                # Ray records a checkpoint some moments after the report of it.
                record = tmp_path / "run" / "checkpoint_manager_snapshot.json"
                while not (record.exists() and "checkpoint_" in record.read_text()):
                    time.sleep(0.1)
                os._exit(1)
            return step(self, *batch)

        Trainer.step = step_and_die
        train_worker(config)

    monkeypatch.setattr("pipelines.train.train_worker", dying_worker)
    with ray_session():
        job = TrainingJob(recipe=recipe, data=data, threads=1, start=None)
        trainer, history = fit(job, tmp_path / "run")
    # It died at step 3, and went on from the checkpoint at step 2.
    assert taken.read_text().split() == ["0", "1", "2", "3", "2", "3", "4", "5"]
    assert [row["loss"] for row in history] == pytest.approx(losses, rel=1e-4)
    assert_same_weights(trainer.averaged(), expected.averaged(), atol=1e-5)


@pytest.mark.ray
def test_the_command_writes_weights_and_its_next_run_starts_from_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = write_photographs(tmp_path / "photographs", 3)
    first = ["train", "sr-x2", "--data", str(photographs), "--output", str(tmp_path / "x2"), *SETS]
    with ray_session():
        assert main(first) == 0
        weights = load_weights(str(tmp_path / "x2" / "sr-x2.safetensors"))
        assert weights.metadata.task == "sr-x2"
        assert weights.metadata.data == "2 photographs from photographs"
        assert weights.metadata.training["steps"] == 6
        assert weights.metadata.figures["validation psnr_y_db"] > 10
        assert "step 6 of 6: loss" in capsys.readouterr().out

        again = (tmp_path / "x2" / "sr-x2.safetensors").read_bytes()
        assert main(first) == 0
        assert (tmp_path / "x2" / "sr-x2.safetensors").read_bytes() == again
        # Nothing was trained again: a step would have left a line.
        assert "step" not in capsys.readouterr().out
        assert main([*first, "--set", "steps=4"]) == 1
        assert "is at step 6 already, beyond steps=4" in capsys.readouterr().err
        assert main([*first, "--set", "seed=1"]) == 1
        assert "holds another run (seed differ)" in capsys.readouterr().err

        start = str(tmp_path / "x2" / "sr-x2.safetensors")
        second = ["train", "sr-x4", "--data", str(photographs), "--from", start, *SETS]
        assert main([*second, "--output", str(tmp_path / "x4")]) == 0
    assert load_weights(str(tmp_path / "x4" / "sr-x4.safetensors")).config.scale == 4


def stop_at(
    step: int, arguments: list[str], output: Path, stop: Callable[[int], None]
) -> tuple[int, str]:
    """Runs the command and stops its process once the checkpoint before `step` is recorded."""
    command = [sys.executable, "-c", STANDING_STILL, str(step), *arguments]
    record = output / "checkpoint_manager_snapshot.json"
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            while not (record.exists() and f'"step":{step - 1},' in record.read_text()):
                assert process.poll() is None, process.communicate()
                time.sleep(0.1)
            stop(process.pid)
            _, errors = process.communicate()
        finally:
            process.kill()
    return process.returncode, errors


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def press_ctrl_c(pid: int) -> None:
    """A terminal interrupts the whole group of processes."""
    os.killpg(pid, signal.SIGINT)


@pytest.mark.ray
def test_however_it_was_stopped_the_same_command_ends_as_an_undisturbed_run(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photographs", 2)
    paths = [tmp_path / name / "sr-x2.safetensors" for name in ("disturbed", "undisturbed")]
    runs = [
        ["train", "sr-x2", "--data", str(photographs), "--output", str(path.parent), *SETS]
        for path in paths
    ]
    status, _ = stop_at(3, runs[0], paths[0].parent, kill)
    assert status == -signal.SIGKILL
    status, errors = stop_at(5, runs[0], paths[0].parent, press_ctrl_c)
    assert status == 130, errors
    assert errors == "resray: stopped; the same command goes on from the last checkpoint\n"
    assert not paths[0].exists()
    with ray_session():
        assert [main(arguments) for arguments in runs] == [0, 0]
    disturbed, undisturbed = (load_weights(str(path)) for path in paths)
    assert_same_weights(disturbed.network, undisturbed.network, atol=0)
    assert disturbed.metadata.training == undisturbed.metadata.training
    assert disturbed.metadata.figures == undisturbed.metadata.figures
    steps = [row[0] for row in disturbed.metadata.training["curve"]]
    assert steps == [2, 4, 6], "each measured once"


def test_workers_that_can_never_start_are_refused() -> None:
    laptop = Resources(cpus=2, gpus=0, smallest_node_cpus=2)
    check_resources(laptop, num_workers=2, use_gpu=False)
    with pytest.raises(ConfigError, match="4 workers need 4 CPUs, and Ray has 2"):
        check_resources(laptop, num_workers=4, use_gpu=False)
    with pytest.raises(ConfigError, match=r"1 workers need 1 GPUs, and Ray has 0.*--use-gpu"):
        check_resources(laptop, num_workers=1, use_gpu=True)


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
        (["sr-x2", "--set", "precision=bf16"], "precision is 'bf16'; did you mean 'bfloat16'"),
        (["sr-x2", "--set", "learning_rate=-1"], "learning_rate is -1.0, expected more than 0"),
        (["sr-x2", "--set", "name=../x"], "expected a file's name without folders"),
        (["sr-x2", "--set", "input_px=100"], "targets of 200 px don't fit in patches of 192 px"),
        (["sr-x2", "--output", "s3://bucket/run"], "object stores can't be trained from yet"),
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


def test_a_damaged_record_of_the_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = write_photographs(tmp_path / "photographs", 2)
    output = tmp_path / "run"
    output.mkdir()
    (output / "run.json").write_text("")
    status = main(["train", "sr-x2", "--data", str(photographs), "--output", str(output)])
    assert status == 1
    assert "run.json: damaged" in capsys.readouterr().err


@pytest.mark.ray
def test_a_loss_that_is_no_number_stops_the_run(
    data: PreparedData, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    broken = Trainer(recipe).averaged()
    with torch.no_grad():
        broken.head.bias.fill_(float("nan"))
    with ray_session(), pytest.raises(DataError, match="the loss is no number any more at step 2"):
        fit(TrainingJob(recipe=recipe, data=data, threads=1, start=broken), tmp_path / "run")
