"""Ray Jobs, at the address of a cluster's dashboard: one line for whatever goes wrong there."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.connect import CONNECT_TIMEOUT_S
from resnet_core.errors import ConfigError, DataError

DASHBOARD_PORT = 8265
LEAST_RAY = (2, 60)
GONE_AFTER_S = 60.0
"""How long a dashboard may be away while a job is followed."""
POLL_S = 0.5
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What Ray knows of a job."""

    status: str
    """PENDING, RUNNING, or one of ENDED."""
    exit_status: int | None
    """Of its command, where that began and ended."""
    command: str
    message: str
    """Why it is in that state, on one line."""

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


class Jobs:
    """The jobs of one cluster. Every method raises DataError where the cluster doesn't do it."""

    def __init__(self, address: str | None) -> None:
        self.url = dashboard_url(address)
        self._client = self._connect()

    def submit(self, command: str, *, folder: Path, environment: Mapping[str, str]) -> str:
        """Start a shell command beside the files of a folder, on the head; the job's name."""
        runtime_env = {"working_dir": str(folder), "env_vars": dict(environment)}
        with self._told():
            return self._client.submit_job(entrypoint=command, runtime_env=runtime_env)

    def state(self, job: str) -> JobState:
        """How a job is now."""
        with self._told():
            found = self._client.get_job_info(job)
        message = _first_line(found.message or "").partition(", last available logs")[0]
        return JobState(
            status=str(found.status),
            exit_status=found.driver_exit_code,
            command=found.entrypoint,
            message=message,
        )

    def stop(self, job: str) -> bool:
        """Ask a job to end; whether it was running."""
        with self._told():
            return self._client.stop_job(job)

    def follow(self, job: str, write: Callable[[str], None]) -> JobState:
        """Pass on what a job prints, from its beginning, until it ends; how it ended.

        A connection that breaks is made again, and goes on where it broke.
        """
        written, state, heard_s = 0, self.state(job), time.monotonic()
        while True:
            had_ended = state.has_ended
            try:
                written, is_whole = asyncio.run(self._tail(job, write, written))
                state, heard_s = self.state(job), time.monotonic()
                if had_ended or (is_whole and state.has_ended):
                    return state
            except DataError:
                if time.monotonic() - heard_s > GONE_AFTER_S:
                    raise
            time.sleep(POLL_S)

    async def _tail(self, job: str, write: Callable[[str], None], written: int) -> tuple[int, bool]:
        """The log from character `written` on; where it ended, and whether that was its end."""
        seen, is_whole = 0, False
        try:
            async for text in self._client.tail_job_logs(job):
                write(text[max(written - seen, 0) :])
                seen += len(text)
            is_whole = True
        except Exception:  # noqa: BLE001  of many kinds; the state, asked next, tells if it matters
            await asyncio.sleep(POLL_S)
        return max(written, seen), is_whole

    def _connect(self) -> Any:
        _check_answers(self.url)
        # Ray lets this variable override what it is given.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.url
        if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        from ray.job_submission import JobSubmissionClient  # noqa: PLC0415  slow to import

        for module in TALKATIVE:
            logging.getLogger(module).setLevel(logging.ERROR)
        try:
            with self._told():
                client: Any = JobSubmissionClient(self.url)
        except (LookupError, TypeError) as error:
            raise DataError(f"{self.url}: what answers there is no dashboard of Ray") from error
        check_ray(client._server_ray_version, self.url)  # noqa: SLF001  its public one is the API's
        return client

    @contextmanager
    def _told(self) -> Generator[None]:
        from ray.exceptions import AuthenticationError  # noqa: PLC0415

        try:
            yield
        except AuthenticationError as error:
            raise DataError(
                f"{self.url}: the cluster refuses the token ({_first_line(error)}); expected"
                " RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its machines"
            ) from error
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"{self.url}: {_first_line(error)}") from error


def dashboard_url(address: str | None) -> str:
    """The address of a dashboard in full. ConfigError for one that can't be."""
    fallback = f"http://127.0.0.1:{DASHBOARD_PORT}"
    inherited = [os.environ.get(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")]
    usable = (each for each in inherited if each.startswith(("http://", "https://")))
    text = address or next(usable, fallback)
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise ConfigError(
            f"--address: expected the dashboard's, http://HOST:{DASHBOARD_PORT}, found {text!r}"
        )
    bare = "://" not in text and port is None
    return parts.geturl().rstrip("/") + (f":{DASHBOARD_PORT}" if bare else "")


def check_ray(version: str, where: str) -> None:
    """ConfigError where a cluster's Ray is older than this code needs."""
    numbers = version.split(".")[:2]
    if all(each.isdigit() for each in numbers) and tuple(map(int, numbers)) < LEAST_RAY:
        least = ".".join(map(str, LEAST_RAY))
        raise ConfigError(f"{where}: expected Ray {least} or newer on the cluster, found {version}")


def _check_answers(url: str) -> None:
    """Ray's own client waits without a limit for an address that is silent."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise DataError(
            f"{url}: no Ray cluster answers there ({error}); start one, reach its dashboard"
            " through a tunnel, or give its --address"
        ) from error


def _first_line(text: object) -> str:
    return str(text).strip().partition("\n")[0]
