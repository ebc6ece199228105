"""Training among failures: a run that was killed, anywhere, ends as an undisturbed one."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from cluster_for_tests import drain
from object_store_for_tests import (
    FaultProxy,
    Faults,
    fault_proxy,
    make_bucket,
    use_store,
)
from photographs_for_tests import write_photographs
from ray.cluster_utils import Cluster
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from training_for_tests import (
    SETS,
    assert_same_weights,
    averaged,
    plain_loop,
    small_job,
    small_recipe,
)

from cluster.connect import ray_session
from pipelines import training_run
from pipelines.checkpoints import Checkpoint
from pipelines.cli import main
from pipelines.photographs import PreparedData, prepare
from pipelines.storage import Store, StoreError, open_source, open_store
from pipelines.training_run import fit, load_newest
from resnet_core.errors import DataError
from resnet_core.training import Trainer
from resnet_core.weights import load_weights, parse_weights

pytestmark = pytest.mark.ray

STANDING_STILL = """
import sys, time
from pipelines import training_run
from pipelines.cli import main
from resnet_core.training import Trainer

stop, work, step = int(sys.argv[1]), training_run.train_worker, Trainer.step

def step_or_wait(trainer, *batch):
    while trainer.step_count == stop:
        time.sleep(0.1)
    return step(trainer, *batch)

def standing_worker(config):
    Trainer.step = step_or_wait
    work(config)

training_run.train_worker = standing_worker
sys.exit(main(sys.argv[2:]))
"""
"""The command, but the worker stands still after so many steps, without end."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    # Both from the start: Ray takes 20 s to count in one that joins.
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    made.add_node(num_cpus=3)
    made.wait_for_nodes()
    try:
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def _session(nodes: Cluster) -> Iterator[None]:
    with ray_session(address=nodes.address, verbose=bool(os.environ.get("V"))):
        yield


@pytest.fixture
def data(tmp_path: Path, _session: None) -> PreparedData:
    return prepare_four(tmp_path)


def prepare_four(folder: Path) -> PreparedData:
    """Four photographs made ready in `folder`, with a connected Ray."""
    photographs = open_source(str(write_photographs(folder / "photographs", 4)))
    return prepare(photographs, None, open_store(str(folder)), patch_px=96, tell=lambda _: None)


def test_workers_that_die_in_a_step_in_a_checkpoint_and_at_the_end_change_nothing(
    data: PreparedData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, losses = plain_loop(small_recipe(), data)

    def worker(config: dict[str, object]) -> None:
        step, save = Trainer.step, training_run.save_checkpoint

        def is_first(name: str) -> bool:
            mark = tmp_path / name
            met = mark.exists()
            mark.touch()
            return not met

        def step_and_die(self: Trainer, *batch: torch.Tensor) -> torch.Tensor:
            with (tmp_path / "steps").open("a") as file:
                file.write(f"{self.step_count} ")
            if self.step_count == 3 and is_first("died in a step"):
                while not list(tmp_path.glob("run/checkpoints/00000002-*")):
                    time.sleep(0.05)
                os._exit(1)
            return step(self, *batch)

        def save_half_and_die(store: Store, checkpoint: Checkpoint) -> str:
            key = save(store, checkpoint)
            if checkpoint.step == 4 and is_first("died in a checkpoint"):
                # What a store that isn't atomic would leave.
                store.put(key, store.get(key).data[:-100])
                os._exit(1)
            if checkpoint.step == 6 and is_first("died at the end"):
                os._exit(1)
            return key

        Trainer.step, training_run.save_checkpoint = step_and_die, save_half_and_die
        training_run.train_worker(config)

    monkeypatch.setattr(training_run, "train_worker", worker)
    last, ended = fit(small_job(data, tmp_path / "run"))
    assert (tmp_path / "died at the end").exists()
    assert ended == "all 6 steps of the schedule are done"
    steps = (tmp_path / "steps").read_text().split()
    assert steps[:6] == ["0", "1", "2", "3", "2", "3"]
    assert steps[-4:] == ["2", "3", "4", "5"]
    assert re.search(r"00000004-.*: damaged; going on from the one before", capsys.readouterr().out)
    assert [row["loss"] for row in last.history] == pytest.approx(losses, rel=1e-4)
    assert_same_weights(averaged(small_recipe(), last.tensors), expected.averaged(), atol=1e-5)


def test_a_disk_that_is_full_at_a_checkpoint_ends_the_run_and_names_itself(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worker(config: dict[str, object]) -> None:
        def save(store: Store, checkpoint: Checkpoint) -> str:
            raise StoreError(f"{store.url}: step {checkpoint.step}: No space left on device")

        training_run.save_checkpoint = save
        training_run.train_worker(config)

    monkeypatch.setattr(training_run, "train_worker", worker)
    with pytest.raises(DataError, match="run: step 2: No space left on device"):
        fit(small_job(data, tmp_path / "run"))


def test_a_node_that_dies_leaves_fewer_workers_that_go_on(
    nodes: Cluster, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "12")
    recipe = small_recipe(steps=12, validate_every=3)
    expected, losses = plain_loop(recipe, data)
    (extra,) = nodes.worker_nodes
    job = small_job(data, tmp_path / "run", recipe=recipe, workers=(1, 2), threads=2)

    def worker(config: dict[str, object]) -> None:
        step = Trainer.step

        def slow_step(self: Trainer, *batch: torch.Tensor) -> torch.Tensor:
            time.sleep(1)
            with (tmp_path / f"node-{os.environ['RANK']}-of-{os.environ['WORLD_SIZE']}").open("a"):
                return step(self, *batch)

        Trainer.step = slow_step
        training_run.train_worker(config)

    monkeypatch.setattr(training_run, "train_worker", worker)

    def kill() -> None:
        while not list(tmp_path.glob("run/checkpoints/00000003-*")):
            time.sleep(0.1)
        nodes.remove_node(extra)

    thread = threading.Thread(target=kill)
    thread.start()
    last, _ = fit(job)
    thread.join()
    seen = {path.name for path in tmp_path.glob("node-*")}
    assert seen == {"node-0-of-2", "node-1-of-2", "node-0-of-1"}
    assert [row["loss"] for row in last.history] == pytest.approx(losses, rel=1e-3)
    assert_same_weights(averaged(recipe, last.tensors), expected.averaged(), atol=1e-3)


def test_a_node_that_joins_is_used_from_the_next_checkpoint_on_and_no_step_is_taken_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe()

    def worker(config: dict[str, Any]) -> None:
        step, board = Trainer.step, config["board"]
        name = f"steps-{os.environ['RANK']}-of-{os.environ['WORLD_SIZE']}"

        def noted_step(self: Trainer, *batch: torch.Tensor) -> torch.Tensor:
            with (tmp_path / name).open("a") as file:
                file.write(f"{self.step_count} ")
            # In the middle between two checkpoints: the worker alone, until there is room for more.
            while self.step_count == 3 and not ray.get(board.is_asked_to_restart.remote()):
                time.sleep(0.1)
            return step(self, *batch)

        Trainer.step = noted_step
        training_run.train_worker(config)

    monkeypatch.setattr(training_run, "train_worker", worker)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    try:
        with ray_session(address=cluster.address), ThreadPoolExecutor(1) as pool:
            data = prepare_four(tmp_path)
            job = small_job(data, tmp_path / "run", recipe=recipe, workers=(1, 2), threads=2)
            run = pool.submit(fit, job)
            while not (tmp_path / "steps-0-of-1").exists() and not run.done():
                time.sleep(0.1)
            cluster.add_node(num_cpus=3)
            last, ended = run.result()
    finally:
        cluster.shutdown()
    expected, losses = plain_loop(recipe, data)
    assert ended == "all 6 steps of the schedule are done"
    assert "going on with 2 workers, 1 before" in capsys.readouterr().out
    assert {path.name: path.read_text().split() for path in tmp_path.glob("steps-*")} == {
        "steps-0-of-1": ["0", "1", "2", "3"],
        "steps-0-of-2": ["4", "5"],
        "steps-1-of-2": ["4", "5"],
    }
    assert [row["step"] for row in last.history] == [2, 4, 6]
    assert [row["starts"] for row in last.history] == [1, 1, 2]
    assert [row["loss"] for row in last.history] == pytest.approx(losses, rel=1e-3)
    assert_same_weights(averaged(recipe, last.tensors), expected.averaged(), atol=1e-4)


def test_workers_of_a_machine_that_is_to_go_go_on_elsewhere_from_the_step_they_are_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.2")
    recipe = small_recipe(steps=8, validate_every=4)

    def worker(config: dict[str, Any]) -> None:
        step, is_to_go = Trainer.step, training_run.machine_is_to_go
        name = f"steps-{os.environ['RANK']}-of-{os.environ['WORLD_SIZE']}"

        def noted_step(self: Trainer, *batch: torch.Tensor) -> torch.Tensor:
            with (tmp_path / name).open("a") as file:
                file.write(f"{self.step_count} ")
            # In the middle between two checkpoints.
            while self.step_count == 5 and name.endswith("2") and not is_to_go():
                time.sleep(0.1)
            return step(self, *batch)

        Trainer.step, training_run.PULSE_STEPS = noted_step, 1
        training_run.train_worker(config)

    monkeypatch.setattr(training_run, "train_worker", worker)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    extra = cluster.add_node(num_cpus=3)
    cluster.wait_for_nodes()
    try:
        with ray_session(address=cluster.address), ThreadPoolExecutor(1) as pool:
            data = prepare_four(tmp_path)
            job = small_job(data, tmp_path / "run", recipe=recipe, workers=(1, 2), threads=2)
            run = pool.submit(fit, job)
            steps = [tmp_path / f"steps-{rank}-of-2" for rank in range(2)]
            while not all(path.exists() and "5" in path.read_text() for path in steps):
                assert not run.done(), run.result()
                time.sleep(0.1)
            drain(cluster.address, extra.node_id)
            last, _ = run.result()
    finally:
        cluster.shutdown()
    assert "a machine is to go: going on without it" in capsys.readouterr().out
    assert {path.name: path.read_text().split() for path in tmp_path.glob("steps-*")} == {
        "steps-0-of-2": ["0", "1", "2", "3", "4", "5"],
        "steps-1-of-2": ["0", "1", "2", "3", "4", "5"],
        "steps-0-of-1": ["6", "7"],
    }
    expected, losses = plain_loop(recipe, data)
    assert [row["step"] for row in last.history] == [4, 8]
    assert [row["loss"] for row in last.history] == pytest.approx(losses, rel=1e-3)
    assert_same_weights(averaged(recipe, last.tensors), expected.averaged(), atol=1e-4)


def stop_at(
    step: int, arguments: list[str], output: Path, stop: Callable[[int], None]
) -> tuple[int, str]:
    """Runs the command and stops its process once the checkpoint before `step` is there."""
    command = [sys.executable, "-c", STANDING_STILL, str(step), *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            while not list(output.glob(f"checkpoints/{step - 1:08}-*")):
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
    lasts = [load_newest(open_store(str(path.parent))) for path in paths]
    for last in lasts:
        assert last is not None
        assert [row["step"] for row in last.history] == [2, 4, 6], "each measured once"


@pytest.fixture(scope="module")
def proxy(seaweedfs_endpoint: str) -> Iterator[FaultProxy]:
    with pytest.MonkeyPatch.context() as patch, fault_proxy(seaweedfs_endpoint) as made:
        use_store(patch, made.endpoint)
        yield made


@pytest.mark.s3
def test_from_bucket_to_bucket_while_the_store_fails(proxy: FaultProxy, tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 4)
    bucket = make_bucket(proxy.endpoint)
    photographs, runs = (open_store(f"s3://{bucket}/{name}") for name in ("photographs", "runs"))
    for path in folder.iterdir():
        photographs.put(path.name, path.read_bytes())
    proxy.faults = Faults(method="PUT", status_every=3, reset_every=7)
    with ray_session():
        output = f"{runs.url}/x2"
        assert main(["train", "sr-x2", "--data", photographs.url, "--output", output, *SETS]) == 0
        assert proxy.counts["status"] >= 2
        proxy.faults = Faults()
        data = prepare(photographs, None, runs, patch_px=192, tell=lambda _: None)
    expected, _ = plain_loop(small_recipe(), data)
    last = load_newest(runs.below("x2"))
    assert last is not None
    assert_same_weights(averaged(small_recipe(), last.tensors), expected.averaged(), atol=1e-5)
    weights = parse_weights(output, runs.get("x2/sr-x2.safetensors").data)
    assert weights.metadata.figures["validation psnr_y_db"] == max(
        row["psnr_y_db"] for row in last.history
    )
    # As the server of TensorBoard reads them.
    logs = EventMultiplexer().AddRunsFromDirectory(f"{output}/tensorboard").Reload()
    assert [event.step for event in logs.Tensors(".", "loss")] == [1, 2, 3, 4, 5, 6]
    keys = [info.key for info in runs.list_objects()]
    assert len([key for key in keys if key.startswith("x2/checkpoints/")]) <= 3


@pytest.mark.s3
def test_credentials_that_expire_end_the_run_and_the_last_good_checkpoint_is_named(
    proxy: FaultProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_photographs(tmp_path / "photographs", 2)
    bucket = make_bucket(proxy.endpoint)
    output = f"s3://{bucket}/runs/x2"
    endless = [*SETS, "--set", "steps=100000", "--set", "validate_every=20"]
    train = ["train", "sr-x2", "--data", str(folder), "--output", output, *endless]
    checkpoints = f"{output}/checkpoints/"

    def expire() -> None:
        while not list(open_store(output).list_objects("checkpoints/")):
            time.sleep(0.1)
        proxy.faults = Faults(method="PUT", status_every=1, status=400)

    thread = threading.Thread(target=expire)
    thread.start()
    with ray_session():
        assert main(train) == 1
        thread.join()
        proxy.faults = Faults()
        error = capsys.readouterr().err
        assert re.fullmatch(
            rf"resray: {output}/.*: ExpiredToken: .*; take new credentials, and the same command"
            rf" goes on; the last good checkpoint is {checkpoints}\d+-.*\.safetensors\n",
            error,
        ), error
        (good,) = re.findall(r"last good checkpoint is .*/0*(\d+)-", error)
        assert main([*train, "--max-steps", good]) == 0
    assert f"ended after step {good}: --max-steps {good} are done" in capsys.readouterr().out
