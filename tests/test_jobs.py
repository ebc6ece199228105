"""Ray Jobs without a cluster: addresses, versions, and logs that break off."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster import jobs
from cluster.jobs import LEAST_RAY, Jobs, check_ray, dashboard_url
from resnet_core.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (None, "http://127.0.0.1:8265"),
        ("head", "http://head:8265"),
        ("10.0.0.1:8265", "http://10.0.0.1:8265"),
        ("[::1]:80", "http://[::1]:80"),
        ("https://ray.example/", "https://ray.example"),
    ],
)
def test_an_address_is_completed(given: str | None, url: str) -> None:
    assert dashboard_url(given) == url


@pytest.mark.parametrize("given", ["ray://head:10001", "head:port", "http://", "s3://bucket"])
def test_an_address_of_another_kind_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="expected the dashboard's, http://HOST:8265, found"):
        dashboard_url(given)


def test_the_variables_of_ray_are_taken_where_they_name_a_dashboard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert dashboard_url(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://head:1")
    assert dashboard_url(None) == "http://head:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://other:2")
    assert dashboard_url(None) == "http://other:2"
    assert dashboard_url("mine") == "http://mine:8265"


def test_a_ray_that_is_too_old_is_named() -> None:
    check_ray(".".join(map(str, LEAST_RAY)) + ".0", "http://head")
    check_ray("3.0.0.dev0", "http://head")
    with pytest.raises(ConfigError, match=r"http://head: expected Ray 2\.60 .*, found 2\.9\.3"):
        check_ray("2.9.3", "http://head")


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, tuple[int, Any]]]]:
    """A server that isn't Ray, and what it answers at which path: status, content."""
    known: dict[str, tuple[int, Any]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = known.get(self.path, (404, "nothing here"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", known
        server.shutdown()
        thread.join()


def test_an_older_cluster_is_refused_when_it_is_asked(
    answers: tuple[str, dict[str, tuple[int, Any]]],
) -> None:
    url, known = answers
    known["/api/version"] = (200, {"version": "4", "ray_version": "2.44.1"})
    with pytest.raises(ConfigError, match=r"expected Ray 2\.60 or newer .*, found 2\.44\.1"):
        Jobs(url)


@pytest.mark.parametrize("answer", [(404, "no"), (500, "no"), (200, "no")])
def test_what_is_no_cluster_is_one_line(
    answers: tuple[str, dict[str, tuple[int, Any]]], answer: tuple[int, Any]
) -> None:
    url, known = answers
    known["/api/version"] = answer
    with pytest.raises(DataError, match=f"^{url}: ") as failure:
        Jobs(url)
    assert "\n" not in str(failure.value)


class Details:
    """As Ray describes a job."""

    entrypoint = "python"
    message = "Job is over.\nsecond line"
    driver_exit_code = 2

    def __init__(self, status: str) -> None:
        self.status = status


class BrokenClient:
    """A job whose log breaks off twice, and a dashboard that is away now and then."""

    def __init__(self, *, away: int = 0) -> None:
        self.text = ["one\n", "two\n", "three\n"]
        self.tails = 0
        self.away = away

    def get_job_info(self, _job: str) -> Details:
        if self.tails and self.away:
            self.away -= 1
            raise ConnectionError("refused")
        return Details("FAILED" if self.tails >= 3 else "RUNNING")

    async def tail_job_logs(self, _job: str) -> AsyncIterator[str]:
        self.tails += 1
        for chunk in self.text[: self.tails]:
            yield chunk
        if self.tails < 3:
            raise RuntimeError("the connection broke")


def jobs_of(client: BrokenClient) -> Jobs:
    made = Jobs.__new__(Jobs)
    made.url, made._client = "http://head", client
    return made


def test_a_log_that_breaks_off_goes_on_without_a_line_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    written: list[str] = []
    state = jobs_of(BrokenClient(away=3)).follow("job", written.append)
    assert "".join(written) == "one\ntwo\nthree\n"
    assert (state.status, state.exit_status, state.message) == ("FAILED", 2, "Job is over.")


def test_a_dashboard_that_stays_away_ends_the_following(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    monkeypatch.setattr(jobs, "GONE_AFTER_S", 0.0)
    with pytest.raises(DataError, match="http://head: refused"):
        jobs_of(BrokenClient(away=10**9)).follow("job", lambda _text: None)
