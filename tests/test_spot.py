"""The notice of a spot instance: asked for as AWS wants it, and the machine drained."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import ray
from ray._private.state import state
from ray.cluster_utils import Cluster

from cluster import spot
from cluster.connect import ray_session
from cluster.spot import main, read_notice


@pytest.fixture
def metadata() -> Iterator[tuple[str, dict[str, str]]]:
    """As a machine's metadata (IMDSv2), and what it answers at which path."""
    known: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            is_asked = self.path == "/latest/api/token" and int(
                self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            )
            self.answer(200 if is_asked else 400, "a-token")

        def do_GET(self) -> None:
            if self.headers["X-aws-ec2-metadata-token"] != "a-token":
                self.answer(401, "")
            else:
                self.answer(200 if self.path in known else 404, known.get(self.path, ""))

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", known
        server.shutdown()
        thread.join()


def announce(known: dict[str, str], goes_at: datetime) -> None:
    text = goes_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    known["/latest/meta-data/spot/instance-action"] = f'{{"action":"terminate","time":"{text}"}}'


def test_there_is_no_notice_until_there_is_one(
    metadata: tuple[str, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, known = metadata
    assert read_notice(url) is None
    assert capsys.readouterr().err == "", "none yet is no error"
    goes_at = datetime(2026, 9, 18, 8, 22, 0, tzinfo=UTC)
    announce(known, goes_at)
    assert read_notice(url) == goes_at


def test_metadata_that_does_not_answer_is_told_and_asked_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert read_notice("http://127.0.0.1:1") is None
    assert "http://127.0.0.1:1: " in capsys.readouterr().err


@pytest.mark.ray
def test_with_the_notice_ray_drains_this_machine(
    metadata: tuple[str, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(spot, "LOOK_EVERY_S", 0.1)
    url, known = metadata

    class Busy:
        def begin(self) -> None:
            """It holds a CPU: a machine that is idle ends as soon as it is drained."""

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    goes_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=300)
    announce(known, goes_at)
    try:
        with ray_session(address=cluster.address):
            busy = ray.remote(num_cpus=1)(Busy).remote()
            ray.get(busy.begin.remote())
            assert main(["--address", cluster.address, "--metadata", url]) == 0
            assert "s: draining it" in capsys.readouterr().out
            ((node, deadline_ms),) = state.get_draining_nodes().items()
        assert node == cluster.head_node.node_id
        assert deadline_ms / 1000 == pytest.approx(goes_at.timestamp(), abs=120)
    finally:
        cluster.shutdown()
