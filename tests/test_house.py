"""The direction of imports, and what the repository promises of itself."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import resnet_core

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("resnet_core", "pipelines", "cluster")
ENGINE = {"ray"}
STORAGE = {"boto3", "botocore", "fsspec", "obstore", "pyarrow", "s3fs", "smart_open"}
NETWORK = {"aiohttp", "ftplib", "http.client", "httpx", "requests", "urllib.request", "urllib3"}
FORBIDDEN = ENGINE | STORAGE | NETWORK

IMPORT_BASELINE = "import numpy, PIL.Image, safetensors.torch, torch"
IMPORT_CORE = """
import importlib, pkgutil, resnet_core
for module in pkgutil.walk_packages(resnet_core.__path__, "resnet_core."):
    importlib.import_module(module.name)
"""


def source_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_modules(source: str) -> set[str]:
    """Absolute names of all modules that a source imports anywhere, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, roots: set[str]) -> bool:
    """Whether a module is one of the roots or lies inside one."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def imports_into(package: str, roots: set[str]) -> list[str]:
    """'file: module' for each import in a package of a module within the roots."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in source_files(package)
        for name in sorted(imported_modules(path.read_text(encoding="utf-8")))
        if within(name, roots)
    ]


def loaded_modules(code: str) -> set[str]:
    """What a fresh interpreter has loaded after running the code."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_importing_the_core_loads_no_engine_storage_or_network() -> None:
    added = loaded_modules(IMPORT_BASELINE + IMPORT_CORE) - loaded_modules(IMPORT_BASELINE)
    assert "resnet_core.foreign_network" in added
    assert "spandrel" not in added, "seconds, for those who have weights from elsewhere"
    assert sorted(name for name in added if within(name, FORBIDDEN)) == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pipelines.selection", {"torch", "ray", "pandas", "PIL", "imagecodecs", "jinja2"}),
        ("pipelines.bulk", {"torch", "PIL", "imagecodecs", "jinja2"}),
        ("resnet_core.images", {"torch", "pyarrow"}),
        ("cluster.connect", {"torch", "ray", "numpy"}),
    ],
)
def test_what_only_lists_or_records_loads_no_network(module: str, heavy: set[str]) -> None:
    assert heavy & loaded_modules(f"import {module}") == set()


def test_weights_are_loaded_and_run_without_the_compiler() -> None:
    run = """
import torch
from resnet_core.weights import load_weights
load_weights("sr-x2-fast").network(torch.zeros(1, 3, 8, 8))
"""
    assert "torch._dynamo" not in loaded_modules(run), "seconds, in each worker"


def test_the_public_names_of_the_core_are_those_that_a_type_checker_sees() -> None:
    tree = ast.parse(Path(resnet_core.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert set(typed) == set(resnet_core.__all__)
    for name, module in typed.items():
        assert getattr(resnet_core, name) is getattr(importlib.import_module(module), name)
    assert set(typed) <= set(dir(resnet_core))
    with pytest.raises(AttributeError, match="module 'resnet_core' has no attribute 'Enhancr'"):
        resnet_core.Enhancr  # noqa: B018


def test_the_core_names_no_engine_storage_network_or_outer_package() -> None:
    assert imports_into("resnet_core", FORBIDDEN | {"pipelines", "cluster", "socket"}) == []


def test_the_cluster_package_does_not_import_the_pipelines() -> None:
    assert imports_into("cluster", {"pipelines"}) == []


def test_only_the_cluster_package_connects_to_ray() -> None:
    calls = [
        str(path.relative_to(ROOT))
        for package in ("resnet_core", "pipelines")
        for path in source_files(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ray.init"
    ]
    assert calls == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b", {"a.b"}),
        ("def f():\n    from a import b", {"a", "a.b"}),
        ("from . import c", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, names: set[str]) -> None:
    assert imported_modules(source) == names


def test_every_package_is_typed_and_declares_it() -> None:
    for package in PACKAGES:
        assert (ROOT / package / "__init__.py").is_file()
        assert (ROOT / package / "py.typed").is_file()


def declared_project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal_name(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_every_foreign_module_comes_from_a_declared_dependency() -> None:
    project = declared_project()
    declared = {
        normal_name(re.split(r"[\[<>=!~; ]", requirement)[0])
        for requirement in (*project["dependencies"], *project["optional-dependencies"]["spandrel"])
    }
    providers = metadata.packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {top}"
        for package in PACKAGES
        for path in source_files(package)
        for top in {n.split(".")[0] for n in imported_modules(path.read_text(encoding="utf-8"))}
        if top not in sys.stdlib_module_names
        and top not in PACKAGES
        and declared.isdisjoint(normal_name(name) for name in providers.get(top, []))
    }
    assert undeclared == set()


def test_the_licence_file_is_the_declared_one() -> None:
    assert declared_project()["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_each_example_is_a_small_photograph_with_a_credit(examples_dir: Path) -> None:
    credit_lines = (examples_dir / "CREDITS.md").read_text(encoding="utf-8")
    photographs = [path for path in examples_dir.iterdir() if path.name != "CREDITS.md"]
    assert len(photographs) >= 4
    assert sum(path.stat().st_size for path in photographs) < 600_000
    for path in photographs:
        assert f"`{path.name}`" in credit_lines
        with Image.open(path) as image:
            assert max(image.size) <= 640
