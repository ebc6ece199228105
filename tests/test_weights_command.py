"""What `resray weights` prints."""

from pathlib import Path

import pytest
from weights_for_tests import make_weights, write_weights

from pipelines.cli import main
from pipelines.weights_command import card_lines, list_lines


def test_the_list_has_a_line_for_each_file() -> None:
    lines = list(list_lines([make_weights(), make_weights()]))
    assert len(lines) == 2
    assert lines[0].startswith("random  x2")
    assert "sr-x2" in lines[0]
    assert "valid psnr_y_db 30.00" in lines[0]
    assert list(list_lines([])) == ["no weights in this package; resray train makes some"]


def test_the_card_tells_all_a_file_says_of_itself() -> None:
    card = "\n".join(card_lines(make_weights()))
    for part in (
        "random: sr-x2, x2",
        "2 blocks, 16 channels",
        "0" * 64,
        "bicubic",
        "random weights, no photographs",
        "CC0-1.0",
        "steps 0",
        "valid psnr_y_db",
    ):
        assert part in card


def test_the_command_prints_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resnet_core.weights.PACKAGED", tmp_path)
    write_weights(tmp_path / "mine.safetensors")
    assert main(["weights", "list"]) == 0
    assert capsys.readouterr().out.startswith("mine")
    assert main(["weights", "show", "mine"]) == 0
    assert "licence" in capsys.readouterr().out
