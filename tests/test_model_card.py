"""The cards in docs/weights are what the command gives, and tell what a file says of itself."""

from dataclasses import replace
from pathlib import Path

import pytest
from weights_for_tests import make_weights

from pipelines.cli import main
from pipelines.model_card import model_card
from resnet_core.network import NetworkConfig
from resnet_core.standard_degradations import STANDARD, standard_degradation
from resnet_core.weights import load_weights, packaged_weights

CARDS = Path(__file__).resolve().parent.parent / "docs" / "weights"


@pytest.mark.parametrize("name", packaged_weights())
def test_the_committed_card_is_the_one_that_the_command_writes(name: str, tmp_path: Path) -> None:
    assert main(["weights", "cards", str(tmp_path), name]) == 0
    written = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    committed = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert committed == written, "resray weights cards docs/weights"
    assert load_weights(name).sha256 in written


def test_there_is_a_card_for_each_of_the_package_and_for_no_other() -> None:
    assert sorted(path.stem for path in CARDS.glob("*.md")) == packaged_weights()


def test_a_card_tells_all_that_is_known() -> None:
    card = model_card(make_weights())
    for part in (
        "# random\n",
        "Makes a clean picture twice as large.",
        "| task | `sr-x2`, 2 times as large |",
        "2 residual blocks of 16 channels; 11,",
        "G multiply-adds for a megapixel of output",
        "random weights, no photographs",
        "CC0-1.0",
        "Downscale(scale=2, kinds=('bicubic',))",
        "| valid | PSNR-Y | 30.00 dB |",
        "0" * 64,
        "noise and JPEG blocks",
    ):
        assert part in card


@pytest.mark.parametrize("task", STANDARD)
def test_every_task_has_a_purpose_and_limits(task: str) -> None:
    degradation = standard_degradation(task)
    weights = make_weights(NetworkConfig(scale=degradation.scale, num_blocks=1, channels=16))
    metadata = replace(weights.metadata, task=task, degradation=degradation)
    card = model_card(replace(weights, metadata=metadata))
    assert "Nothing is known" not in card
    assert card.count("\n- ") >= 3
    assert f"{type(degradation.steps[0]).__name__}(" in card


def test_weights_of_a_task_of_ones_own_have_a_card_too() -> None:
    weights = make_weights()
    card = model_card(replace(weights, metadata=replace(weights.metadata, task="scans")))
    assert "Its task is scans." in card
    assert "Nothing is known of its limits." in card


def test_a_folder_that_can_not_be_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert main(["weights", "cards", str(tmp_path / "taken"), "sr-x2"]) == 1
    assert "sr-x2.md: can't be written" in capsys.readouterr().err
