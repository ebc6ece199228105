"""`resray serve`: its usage, its layout on machines, its end; and the builder behind the file."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray.serve
import yaml
from image_files import still
from ray.serve.schema import ServeDeploySchema
from serving_for_tests import Client, free_port
from weights_for_tests import write_weights

from cluster.connect import WORKER_ENVIRONMENT, Resources
from pipelines.api_keys import VARIABLE
from pipelines.cli import main
from pipelines.serve import APPLICATION, build, laid_out, serve_until_signal
from pipelines.serve_replicas import INGRESS, NETWORK
from pipelines.serve_settings import ServeSettings
from resnet_core.errors import ConfigError, WeightsError

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "cluster" / "serve.yaml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--weights sr-x9", "no weights named 'sr-x9'; did you mean"),
        ("--host 192.0.2.1", "can't listen on 192.0.2.1:"),
        ("--port 99999999", "can't listen on"),
        ("--keys-file missing", "missing: the API keys can't be read"),
        ("--weights sr-x2 sr-x2", "two weights are named 'sr-x2'"),
    ],
)
def test_what_can_not_be_served_is_one_line_and_status_1(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments.split()]) == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--replicas 2..1", "expected MIN..MAX"),
        ("--replicas 0", "expected 1 or more"),
        ("--deadline 60", "expected a time as 30s"),
        ("--max-requests 0", "expected 1 or more"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["serve", *arguments.split()])
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 1
    assert "Address already in use; choose another --port" in capsys.readouterr().err


def resources(cpus: float, gpus: float = 0.0) -> Resources:
    return Resources(cpus=cpus, gpus=gpus, smallest_node_cpus=cpus)


def test_on_this_machine_replicas_share_its_cores_and_hold_nothing() -> None:
    laid = laid_out(ServeSettings(), resources(8), replicas=(0, 2), is_local=True)
    assert (laid.min_replicas, laid.max_replicas, laid.threads) == (0, 2, 4)
    assert (laid.network_cpus, laid.network_gpus, laid.ingress_cpus) == (0, 0, 0)
    alone = laid_out(ServeSettings(), resources(8), replicas=None, is_local=True)
    assert (alone.min_replicas, alone.max_replicas, alone.threads) == (1, 1, 8)


def test_on_a_cluster_they_hold_what_they_use_and_a_gpu_where_there_is_one() -> None:
    laid = laid_out(ServeSettings(), resources(8), replicas=(1, 4), is_local=False)
    assert (laid.threads, laid.network_cpus, laid.ingress_cpus) == (7, 7, 1)
    laid = laid_out(ServeSettings(), resources(16, gpus=4), replicas=None, is_local=False)
    assert (laid.max_replicas, laid.network_gpus, laid.network_cpus) == (4, 1, 1)


def deployment_of(application: Any, name: str) -> Any:
    """Ray's own object of a bound deployment, by walking from the ingress."""
    ingress = application._bound_deployment
    if name == INGRESS:
        return ingress
    return ingress.init_args[1]._bound_deployment


def test_the_builder_makes_both_deployments_of_the_settings() -> None:
    built = build({"weights": ["sr-x4"], "max_replicas": 3, "min_replicas": 0, "network_gpus": 1})
    ingress, network = (deployment_of(built, name) for name in (INGRESS, NETWORK))
    assert (ingress.name, network.name) == (INGRESS, NETWORK)
    assert ingress.user_config == {"weights": ["sr-x4"]}
    scaling = network._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (0, 3)
    assert network.ray_actor_options["num_gpus"] == 1
    for deployment in (ingress, network):
        environment = deployment.ray_actor_options["runtime_env"]["env_vars"]
        assert environment == WORKER_ENVIRONMENT
        assert deployment._deployment_config.max_surge_percent == 100


@pytest.mark.parametrize(
    ("args", "error", "told"),
    [
        ({"max_replica": 2}, ConfigError, "unknown setting 'max_replica'; did you mean"),
        ({"max_replicas": "2"}, ConfigError, "expected a whole number"),
        ({"weights": ["sr-x9"]}, WeightsError, "no weights named 'sr-x9'"),
    ],
)
def test_the_builder_refuses_what_can_not_be(
    args: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        build(args)


def unknown_keys(given: Any, understood: Any, path: str = "") -> list[str]:
    """What a file has and its schema, which takes anything, has not kept."""
    if isinstance(given, dict) and isinstance(understood, dict):
        return [
            key
            for name, value in given.items()
            for key in (
                unknown_keys(value, understood[name], f"{path}.{name}")
                if name in understood
                else [f"{path}.{name}"]
            )
        ]
    if isinstance(given, list) and isinstance(understood, list):
        return [
            key
            for number, (value, kept) in enumerate(zip(given, understood, strict=True))
            for key in unknown_keys(value, kept, f"{path}[{number}]")
        ]
    return []


def test_the_file_is_understood_whole_and_builds() -> None:
    given = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    understood = ServeDeploySchema.model_validate(given).model_dump(warnings=False)
    assert unknown_keys(given, understood) == []
    assert unknown_keys({"applications": [{"nam": 1}]}, understood) == [".applications[0].nam"]
    (application,) = given["applications"]
    assert application["name"] == APPLICATION
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    built = build(application["args"])
    for override in application["deployments"]:
        assert override["name"] in (INGRESS, NETWORK)
    assert isinstance(built, ray.serve.Application)


def started(arguments: list[str], **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "serve", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_ends_it(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    deleted: list[str] = []
    monkeypatch.setattr(ray.serve, "start", lambda **_: None)
    monkeypatch.setattr(ray.serve, "run", lambda *_, **__: signal.raise_signal(number))
    monkeypatch.setattr(ray.serve, "delete", deleted.append)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            serve_until_signal(ServeSettings(), "127.0.0.1", 8000, names=["sr-x2"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert deleted == [APPLICATION]
    assert "Serving" not in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_then_ends_in_order(
    tmp_path: Path, number: signal.Signals
) -> None:
    weights = str(write_weights(tmp_path / "small.safetensors"))
    port, key = free_port(), "a-key-of-the-tests-1"
    arguments = ["--weights", weights, "--port", str(port)]
    with started(arguments, **{VARIABLE: key}) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"Serving small at http://127.0.0.1:{port}\n"
        client = Client(port=port, key=key)
        assert client.enhance(still("PNG")).status == 200
        assert Client(port=port).enhance(still("PNG")).status == 401
        process.send_signal(number)
        rest, errors = process.communicate(timeout=600)
    assert process.returncode == 0
    assert errors == ""
    assert re.search(r"Stopping, after what is in work\n$", rest)
    with pytest.raises(ConnectionRefusedError):
        client.ask("GET", "/healthz")
