"""Settings and fixtures that all tests share."""

import os

# Ray and OpenMP read these when they start, so they are set before anything imports them.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# The networks of the tests are tiny: threads would wait for each other more than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from hypothesis import settings

# The first call of a network compiles kernels: a deadline for each example says nothing.
settings.register_profile("resray", deadline=None)
settings.load_profile("resray")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def examples_dir() -> Path:
    """The folder of photographs that the repository ships."""
    return ROOT / "examples"
