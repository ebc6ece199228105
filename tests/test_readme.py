"""The README is code: its marked blocks run, its paths exist, its links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNNABLE = re.findall(r"<!-- run -->\n```bash\n(.*?)```", README, flags=re.DOTALL)


def tree_paths(listing: str) -> list[str]:
    """The paths that an indented tree names, one a line."""
    paths: list[str] = []
    folder = ""
    for line in listing.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name
        paths.append(name if not line.startswith(" ") else folder + name)
    return paths


@pytest.mark.ray
@pytest.mark.parametrize("block", RUNNABLE)
def test_a_marked_block_runs(block: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_some_block_runs() -> None:
    assert RUNNABLE


def test_the_tree_is_the_tree() -> None:
    listing = re.search(r"<!-- tree -->\n```text\n(.*?)```", README, flags=re.DOTALL)
    assert listing
    paths = tree_paths(listing[1])
    assert [path for path in paths if not (ROOT / path).exists()] == []
    sources = {
        path.relative_to(ROOT)
        for package in ("resnet_core", "pipelines", "cluster")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    folders = {Path(path) for path in paths if path.endswith("/") and "/" in path[:-1]}
    unnamed = sources - {Path(path) for path in paths}
    assert sorted(path for path in unnamed if folders.isdisjoint(path.parents)) == []


def test_every_relative_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [x for x in links if "://" not in x and not (ROOT / x).exists()] == []


def test_every_make_target_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^make ([a-z]+)", README, flags=re.MULTILINE))
    assert named
    assert named <= set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
