"""The page of results: made by one command, of weights that are shipped, with all its pictures."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from weights_for_tests import write_weights

from resnet_core.network import NetworkConfig
from resnet_core.weights import load_weights, packaged_weights

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "docs"))

import results  # noqa: E402


def pictures(page: Path) -> list[Path]:
    found = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    return [page.parent / name for name in found]


def test_one_command_makes_the_page_and_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples_dir: Path
) -> None:
    with Image.open(examples_dir / "osprey.jpg") as image:
        part = np.asarray(image.convert("RGB"))[:64, :96]
    (tmp_path / "sets" / "set5").mkdir(parents=True)
    Image.fromarray(part).save(tmp_path / "sets" / "set5" / "part.png")
    monkeypatch.setattr(results, "packaged_weights", lambda: ["sr-x2"])
    monkeypatch.setattr(results, "STRENGTHS", (0.0, 1.0))
    results.main([str(tmp_path / "sets"), "--output", str(tmp_path)])
    page = tmp_path / "results.md"
    text = page.read_text(encoding="utf-8")
    header, _, *rows = (line for line in text.splitlines() if line.startswith("|"))
    assert header == "| PSNR dB / SSIM | set5, bicubic x2 | ms/MP | guard |"
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert names == ["bicubic", "lanczos", "unsharp-mask", "`sr-x2`"]
    assert rows[-1].count("**") == 2
    assert load_weights("sr-x2").sha256[:12] in text
    assert len(pictures(page)) == 4
    for path in pictures(page):
        assert path.stat().st_size > 1000
    assert str(tmp_path) not in text
    for path in (tmp_path / "results").glob("*.webp"):
        with Image.open(path) as image:
            assert image.width > image.height / 2 > 96
    for path in (tmp_path / "results").glob("*.svg"):
        assert path.read_text(encoding="utf-8").startswith("<svg xmlns=")


def test_a_task_at_the_same_size_has_its_conditions_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples_dir: Path
) -> None:
    (tmp_path / "sets" / "cbsd68").mkdir(parents=True)
    with Image.open(examples_dir / "otter.jpg") as image:
        image.crop((0, 0, 64, 48)).save(tmp_path / "sets" / "cbsd68" / "part.png")
    weights = write_weights(
        tmp_path / "clean.safetensors", NetworkConfig(scale=1, num_blocks=1, channels=16)
    )
    monkeypatch.setattr(results, "packaged_weights", lambda: ["sr-x2", str(weights)])
    monkeypatch.setattr(results, "STRENGTHS", (0.0, 1.0))
    results.main([str(tmp_path / "sets"), "--output", str(tmp_path)])
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    header, _, *rows = (line for line in text.splitlines() if line.startswith("|"))
    sigmas = [f"cbsd68, noise of sigma {sigma}" for sigma in (15, 25, 50)]
    assert header.split(" | ")[1:-2] == sigmas
    assert rows[0].startswith("| input | ")
    assert rows[-1].startswith("| `clean` | ")
    assert "Quality against time: cbsd68, noise of sigma 25." in text
    assert "PSNR-RGB: over" in text
    assert "sr-x2" not in text


def test_without_a_set_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="none of the test sets"):
        results.main([str(tmp_path), "--output", str(tmp_path / "docs")])
    assert not (tmp_path / "docs").exists()


def test_the_committed_figures_are_those_of_the_shipped_weights() -> None:
    page = ROOT / "docs" / "results.md"
    found = dict(re.findall(r"`([\w-]+)`, SHA-256 `(\w{12})`", page.read_text(encoding="utf-8")))
    assert found
    shipped = {name: load_weights(name).sha256[:12] for name in packaged_weights()}
    assert found.items() <= shipped.items(), "docs/results.py makes the page again"


def test_the_committed_page_has_its_pictures_and_no_others() -> None:
    page = ROOT / "docs" / "results.md"
    assert set(pictures(page)) == set((ROOT / "docs" / "results").iterdir())
    assert sum(path.stat().st_size for path in pictures(page)) < 1_500_000
