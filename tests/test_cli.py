"""The command: instant help, and every mistake as one line with status 1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from weights_for_tests import write_weights

from pipelines import cli
from pipelines.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent


def test_help_loads_neither_torch_nor_ray() -> None:
    code = "import sys; from pipelines.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'ray', 'pyarrow', 'numpy'} & sys.modules.keys()\n"
    code += "sys.exit(f'loaded {heavy}' if heavy else 0)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert all(name in run.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", ["enhance", "weights"])
def test_each_command_has_a_manual_page(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: resray {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["enhanc"], "invalid choice: 'enhanc'"),
        (["enhance", "src"], "required: DST"),
        (["enhance", "src", "dst", "--limit", "0"], "expected 1 or more"),
        (["enhance", "src", "dst", "--max-pixels", "many"], "expected a number with k, M, G"),
        (["enhance", "src", "dst", "--metadata", "some"], "invalid choice: 'some'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_1(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert "--help" in errors
    assert errors.count("\n") == 1


def write_tree(root: Path) -> None:
    for key in ("photos/a.png", "file", "full/photos/a.png"):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (root / "empty").mkdir()
    (root / "alias").symlink_to("photos")
    write_weights(root / "small.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("missing out", "missing: no such folder"),
        ("photo out", "photo: no such folder; did you mean 'photos'?"),
        ("file out", "file: is a file, not a folder"),
        ("empty out", "empty: empty; there is nothing to enhance"),
        ("photos photos", "photos: is the source itself"),
        ("photos alias", "alias: is the source itself"),
        ("photos photos/../photos", "is the source itself"),
        ("photos photos/out", "lies inside the source"),
        ("photos alias/out", "lies inside the source"),
        ("full/photos full", "holds the source"),
        ("photos file/out", "can't be written: Not a directory; choose another folder"),
        ("gs://bucket out", "Google Cloud Storage speaks S3 too"),
        ("photos out --weights small.safetensor", "small.safetensor: no such file"),
        ("photos out --weights file", "file: "),
        ("photos out --format jpge", "did you mean 'jpeg'?"),
        ("photos out --format gif", "'gif' is read, not written"),
        ("photos out --quality 500", "--quality: expected 0 to 100, found 500"),
        ("photos out --format png --quality 50", "PNG is lossless"),
        ("photos out --strength nan", "--strength"),
        ("photos out --strength 9", "strength is 9.0"),
    ],
)
def test_bad_input_is_one_line_and_status_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    write_tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given = arguments.split()
    if "--weights" not in given:
        given += ["--weights", "small.safetensors"]
    assert main(["enhance", *given]) == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("resray: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before, "nothing is made by a mistake"


def test_a_near_name_of_weights_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resnet_core.weights.PACKAGED", tmp_path)
    write_weights(tmp_path / "sr-x2.safetensors")
    assert main(["enhance", str(tmp_path), "out", "--weights", "sr-x3"]) == 1
    assert "no weights named 'sr-x3'; did you mean 'sr-x2'?" in capsys.readouterr().err


def test_ctrl_c_is_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", stop)
    assert main(["weights", "list"]) == 130
    assert capsys.readouterr().err == "resray: stopped\n"


def test_it_runs_as_a_module() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "weights", "show", "nothing"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("resray: no weights named 'nothing'")
