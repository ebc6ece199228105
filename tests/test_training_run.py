"""Training through Ray Train: the core's own losses, for any number of workers, and its ends."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from photographs_for_tests import write_photographs
from training_for_tests import assert_same_weights, averaged, plain_loop, small_job, small_recipe

from cluster.connect import ray_session
from pipelines.photographs import PreparedData, prepare
from pipelines.stopping import StopRules
from pipelines.storage import open_source, open_store
from pipelines.training_run import fit, measure
from resnet_core.errors import DataError
from resnet_core.training import Trainer

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with ray_session():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = write_photographs(tmp_path_factory.mktemp("photographs"), 6)
    cache = tmp_path_factory.mktemp("cache")
    return prepare(
        open_source(str(folder)), None, open_store(str(cache)), patch_px=96, tell=lambda _: None
    )


def test_one_worker_and_a_plain_loop_give_the_same_losses(
    data: PreparedData, tmp_path: Path
) -> None:
    recipe = small_recipe()
    expected, losses = plain_loop(recipe, data)
    last, ended = fit(small_job(data, tmp_path / "run"))
    assert ended == "all 6 steps of the schedule are done"
    assert [row["step"] for row in last.history] == [2, 4, 6]
    assert [row["loss"] for row in last.history] == pytest.approx(losses, rel=1e-4)
    assert_same_weights(averaged(recipe, last.tensors), expected.averaged(), atol=1e-5)
    measured = measure(expected.averaged(), data.validation(), recipe)
    assert last.history[-1]["psnr_y_db"] == pytest.approx(measured[0].psnr_y_db, abs=1e-3)
    assert last.history[-1]["ssim_y"] == pytest.approx(measured[0].ssim_y, abs=1e-5)


@pytest.mark.parametrize("num_workers", [2, 3])
def test_more_workers_take_the_steps_of_one(
    data: PreparedData, tmp_path: Path, num_workers: int
) -> None:
    """Three of them have shares of two examples and of one."""
    recipe = small_recipe()
    expected, losses = plain_loop(recipe, data)
    workers = (num_workers, num_workers)
    job = replace(small_job(data, tmp_path / "run"), workers=workers)
    if num_workers == 3:
        job = replace(job, tasks=replace(job.tasks, cpus_each=0.2))
    last, _ = fit(job)
    assert [row["loss"] for row in last.history] == pytest.approx(losses, rel=1e-3)
    assert_same_weights(averaged(recipe, last.tensors), expected.averaged(), atol=1e-4)


def test_the_same_run_gives_the_same_bytes_and_a_longer_one_goes_on(
    data: PreparedData, tmp_path: Path
) -> None:
    runs = [fit(small_job(data, tmp_path / name))[0] for name in "ab"]
    assert runs[0].tensors.keys() == runs[1].tensors.keys()
    for name, value in runs[0].tensors.items():
        assert torch.equal(value, runs[1].tensors[name]), name
    # A run that is done isn't run again: Ray isn't even asked.
    again, ended = fit(small_job(data, tmp_path / "a"))
    assert (again.step, ended) == (6, "all 6 steps of the schedule are done")
    longer, _ = fit(small_job(data, tmp_path / "a", recipe=small_recipe(steps=8)))
    assert longer.history[:3] == runs[0].history
    assert [row["step"] for row in longer.history] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("rules", "step", "ended"),
    [
        ({"max_steps": 3}, 3, "--max-steps 3 are done"),
        ({"target_psnr_db": 5.0}, 2, "--target-psnr 5 is reached"),
        ({"target_loss": 0.9}, 2, "--target-loss 0.9 is reached"),
    ],
)
def test_a_rule_ends_the_run_with_a_checkpoint(
    data: PreparedData, tmp_path: Path, rules: dict[str, float], step: int, ended: str
) -> None:
    job = small_job(data, tmp_path / "run", rules=StopRules(steps=6, **rules))  # pyright: ignore[reportArgumentType]
    last, reason = fit(job)
    assert last.step == step
    assert reason.startswith(ended)


def test_time_that_is_over_ends_the_run_at_the_next_look(
    data: PreparedData, tmp_path: Path
) -> None:
    recipe = small_recipe(steps=100_000, validate_every=100_000)
    rules = StopRules(steps=recipe.steps, max_time_s=0.5)
    last, ended = fit(small_job(data, tmp_path / "run", recipe=recipe, rules=rules))
    assert ended == "--max-time is over: 500 ms"
    assert 0 < last.step < recipe.steps
    assert last.step % 10 == 0


def test_a_loss_that_is_no_number_stops_the_run_and_is_told_with_its_photographs(
    data: PreparedData, tmp_path: Path
) -> None:
    broken = Trainer(small_recipe()).averaged()
    with torch.no_grad():
        broken.head.bias.fill_(float("nan"))
    job = small_job(data, tmp_path / "run", start=broken, workers=(2, 2))
    message = (
        r"the loss is no number any more at step 1, with patches of photograph-00\d\.png.*;"
        r" the last good checkpoint is none; a smaller --set learning_rate= may help"
    )
    with pytest.raises(DataError, match=message):
        fit(job)


def test_tensorboard_reads_what_a_run_logs(data: PreparedData, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415
        EventAccumulator,
    )

    fit(small_job(data, tmp_path / "run"))
    log = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0})
    files = sorted((tmp_path / "run" / "tensorboard").iterdir())
    assert len(files) == 3
    steps = set[int]()
    for file in files:
        log = EventAccumulator(str(file))
        log.Reload()
        steps |= {event.step for event in log.Scalars("loss")}
        assert log.Tags()["images"] == ["validation 0"]
        assert len(log.Scalars("validation psnr_y_db")) == 1
    assert steps == {1, 2, 3, 4, 5, 6}
