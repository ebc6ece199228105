"""The one place that connects to Ray.

Without an address (argument or RAY_ADDRESS) a Ray of our own starts on this machine, for this
process: without dashboard, usage statistics or log lines, and under a token made for it unless
RAY_AUTH_MODE says otherwise, since Ray listens on all of the machine's addresses. It ends with the
process, whatever ends the process.
"""

import logging
import math
import os
import re
import secrets
import socket
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from resnet_core.errors import DataError

CONNECT_TIMEOUT_S = 5.0
START_ATTEMPTS = 2

LOCAL_ENVIRONMENT = {
    # A thread of Ray Data that outlives its Ray would otherwise start another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A Ray of our own has no dashboard: nobody asks what each of its processes takes.
    "REPORTER_UPDATE_INTERVAL_MS": "600000",
    # A machine that is lost would fill the terminal with its last words, and every task on it.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "Raylet is terminated|infinite retries remaining",
}

WORKER_ENVIRONMENT = {
    # glibc otherwise maps and unmaps every large activation anew: half the speed on CPU.
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
}
"""Environment of processes that run a network; it must stand before they start."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the cluster, or this machine, offers."""

    cpus: float
    gpus: float
    smallest_node_cpus: float
    """Of the nodes that have any."""
    machines: int = 1
    """Nodes that have CPUs."""


def set_environment() -> None:
    """What Ray reads when it is imported, unless the user has set it otherwise."""
    for name, value in LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_session(*, address: str | None = None, verbose: bool = False) -> Generator[Resources]:
    """Connect to Ray for the length of a `with` block, or join the connection that is open.

    `verbose` lets Ray's own log lines through. DataError where the address doesn't answer.
    """
    set_environment()
    import ray  # noqa: PLC0415  it reads the environment when it is imported

    if ray.is_initialized():
        yield _resources()
        return
    _connect(address or os.environ.get("RAY_ADDRESS"), verbose=verbose)
    try:
        yield _resources()
    finally:
        ray.shutdown()


def _connect(address: str | None, *, verbose: bool) -> None:
    import ray  # noqa: PLC0415

    level = logging.INFO if verbose else logging.ERROR
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    quiet = nullcontext() if verbose else _silence()
    is_local = address in (None, "local")
    try:
        with quiet:
            if is_local:
                _set_token()
                _start_local(level, verbose=verbose)
            else:
                _check_answers(address)
                ray.init(address=address, logging_level=level, log_to_driver=verbose)
    except Exception as error:  # Ray raises many kinds, bare ones too
        where = "can't start on this machine" if is_local else f"at {address} can't be reached"
        raise DataError(f"Ray {where}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Of a failed connection, on one line."""
    text = str(error).strip()
    versions = re.findall(r"^\s*(Ray|Python): (\S+)$", text, re.MULTILINE)
    if not text.startswith("Version mismatch") or len(versions) != 4:
        return text.partition("\n")[0]
    theirs, ours = (
        " with ".join(f"{name} {number}" for name, number in half)
        for half in (versions[:2], versions[2:])
    )
    return (
        f"it runs {theirs}, and this machine {ours}; install the same here, or let"
        " `resray submit` run the command there"
    )


def _start_local(level: int, *, verbose: bool) -> None:
    """On a machine that is very busy Ray gives up on its own processes after 30 s: try again."""
    import ray  # noqa: PLC0415
    from ray._private import utils as ray_utils  # noqa: PLC0415
    from ray._private import worker as ray_worker  # noqa: PLC0415

    # Ray counts the machine's CPUs, or its container's: also those that taskset or Slurm keep away.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else math.inf
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=int(min(ray_utils.get_num_cpus(), allowed)),
                include_dashboard=False,
                logging_level=level,
                log_to_driver=verbose,
            )
        except Exception:
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise
        else:
            break
    if not verbose:
        # It reads all logs ten times a second for a driver that shows them.
        node: Any = ray_worker.global_worker.node
        node.kill_log_monitor()


def _check_answers(address: str | None) -> None:
    """Ray itself would try for minutes. OSError if nothing listens at a host:port."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()


@contextmanager
def _silence() -> Generator[None]:
    """Keep warnings, and what native code writes to the terminal, away while Ray starts.

    Ray's C++ side announces even the log level that is to keep it silent.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _set_token() -> None:
    """A token for this Ray alone: it would otherwise write one into the home folder."""
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _resources() -> Resources:
    import ray  # noqa: PLC0415

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [node["CPU"] for node in nodes if node.get("CPU")]
    return Resources(
        cpus=sum(cpus),
        gpus=sum(node.get("GPU", 0.0) for node in nodes),
        smallest_node_cpus=min(cpus, default=0.0),
        machines=len(cpus),
    )
