"""The one place that connects to Ray: quiet, private, and gone afterwards."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray._private.utils import check_version_info

from cluster.connect import START_ATTEMPTS, _reason, ray_session
from resnet_core.errors import DataError

ROOT = Path(__file__).resolve().parent.parent

SESSION = """
import os
import psutil
from cluster.connect import START_ATTEMPTS, ray_session
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
with ray_session() as first, ray_session() as second:
    import ray
    assert first == second
    assert first.cpus == (1 if hasattr(os, "sched_setaffinity") else os.cpu_count())
    assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
    commands = [" ".join(each.cmdline()) for each in psutil.Process().children()]
    assert any("gcs_server" in each for each in commands)
    assert not any("log_monitor" in each for each in commands), "nobody reads what it reads"
try:
    ray.put(1)
except ray.exceptions.RaySystemError:
    pass
assert not ray.is_initialized(), "a call after the end started another Ray"
"""


@pytest.mark.ray
def test_a_local_ray_is_silent_leaves_nothing_at_home_and_ends(tmp_path: Path) -> None:
    private = {name: value for name, value in os.environ.items() if "RAY_AUTH" not in name}
    run = subprocess.run(
        [sys.executable, "-c", SESSION],
        cwd=ROOT,
        env={**private, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
def test_an_address_that_does_not_answer_is_one_line_and_soon() -> None:
    with (
        pytest.raises(DataError, match=r"Ray at 127\.0\.0\.1:1 can't be reached"),
        ray_session(address="127.0.0.1:1"),
    ):
        pass


def test_versions_that_differ_are_one_line() -> None:
    metadata = {"ray_version": "2.44.1", "python_version": "3.9.2"}
    with pytest.raises(RuntimeError) as failure:
        check_version_info(metadata, "127.0.0.1")
    here = platform.python_version()
    assert _reason(failure.value) == (
        f"it runs Ray 2.44.1 with Python 3.9.2, and this machine Ray {ray.__version__} with Python"
        f" {here}; install the same here, or let `resray submit` run the command there"
    )
    assert _reason(OSError("refused\nat length")) == "refused"


def test_a_start_that_fails_is_tried_again_and_then_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = 0

    def fail(**_options: object) -> None:
        nonlocal attempts
        attempts += 1
        raise Exception("timed out\nduring startup")  # noqa: TRY002  as Ray does

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(DataError, match=r"^Ray can't start on this machine: timed out$"):
        ray_session().__enter__()
    assert attempts == START_ATTEMPTS
