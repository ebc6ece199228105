"""docs/serve.md is code: its blocks run against a service, its table has every status."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray import serve
from serving_for_tests import free_port

from cluster.connect import ray_session
from pipelines.problems import KINDS
from pipelines.serve_app import PARAMETERS
from pipelines.serve_replicas import application
from pipelines.serve_settings import ServeSettings

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- run -->\n```(bash|python)\n(.*?)```", GUIDE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    port = free_port()
    settings = ServeSettings(network_cpus=0, ingress_cpus=0, threads=1, access_log="")
    with ray_session():
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        try:
            serve.run(application(settings), name="resray")
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()


@pytest.mark.ray
@pytest.mark.parametrize(("language", "block"), BLOCKS)
def test_a_marked_block_runs(address: str, tmp_path: Path, language: str, block: str) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = ["bash", "-euo", "pipefail", "-c", block]
    if language == "python":
        command = [sys.executable, "-c", block]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"RESRAY": address},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    made = [path for path in tmp_path.iterdir() if path.is_file()]
    assert all(path.stat().st_size > 10_000 for path in made)
    assert len(made) == ("better" in block)


def test_there_are_examples_for_both() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python"}


def test_the_tables_have_every_status_and_parameter() -> None:
    told = {int(status) for status in re.findall(r"^\| (\d{3}) \|", GUIDE, flags=re.MULTILINE)}
    assert told == {kind.status for kind in KINDS.values()}
    assert all(f"| `{name}` |" in GUIDE for name in PARAMETERS)
