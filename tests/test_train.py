"""`resray train`: what it writes, what it refuses, and in what words."""

import shutil
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from photographs_for_tests import write_photographs
from training_for_tests import SETS
from weights_for_tests import write_foreign, write_weights

from cluster.connect import Resources, ray_session
from pipelines.cli import main
from pipelines.photographs import PreparedData
from pipelines.recipes import build_recipe
from pipelines.stopping import StopRules
from pipelines.storage import open_store
from pipelines.train import _load_start, check_resources, make_job, threads_of
from resnet_core.errors import ConfigError, DataError
from resnet_core.weights import load_weights

LOOPBACK = "127.0.0.1"


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
        assert weights.metadata.training["ended"] == "all 6 steps of the schedule are done"
        assert weights.metadata.figures["validation psnr_y_db"] > 10
        told = capsys.readouterr().out
        assert "step 6 of 6: loss" in told
        assert "ended after step 6: all 6 steps of the schedule are done" in told

        page = (tmp_path / "x2" / "report.html").read_text()
        assert "Trained sr-x2" in page
        assert "photograph-000.png" in page, "a held-out photograph before and after"

        again = (tmp_path / "x2" / "sr-x2.safetensors").read_bytes()
        assert main(first) == 0
        assert (tmp_path / "x2" / "sr-x2.safetensors").read_bytes() == again
        # Nothing was trained again: a step would have left a line.
        assert "step 6 of 6" not in capsys.readouterr().out
        assert main([*first, "--set", "steps=4"]) == 1
        assert "is at step 6 already, beyond steps=4" in capsys.readouterr().err
        assert main([*first, "--set", "seed=1"]) == 1
        assert "holds another run (seed differ)" in capsys.readouterr().err
        (photographs / "photograph-003.png").write_bytes(
            (photographs / "photograph-001.png").read_bytes()
        )
        assert main(first) == 0
        told = capsys.readouterr().out
        assert "the photographs have changed since this run began: it goes on with those" in told
        assert "2 photographs, " in told
        shutil.rmtree(next(tmp_path.glob("data-*")))
        assert main(first) == 1
        assert "is gone or of another version, and the photographs have" in capsys.readouterr().err

        start = str(tmp_path / "x2" / "sr-x2.safetensors")
        second = ["train", "sr-x4", "--data", str(photographs), "--from", start, *SETS]
        assert main([*second, "--output", str(tmp_path / "x4"), "--max-steps", "2"]) == 0
        assert "ended after step 2: --max-steps 2 are done" in capsys.readouterr().out
    assert load_weights(str(tmp_path / "x4" / "sr-x4.safetensors")).config.scale == 4


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
        (["sr-x2", "--num-workers", "17"], "a batch has 16 examples, and each worker needs one"),
        (["sr-x2", "--from", "sr-x22"], "no weights named 'sr-x22'"),
        (["sr-x2", "--from", "ftp://host/x"], "give a folder or s3://BUCKET/PREFIX"),
        (["sr-x2", "--from", "http://host/x"], "give a folder or s3://BUCKET/PREFIX"),
        (["sr-x2", "--set", "precision=bf16"], "precision is 'bf16'; did you mean 'bfloat16'"),
        (["sr-x2", "--set", "learning_rate=-1"], "learning_rate is -1.0, expected more than 0"),
        (["sr-x2", "--set", "name=../x"], "expected a file's name without folders"),
        (["sr-x2", "--set", "input_px=100"], "targets of 200 px don't fit in patches of 192 px"),
        (["sr-x2", "--output", "gs://bucket/run"], "Google Cloud Storage speaks S3 too"),
        (["sr-x2", "--output", "/"], "/: expected the name of a folder that may be made"),
        (["sr-x2", "--output", "s3://bucket"], "s3://bucket: a whole bucket; give a prefix in it"),
        (["sr-x2", "--target-psnr", "nan"], "--target-psnr is nan, expected more than 0"),
        (["sr-x2"], "no such folder"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status = main(["train", *arguments, "--data", str(tmp_path / "none")])
    error = capsys.readouterr().err
    assert status == 1
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.ray
def test_each_rule_ends_the_command_with_weights_and_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = write_photographs(tmp_path / "photographs", 2)
    output = tmp_path / "run"
    weights = output / "sr-x2.safetensors"
    # So slow that no validation is better than the first one.
    sets = [*SETS, "--set", "learning_rate=1e-12"]
    train = ["train", "sr-x2", "--data", str(photographs), "--output", str(output), *sets]
    rules = [
        (["--max-time", "0.001s"], 2, "--max-time is over: 1.0 ms"),
        (["--set", "patience=1"], 4, "no better validation for 1 of them (patience=1)"),
        (["--target-psnr", "5"], 4, "--target-psnr 5 is reached: "),
        (["--target-loss", "1"], 4, "--target-loss 1 is reached: 0."),
    ]
    with ray_session():
        for options, step, reason in rules:
            weights.unlink(missing_ok=True)
            assert main([*train, *options]) == 0
            assert f"ended after step {step}: {reason}" in capsys.readouterr().out
            assert load_weights(str(weights)).metadata.training["ended"].startswith(reason)


def test_a_run_does_not_start_from_weights_of_another_project(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = write_foreign(tmp_path / "theirs.pth")
    assert main(["train", "sr-x2", "--data", str(tmp_path), "--from", str(theirs)]) == 1
    assert "by spandrel; expected a network of resray" in capsys.readouterr().err


@pytest.mark.s3
def test_weights_to_start_from_lie_in_a_bucket(s3_bucket: str, tmp_path: Path) -> None:
    path = write_weights(tmp_path / "x2.safetensors")
    store = open_store(f"s3://{s3_bucket}/runs")
    store.put("x2.safetensors", path.read_bytes())
    loaded = _load_start(store.url_of("x2.safetensors"))
    assert loaded.sha256 == load_weights(str(path)).sha256
    with pytest.raises(DataError, match=r"/x3\.safetensors: no such object"):
        _load_start(store.url_of("x3.safetensors"))


@pytest.fixture
def https_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on loopback that gives what is in `tmp_path`, with a certificate of its own."""
    key, certificate = make_certificate(LOOPBACK)
    (tmp_path / "certificate.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer((LOOPBACK, 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"https://{LOOPBACK}:{server.server_port}"
        server.shutdown()
        thread.join()


def make_certificate(address: str) -> tuple[bytes, bytes]:
    """A private key and its own certificate for an hour, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def test_weights_to_start_from_lie_at_an_address(https_address: str, tmp_path: Path) -> None:
    path = write_weights(tmp_path / "x2.safetensors")
    loaded = _load_start(f"{https_address}/x2.safetensors")
    assert loaded.sha256 == load_weights(str(path)).sha256
    with pytest.raises(DataError, match=r"/x3\.safetensors: can't be read \(HTTP Error 404"):
        _load_start(f"{https_address}/x3.safetensors")


@pytest.mark.ray
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
def test_photographs_that_are_broken_or_small_stop_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = write_photographs(tmp_path / "small", 3, height=100, width=100)
    broken = write_photographs(tmp_path / "broken", 6)
    (broken / "photograph-002.png").write_bytes(b"no image")
    output = ["--output", str(tmp_path / "run")]
    with ray_session():
        assert main(["train", "sr-x2", "--data", str(small), *output]) == 1
        assert "no photograph is large enough for a patch of 192 px" in capsys.readouterr().err
        assert main(["train", "sr-x2", "--data", str(broken), *output]) == 1
    assert "1 of 6 photographs can't be read: photograph-002.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nodes", "workers", "threads"),
    [
        ([2], 1, 2),
        ([2], 2, 1),
        ([8, 8], 3, 4),
        ([6, 6], 3, 3),
        ([4, 16], 2, 8),
        ([16, 16, 16], 4, 8),
        ([1, 8], 2, 4),
        ([0, 4], 2, 2),
        ([2], 5, 1),
    ],
)
def test_each_worker_has_as_many_threads_as_nodes_have_room_for(
    nodes: list[int], workers: int, threads: int
) -> None:
    assert threads_of(nodes, workers) == threads


@pytest.mark.parametrize(
    ("nodes", "workers", "use_gpu", "threads", "makers"),
    [
        ([{"CPU": 2}], (1, 4), False, 1, 1),
        ([{"CPU": 8, "GPU": 1}, {"CPU": 64}, {"CPU": 8, "GPU": 2}], (2, 8), True, 4, 7),
        ([{"CPU": 1, "GPU": 2}], (1, 8), True, 1, 1),
    ],
)
def test_more_workers_may_join_than_there_is_room_for_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    nodes: list[dict[str, float]],
    workers: tuple[int, int],
    use_gpu: bool,
    threads: int,
    makers: int,
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": n} for n in nodes])
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    recipe = build_recipe("sr-x2")
    store = open_store(str(tmp_path))
    job = make_job(
        recipe,
        PreparedData(
            store=store, name="", patch_px=192, num_photographs=1, sizes_in_parts=(), broken=()
        ),
        store,
        StopRules(steps=recipe.steps),
        resources=Resources(cpus=cpus, gpus=gpus, smallest_node_cpus=1.0),
        workers=workers,
        use_gpu=use_gpu,
    )
    assert (job.workers, job.threads, job.makers.count) == (workers, threads, makers)
