"""Training through Ray Train: the core's own losses, for any number of workers, and its ends."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from photographs_for_tests import write_photographs
from ray.cluster_utils import Cluster
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_for_tests import assert_same_weights, averaged, plain_loop, small_job, small_recipe

from cluster.connect import ray_session
from pipelines import training_run
from pipelines.photographs import PreparedData, prepare
from pipelines.stopping import StopRules
from pipelines.storage import open_source, open_store
from pipelines.training_run import MAX_STARTS, Board, fit, measure
from resnet_core.errors import ConfigError, DataError
from resnet_core.training import Trainer

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    try:
        with ray_session(address=cluster.address):
            yield
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = write_photographs(tmp_path_factory.mktemp("photographs"), 6)
    cache = tmp_path_factory.mktemp("cache")
    return prepare(
        open_source(str(folder)), None, open_store(str(cache)), patch_px=96, tell=lambda _: None
    )


@pytest.fixture(scope="module")
def finished(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run of one worker: its output, and what `fit` gave."""
    output = tmp_path_factory.mktemp("runs") / "one"
    return output, fit(small_job(data, output))


def test_one_worker_and_a_plain_loop_give_the_same_losses(
    data: PreparedData, finished: tuple[Path, Any]
) -> None:
    recipe = small_recipe()
    expected, losses = plain_loop(recipe, data)
    last, ended = finished[1]
    assert ended == "all 6 steps of the schedule are done"
    assert [row["step"] for row in last.history] == [2, 4, 6]
    assert [row["loss"] for row in last.history] == pytest.approx(losses, rel=1e-4)
    assert_same_weights(averaged(recipe, last.tensors), expected.averaged(), atol=1e-5)
    (measured,) = measure(expected.averaged(), data.validation(), recipe)
    assert last.history[-1]["psnr_y_db"] == pytest.approx(measured.psnr_y_db, abs=1e-3)
    assert last.history[-1]["ssim_y"] == pytest.approx(measured.ssim_y, abs=1e-5)


def test_more_workers_take_the_steps_of_one(data: PreparedData, tmp_path: Path) -> None:
    """Three, of which one has two examples and the others one."""
    recipe = small_recipe()
    expected, losses = plain_loop(recipe, data)
    last, _ = fit(small_job(data, tmp_path / "run", workers=(3, 3)))
    assert [row["loss"] for row in last.history] == pytest.approx(losses, rel=1e-3)
    assert_same_weights(averaged(recipe, last.tensors), expected.averaged(), atol=1e-4)


def test_the_same_run_gives_the_same_bytes(
    data: PreparedData, finished: tuple[Path, Any], tmp_path: Path
) -> None:
    first, second = finished[1][0], fit(small_job(data, tmp_path / "run"))[0]
    assert first.tensors.keys() == second.tensors.keys()
    for name, value in first.tensors.items():
        assert torch.equal(value, second.tensors[name]), name


def test_a_run_that_is_done_can_be_made_longer(
    data: PreparedData, finished: tuple[Path, Any], tmp_path: Path
) -> None:
    output, (first, ended) = finished
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    again = fit(small_job(data, copy))
    assert (again[0].step, again[1]) == (6, ended)
    longer, _ = fit(small_job(data, copy, recipe=small_recipe(steps=8)))
    assert longer.history[:3] == first.history
    assert [row["step"] for row in longer.history] == [2, 4, 6, 8]
    with pytest.raises(ConfigError, match="is at step 8 already, beyond steps=4"):
        fit(small_job(data, copy, recipe=small_recipe(steps=4)))


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
        r" a smaller --set learning_rate= may help.*; the last good checkpoint is none"
    )
    with pytest.raises(DataError, match=message):
        fit(job)


def test_tensorboard_reads_what_a_run_logs(data: PreparedData, finished: tuple[Path, Any]) -> None:
    files = sorted((finished[0] / "tensorboard").iterdir())
    assert len(files) == 3
    steps = set[int]()
    for file in files:
        log = EventAccumulator(str(file))
        log.Reload()
        steps |= {event.step for event in log.Scalars("loss")}
        assert log.Tags()["images"] == [f"validation {data.validation()[0][0]}"]
        assert len(log.Scalars("validation psnr_y_db")) == 1
    assert steps == {1, 2, 3, 4, 5, 6}


def test_workers_that_die_without_getting_further_end_the_run() -> None:
    board = Board("none", {"CPU": 2})
    for step in (5, 8):
        # They got further each time.
        assert board.begin(2)
        board.update(step)
    board.note("out of memory")
    # A machine joined: nothing died.
    board.ask_to_restart()
    assert board.begin(3)
    assert not board.is_asked_to_restart()
    assert board.take()[2] == ["going on with 3 workers, 2 before"]
    board.update(3)
    assert [board.begin(3) for _ in range(MAX_STARTS)] == [True] * (MAX_STARTS - 1) + [False]
    ended, failed = board.outcome()
    assert ended is None
    assert failed == (
        f"training failed: the workers died {MAX_STARTS} times without getting beyond step 8: "
        "out of memory; the last good checkpoint is none"
    )


def test_a_run_without_machines_says_so_once_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock_s[0])
    monkeypatch.setattr(training_run, "what_is_missing", lambda wanted: f"{wanted}")
    board = Board("none", {"CPU": 2})
    told = list[str]()
    moments = ((20, True), (31, True), (70, True), (71, False), (72, True), (90, True))
    for clock_s[0], waits in moments:
        board.wait_for_machines(waits)
        told += board.take()[2]
    assert told == ["waiting for machines: {'CPU': 2}"]
    clock_s[0] = 103
    assert board.take()[2] == told


def test_the_first_reason_of_a_failure_counts() -> None:
    board = Board("none", {"CPU": 2})
    board.fail("the disk is full")
    board.fail("it was closed")
    assert not board.begin(1)
    board.saved("run/checkpoints/4")
    assert board.outcome() == (
        None,
        "the disk is full; the last good checkpoint is run/checkpoints/4",
    )
