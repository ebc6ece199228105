"""`resray submit`: what is sent; jobs, and the service, on three nodes with a token."""

import os
import signal
import subprocess
import sys
import threading
import tomllib
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from cluster_for_tests import NODE_CPUS, TokenCluster, token_cluster
from image_files import still
from namespaces_for_tests import HOST, LOOPBACK, are_possible
from object_store_for_tests import make_bucket
from packaging.specifiers import SpecifierSet
from photographs_for_tests import write_photographs
from serving_for_tests import Client, Load, free_port, wait_until
from store_board_for_tests import Answer, Board, Serve
from test_enhance import Places, image
from training_for_tests import SETS
from weights_for_tests import write_weights

from cluster.jobs import LEAST_RAY
from pipelines import submitted
from pipelines.api_keys import VARIABLE
from pipelines.cli import build_parser, main
from pipelines.s3_store import S3Store
from pipelines.serve import ENVIRONMENT
from pipelines.storage import RESERVED
from pipelines.submit import job_command, job_environment, packed_code
from pipelines.training_run import load_newest
from resnet_core.errors import ConfigError
from resnet_core.weights import load_weights, parse_weights

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEADLINE_S = 900.0
KEY = "a-key-of-the-tests-1"
REPLICA = "ServeReplica:resray"


# What is sent.


def parsed(*words: str) -> Namespace:
    return build_parser("submit").parse_args(["submit", *words])


def test_the_command_is_quoted_for_a_shell() -> None:
    args = parsed("--gpus", "2", "--within", "2min", "--", "enhance", "s3://a/b c", "s3://d")
    assert job_command(args) == (
        "python -m pipelines.submitted --cpus 1 --gpus 2 --within 120 --"
        " enhance 's3://a/b c' s3://d"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-- enhanc a b", "did you mean 'enhance'?"),
        ("-- submit -- weights list", "submit: expected a command of resray"),
        ("-- enhance a b --limit 0", "resray enhance: argument --limit: expected 1 or more"),
        ("--env RESRAY_NOT_SET -- weights list", "--env RESRAY_NOT_SET: not set here"),
        ("stop", "stop: expected the ID of one job behind it"),
        ("--address ray://head:10001 status x", "expected the dashboard's"),
        ("--address 127.0.0.1:1 -- weights list", "no Ray cluster answers there"),
    ],
)
def test_what_cannot_be_sent_is_one_line_and_status_1(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["submit", *words.split()])
    except SystemExit as stop:
        status = stop.code
    assert status == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert message in errors
    assert errors.count("\n") == 1


def test_variables_are_given_or_taken_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESRAY_HERE", "a=b")
    assert job_environment(["RESRAY_HERE", "OTHER=c=d"]) == {
        "PYTHONUNBUFFERED": "1",
        "RESRAY_HERE": "a=b",
        "OTHER": "c=d",
    }
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        job_environment(["RESRAY_NOT_SET"])


def test_the_packed_code_runs_by_itself(tmp_path: Path) -> None:
    code = (
        "import pipelines, importlib.metadata as m\nprint(pipelines.__file__, m.version('resray'))"
    )
    with packed_code() as folder:
        run = subprocess.run(
            [
                sys.executable,
                "-c",
                f"{code}\nfrom pipelines.cli import main; main(['weights', 'list'])",
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        expected = f"{folder / 'pipelines/__init__.py'} {PROJECT['version']}"
    assert run.stdout.startswith(expected)
    assert "sr-x2" in run.stdout
    assert not folder.exists()


# What runs first on the cluster.


def test_the_versions_are_those_of_the_project() -> None:
    pythons = SpecifierSet(PROJECT["requires-python"])
    least, below = (".".join(map(str, each)) for each in submitted.PYTHONS)
    assert str(pythons) == str(SpecifierSet(f">={least},<{below}"))
    (declared,) = (each for each in PROJECT["dependencies"] if each.startswith("ray["))
    assert declared.endswith(f">={'.'.join(map(str, LEAST_RAY))}")


def test_a_python_that_is_too_old_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    assert submitted.main(["--", "weights", "list"]) == 1
    line = capsys.readouterr().err
    assert "can't run on this cluster: expected Python 3.11 or newer, below 3.14; found" in line
    assert line.count("\n") == 1


def test_the_check_of_python_is_understood_by_an_old_one() -> None:
    source = Path(submitted.__file__).read_text(encoding="utf-8")
    compile(source, "submitted.py", "exec", dont_inherit=True)
    import ast  # noqa: PLC0415

    ast.parse(source, feature_version=(3, 9))


# On a cluster: where there are network namespaces, each node has an address.

HAS_OWN_ADDRESSES = HOST != LOOPBACK


@pytest.fixture(scope="module")
def nodes(one_board: Board) -> Iterator[TokenCluster]:
    """Their machines know the store and a key, and nothing of this checkout."""
    assert one_board
    if are_possible() and not HAS_OWN_ADDRESSES:
        pytest.skip("runs with three addresses, in test_all_on_three_addresses")
    with token_cluster({"PYTHONPATH": "", VARIABLE: KEY, **ENVIRONMENT}) as cluster:
        yield cluster


def token_environment(token: str) -> dict[str, str]:
    return os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def start(nodes: TokenCluster, *words: str, token: str | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "submit", "--address", nodes.url, *words],
        cwd=ROOT,
        env=token_environment(token or nodes.token),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def submit(nodes: TokenCluster, *words: str, token: str | None = None) -> tuple[int, str, str]:
    """Status, output, errors."""
    process = start(nodes, *words, token=token)
    out, errors = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, errors


def gate(written: list[str], changed: threading.Event) -> Serve:
    """Ten results are written; the others wait until the cluster is another."""
    lock = threading.Lock()

    def serve(method: str, path: str, ask: object) -> Answer:
        if method == "PUT" and RESERVED not in path:
            with lock:
                written.append(path)
                must_wait = len(written) > 10
            if must_wait:
                assert changed.wait(DEADLINE_S)
        return ask()  # type: ignore[operator]

    return serve


@pytest.mark.ray
@pytest.mark.s3
def test_all_on_three_addresses() -> None:
    if not are_possible():
        pytest.skip("no network namespaces")
    script = [sys.executable, "tests/namespaces_for_tests.py", "tests/test_submit.py"]
    command = ["unshare", "--net", *script, "-m", "s3", "-k", "not three_addresses"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout, run.stdout


@pytest.mark.ray
@pytest.mark.s3
def test_a_bulk_run_ends_with_its_status_while_a_node_joins_and_one_is_killed(
    nodes: TokenCluster, board: Board, tmp_path: Path
) -> None:
    source, target = (
        S3Store(bucket=make_bucket(board.seaweedfs), prefix=each) for each in ("in", "out")
    )
    places = Places(tmp_path, source, target)
    write_weights(tmp_path / "small.safetensors")
    for number in range(60):
        places.source.put(f"{number:02d}.png", image(seed=number, side=30))
    places.source.put("broken.jpg", image("JPEG")[:200])
    written: list[str] = []
    changed = threading.Event()
    board.serve = gate(written, changed)
    process = start(nodes, "--cpus", str(3 * NODE_CPUS), "--", *places.arguments("--workers", "3"))
    try:
        while len(written) <= 10 and process.poll() is None:
            changed.wait(0.05)
        assert process.poll() is None, process.communicate()
        assert nodes.add_node() == 4
        assert nodes.kill_node(having="StageWorker") == 3
    finally:
        changed.set()
    out, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2, out + errors
    assert "60 enhanced, 1 failed" in out
    assert "failed: broken.jpg: " in out
    assert "[state-dump]" not in out, "the last words of a machine"
    start_line, end_line = errors.splitlines()
    assert start_line.endswith(f" at {nodes.url}")
    assert end_line.endswith(
        "failed, exit status 2: Job entrypoint command failed with exit code 2"
    )
    statuses = places.statuses()
    assert statuses.pop("broken.jpg") == "failed"
    assert len(statuses) == 60
    assert set(statuses.values()) == {"ok"}


@pytest.mark.ray
@pytest.mark.s3
def test_a_training_of_two_workers_ends_with_weights_although_a_node_of_theirs_is_killed(
    nodes: TokenCluster, board: Board, tmp_path: Path
) -> None:
    bucket = make_bucket(board.seaweedfs)
    photographs, output = (S3Store(bucket=bucket, prefix=each) for each in ("in", "runs/x2"))
    for path in write_photographs(tmp_path, 2).iterdir():
        photographs.put(path.name, path.read_bytes())
    saved, changed = threading.Event(), threading.Event()

    def serve(method: str, path: str, ask: Callable[[], Answer]) -> Answer:
        """After the first checkpoint there is no other until the cluster is another."""
        if method == "PUT" and "/checkpoints/" in path:
            assert not saved.is_set() or changed.wait(DEADLINE_S)
            answer = ask()
            saved.set()
            return answer
        return ask()

    board.serve = serve
    train = ["train", "sr-x2", "--data", photographs.url, "--output", output.url]
    process = start(nodes, "--cpus", "4", "--", *train, "--num-workers", "2", *SETS)
    try:
        while not saved.wait(0.05) and process.poll() is None:
            pass
        assert process.poll() is None, process.communicate()
        assert nodes.kill_node(having="RayTrainWorker") == 2
    finally:
        changed.set()
    out, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, out + errors
    assert "ended after step 6: all 6 steps of the schedule are done" in out
    last = load_newest(output)
    assert last is not None
    assert [row["step"] for row in last.history] == [2, 4, 6]
    assert last.history[0]["starts"] < last.history[-1]["starts"], "they started again"
    weights = parse_weights("sr-x2", output.get("sr-x2.safetensors").data)
    best = max(row["psnr_y_db"] for row in last.history)
    assert weights.metadata.figures["validation psnr_y_db"] == best
    assert nodes.add_node() == 3


@pytest.mark.ray
@pytest.mark.s3
def test_jobs_that_cannot_run_say_why_in_one_line(nodes: TokenCluster, tmp_path: Path) -> None:
    broken = "raise ImportError('no wheel of it for this machine', name='obstore')"
    (tmp_path / "obstore.py").write_text(broken)
    variable = f"PYTHONPATH={tmp_path}"
    dies = start(nodes, "--env", variable, "--", "enhance", "s3://none/in", "s3://none/out")
    lacks = start(nodes, "--gpus", "4", "--within", "2s", "--", "weights", "list")
    out, errors = dies.communicate(timeout=DEADLINE_S)
    assert dies.returncode == 1, out + errors
    assert "Traceback" not in out
    assert (
        "resray: can't run on this cluster: expected what cluster/Dockerfile installs; found no"
        " obstore: no wheel of it for this machine" in out
    )
    out, errors = lacks.communicate(timeout=DEADLINE_S)
    assert lacks.returncode == 1, out + errors
    assert "waiting for machines: 1 CPUs asked for, " in out
    assert "resray: gave up after 2 s (--within): 1 CPUs asked for, " in out
    assert "4 GPUs asked for, 0 there, 0 free; add machines or ask for fewer" in out
    assert "failed, exit status 1: " in errors


@pytest.mark.ray
@pytest.mark.s3
def test_a_job_goes_on_by_itself_until_it_is_stopped(nodes: TokenCluster) -> None:
    waits = ("--gpus", "1", "--within", "1h", "--", "weights", "list")
    status, out, errors = submit(nodes, "--no-wait", *waits)
    assert status == 0, errors
    (job,) = out.splitlines()
    assert f"follow it with `resray submit logs {job} --address {nodes.url}`" in errors
    following = start(nodes, "logs", job)
    assert following.stdout is not None
    assert any("waiting for machines" in line for line in following.stdout)
    following.send_signal(signal.SIGINT)
    _, errors = following.communicate(timeout=DEADLINE_S)
    assert following.returncode == 130, errors
    assert f"job {job} goes on; follow it with " in errors
    assert f"end it with `resray submit stop {job} --address {nodes.url}`" in errors
    for words, expected in (("status", (0, "running")), ("stop", (0, "stopped"))):
        status, out, _ = submit(nodes, words, job)
        assert (status, out.split(": ")[:2]) == (expected[0], [job, expected[1]])
    status, out, errors = submit(nodes, "logs", job)
    assert status == 130
    assert "waiting for machines" in out
    assert f"job {job} stopped, exit status 130" in errors


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.parametrize("words", ["-- weights list", "status raysubmit_x"])
def test_a_wrong_token_is_one_line(nodes: TokenCluster, words: str) -> None:
    status, out, errors = submit(nodes, *words.split(), token="0" * 64)
    assert (status, out) == (1, "")
    assert "the cluster refuses the token" in errors
    assert errors.count("\n") == 1


@pytest.mark.ray
@pytest.mark.s3
def test_an_unknown_job_is_one_line(nodes: TokenCluster) -> None:
    status, out, errors = submit(nodes, "status", "raysubmit_none")
    assert (status, out) == (1, "")
    assert "raysubmit_none does not exist" in errors
    assert errors.count("\n") == 1


# The service.


def serve(nodes: TokenCluster, *words: str) -> None:
    """Ray's own command."""
    run = subprocess.run(
        [str(Path(sys.executable).with_name("serve")), *words, "--address", nodes.url],
        env=token_environment(nodes.token),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def is_up(client: Client) -> bool:
    try:
        return client.ask("GET", "/healthz").status == 200
    except OSError:
        return False


@pytest.mark.ray
@pytest.mark.s3
def test_the_service_is_deployed_changed_moved_off_a_node_and_stopped_without_a_failed_request(
    nodes: TokenCluster, tmp_path: Path
) -> None:
    first, second = (
        write_weights(tmp_path / f"{seed}/small.safetensors", seed=seed) for seed in range(2)
    )
    config = yaml.safe_load((ROOT / "cluster/serve.yaml").read_text(encoding="utf-8"))
    # The nodes are one machine: one port, and the head is not among those that go.
    host, port = urlsplit(nodes.url).hostname or "", free_port()
    config |= {"proxy_location": "HeadOnly", "http_options": {"host": host, "port": port}}
    (application,) = config["applications"]
    application["args"] |= {"network_cpus": 1.0, "ingress_cpus": 1.0, "access_log": ""}
    file, client = tmp_path / "serve.yaml", Client(host=host, port=port, key=KEY)

    def deploy(weights: Path) -> None:
        application["deployments"][0]["user_config"] = {"weights": [str(weights)]}
        file.write_text(yaml.safe_dump(config))
        serve(nodes, "deploy", str(file))

    deploy(first)
    wait_until(lambda: is_up(client), within_s=DEADLINE_S)
    assert Client(host=host, port=port).enhance(still("PNG")).status == 401
    with Load(client, still("PNG"), clients=2) as load:
        wait_until(lambda: len(load.seen) > 5)
        deploy(second)
        new = load_weights(str(second)).sha256
        wait_until(lambda: load.seen[-1][1] == new, within_s=DEADLINE_S)
        assert nodes.drain_node(having=REPLICA) == 3
        wait_until(lambda: nodes.left_on_drained(REPLICA) == 0, within_s=DEADLINE_S)
        count = len(load.seen)
        wait_until(lambda: len(load.seen) > count + 5)
    assert load.seen[0] == (200, load_weights(str(first)).sha256)
    assert {status for status, _ in load.seen} == {200}
    serve(nodes, "shutdown", "--yes")
    wait_until(lambda: not is_up(client), within_s=DEADLINE_S)
