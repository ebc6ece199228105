"""The figures of a folder follow from the weights, the images and the stated conventions alone."""

import argparse
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from weights_for_tests import write_foreign

from pipelines.evaluate import (
    JPEG_QUALITIES,
    NOISE_SIGMAS,
    Evaluation,
    add_arguments,
    conditions_for,
    evaluate_folder,
    format_table,
    run,
)
from resnet_core.classical import CLASSICAL
from resnet_core.degradation import degrade
from resnet_core.enhancer import EnhanceSettings
from resnet_core.errors import ConfigError, DataError, WeightsError
from resnet_core.metrics import psnr_rgb, psnr_y, ssim, ssim_y
from resnet_core.network import NetworkConfig, ResidualNetwork
from resnet_core.standard_degradations import jpeg, standard_degradation
from resnet_core.weights import Weights, WeightsMetadata, load_weights, save_weights


def picture(width: int, height: int, channels: int = 3) -> NDArray[np.uint8]:
    """Waves with grain: bicubic loses some of it, as of a photograph."""
    y, x = np.mgrid[:height, :width][..., np.newaxis]
    waves = 128 + 80 * np.sin(x / 3 + np.arange(channels)) * np.cos(y / 4)
    grain = np.random.default_rng(0).normal(0, 8, waves.shape)
    return np.clip(waves + grain, 0, 255).astype(np.uint8)


def save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, one gray and one in a folder below, of sizes that no scale divides."""
    save(picture(47, 41), tmp_path / "set" / "a.png")
    save(picture(53, 45, 1), tmp_path / "set" / "b.png")
    save(picture(49, 43), tmp_path / "set" / "sub" / "c.png")
    return tmp_path / "set"


def weights_file(folder: Path, task: str, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    degradation = standard_degradation(task)
    network = ResidualNetwork(NetworkConfig(scale=degradation.scale, num_blocks=1, channels=16))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    metadata = WeightsMetadata(
        task=task,
        degradation=degradation,
        data="none: random values",
        licence="Apache-2.0",
        git_revision="0",
        created="2026-01-01T00:00:00Z",
    )
    path = folder / "weights" / f"{task}-{seed}.safetensors"
    save_weights(path, network, metadata)
    return path


@pytest.fixture
def sr_x2(tmp_path: Path) -> Weights:
    return load_weights(str(weights_file(tmp_path, "sr-x2")))


def evaluated(
    folder: Path,
    *weights: Weights,
    strength: float = 1.0,
    limit: int | None = None,
    seed: int = 0,
    num_strips: int = 0,
) -> Evaluation:
    settings = EnhanceSettings(strength=strength)
    return evaluate_folder(
        folder, weights, settings, device="cpu", limit=limit, seed=seed, num_strips=num_strips
    )


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_strength_zero_gives_the_figures_of_bicubic(folder: Path, sr_x2: Weights) -> None:
    (result,) = evaluated(folder, sr_x2, strength=0.0).conditions
    rows = {row.name: row for row in result.methods}
    ours = rows["sr-x2-0, strength 0"]
    assert ours.is_weights
    assert ours.psnr_db == pytest.approx(rows["bicubic"].psnr_db, abs=0.02)
    assert ours.ssim == pytest.approx(rows["bicubic"].ssim, abs=2e-4)


def test_figures_are_those_of_the_metrics_by_hand(folder: Path, sr_x2: Weights) -> None:
    evaluation = evaluated(folder, sr_x2, limit=1)
    truth = picture(47, 41)[:40, :46]
    small = degrade(truth, standard_degradation("sr-x2"), np.random.default_rng(0))
    output = CLASSICAL["lanczos"](small, 2)
    row = next(row for row in evaluation.conditions[0].methods if row.name == "lanczos")
    assert evaluation.keys == ("a.png",)
    assert row.psnr_db == pytest.approx(psnr_y(output, truth, border_px=2))
    assert row.ssim == pytest.approx(ssim_y(output, truth, border_px=2))


def test_means_are_over_every_image_of_the_folder(folder: Path, sr_x2: Weights) -> None:
    evaluation = evaluated(folder, sr_x2)
    (result,) = evaluation.conditions
    assert evaluation.keys == ("a.png", "b.png", "sub/c.png")
    for index, row in enumerate(result.methods):
        values = [image.psnr_db[index] for image in result.images]
        assert row.psnr_db == pytest.approx(sum(values) / 3)
        assert row.gain_db == pytest.approx(row.psnr_db - result.methods[0].psnr_db)
        assert row.ms_per_megapixel is not None
        assert row.ms_per_megapixel > 0


def test_weights_of_one_condition_share_a_table(tmp_path: Path, folder: Path) -> None:
    paths = [
        weights_file(tmp_path, "sr-x2"),
        weights_file(tmp_path, "sr-x2", seed=1),
        weights_file(tmp_path, "sr-x4"),
    ]
    results = evaluated(folder, *(load_weights(str(path)) for path in paths)).conditions
    names = {
        result.label: [row.name for row in result.methods if row.is_weights] for result in results
    }
    assert names == {"bicubic x2": ["sr-x2-0", "sr-x2-1"], "bicubic x4": ["sr-x4-0"]}
    assert results[1].methods[0].name == "bicubic"


def test_weights_from_elsewhere_stand_beside_those_of_the_nearest_task(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [weights_file(tmp_path, "sr-x2"), weights_file(tmp_path, "restore")]
    places += [write_foreign(tmp_path / f"{kind}.pth", kind) for kind in ("compact", "fdncnn")]
    results = evaluated(folder, *(load_weights(str(place)) for place in places)).conditions
    names = {
        result.label: [row.name for row in result.methods if row.is_weights] for result in results
    }
    assert names == {"bicubic x2": ["sr-x2-0", "compact"], "restore": ["restore-0", "fdncnn"]}
    words = (
        "--weights",
        str(places[2]),
        "--strength",
        "0",
        "--report",
        str(tmp_path / "page.html"),
    )
    assert run(parse(str(folder), *words)) == 0
    bicubic, *_, ours = capsys.readouterr().out.split("\n\n")[1].splitlines()[1:]
    assert ours.split()[:3] == ["compact,", "strength", "0"]
    assert float(ours.split()[3]) == pytest.approx(float(bicubic.split()[1]), abs=0.02)
    assert "other-x2" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("task", "labels", "psnr_name"),
    [
        ("denoise", [f"noise of sigma {sigma}" for sigma in NOISE_SIGMAS], "PSNR-RGB"),
        ("dejpeg", [f"JPEG quality {quality}" for quality in JPEG_QUALITIES], "PSNR-Y"),
        ("restore", ["restore"], "PSNR-Y"),
    ],
)
def test_same_size_tasks_start_from_the_input(
    tmp_path: Path, folder: Path, task: str, labels: list[str], psnr_name: str
) -> None:
    weights = load_weights(str(weights_file(tmp_path, task)))
    results = evaluated(folder, weights, limit=2).conditions
    assert [result.label for result in results] == labels
    assert {result.psnr_name for result in results} == {psnr_name}
    for result in results:
        first = result.methods[0]
        assert (first.name, first.ms_per_megapixel, first.gain_db) == ("input", None, 0.0)
    psnr_db = [result.methods[0].psnr_db for result in results]
    assert psnr_db == sorted(psnr_db, reverse=task == "denoise")


def test_photo_task_is_measured_under_its_own_degradation() -> None:
    degradation = standard_degradation("photo-x2")
    (condition,) = conditions_for("photo-x2", degradation)
    assert condition.degradation is degradation
    assert condition.border_px == 2


def test_a_gray_image_under_jpeg_is_measured_as_it_is(tmp_path: Path, folder: Path) -> None:
    weights = load_weights(str(weights_file(tmp_path, "dejpeg")))
    (folder / "a.png").unlink()
    results = evaluated(folder, weights, limit=1).conditions
    truth = picture(53, 45, 1)
    for result, quality in zip(results, JPEG_QUALITIES, strict=True):
        worn = degrade(truth, jpeg(quality), np.random.default_rng(0))
        assert result.methods[0].psnr_db == pytest.approx(psnr_rgb(worn, truth))
        expected = ssim(worn[:, :, 0], truth[:, :, 0], data_range=255)
        assert result.methods[0].ssim == pytest.approx(expected)


def test_the_guard_looks_at_weights_and_at_nothing_else(folder: Path, sr_x2: Weights) -> None:
    evaluation = evaluated(folder, sr_x2, strength=0.0)
    (result,) = evaluation.conditions
    assert [row.deviation is None for row in result.methods] == [True, True, True, False]
    assert 0 < (result.methods[-1].deviation or 0) < 1
    assert evaluation.guard_share > 0
    assert f"{result.methods[-1].deviation:.2f}" in format_table(result).splitlines()[-1]


def test_noise_depends_on_seed_and_name_alone(tmp_path: Path, folder: Path) -> None:
    weights = load_weights(str(weights_file(tmp_path, "denoise")))
    everything = evaluated(folder, weights).conditions[0].images
    assert evaluated(folder, weights, limit=1).conditions[0].images == everything[:1]
    (folder / "a.png").unlink()
    assert evaluated(folder, weights).conditions[0].images == everything[1:]
    assert evaluated(folder, weights, seed=1).conditions[0].images != everything[1:]


def test_strips_show_every_method_and_the_truth(folder: Path, sr_x2: Weights) -> None:
    (result,) = evaluated(folder, sr_x2, num_strips=2).conditions
    labels = [[label for label, _, _ in strip.crops] for strip in result.strips]
    assert labels == [[*(row.name for row in result.methods), "truth"]] * 2
    assert all(data[8:12] == b"WEBP" for strip in result.strips for _, _, data in strip.crops)


def test_other_files_are_left_out_and_told(folder: Path, sr_x2: Weights) -> None:
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden").write_text("not looked at")
    evaluation = evaluated(folder, sr_x2)
    assert [key for key, _ in evaluation.left_out] == ["notes.txt"]
    assert len(evaluation.keys) == 3


def test_table_holds_every_method_in_line_and_stars_the_best(folder: Path, sr_x2: Weights) -> None:
    (result,) = evaluated(folder, sr_x2).conditions
    lines = format_table(result).splitlines()
    assert len(lines) == 1 + len(result.methods)
    best = max(result.methods, key=lambda row: row.psnr_db)
    assert [line.split()[0] for line in lines if line.endswith("*")] == [best.name]
    assert {len(line.removesuffix(" *")) for line in lines} == {len(lines[0])}


def test_command_prints_and_writes_json_and_page(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = weights_file(tmp_path, "sr-x2")
    page, figures = tmp_path / "out" / "page.html", tmp_path / "figures.json"
    args = parse(
        *(str(folder), "--weights", str(weights), "--limit", "2", "--device", "cpu"),
        *("--report", str(page), "--json", str(figures)),
    )
    assert run(args) == 0
    printed = capsys.readouterr().out
    document = json.loads(figures.read_text())
    (condition,) = document["conditions"]
    assert document["images"] == 2
    assert condition["methods"][0]["name"] == "bicubic"
    for row in condition["methods"]:
        assert f"{row['psnr_db']:.2f}" in printed
        assert f"{row['psnr_db']:.2f}" in page.read_text()
    HTMLParser().feed(page.read_text())
    for told in (
        "guard: the largest",
        "PSNR-Y",
        "Means over 2 images",
        "border of `scale` px",
        "threads",
        str(page),
    ):
        assert told in printed


def test_equal_pictures_are_infinitely_good_and_still_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(np.full((40, 40, 3), 90, dtype=np.uint8), tmp_path / "flat" / "flat.png")
    weights = weights_file(tmp_path, "sr-x2")
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    words = ("--weights", str(weights), "--report", str(page), "--json", str(figures))
    assert run(parse(str(tmp_path / "flat"), *words, "--strength", "0")) == 0
    assert "inf" in capsys.readouterr().out
    (condition,) = json.loads(figures.read_text())["conditions"]
    assert condition["methods"][0]["psnr_db"] is None
    assert condition["methods"][0]["gain_db"] == 0


def test_bad_input_is_one_clear_error(tmp_path: Path, folder: Path) -> None:
    words = ("--weights", str(weights_file(tmp_path, "sr-x2")))
    with pytest.raises(DataError, match="s3://bucket/set: a bucket, expected a folder"):
        run(parse("s3://bucket/set", *words))
    with pytest.raises(DataError, match="no such folder"):
        run(parse(str(tmp_path / "missing"), *words))
    with pytest.raises(DataError, match="is a file, expected a folder"):
        run(parse(str(folder / "a.png"), *words))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no image to evaluate"):
        run(parse(str(tmp_path / "empty"), *words))
    with pytest.raises(WeightsError, match="sr-x9"):
        run(parse(str(folder), "--weights", "sr-x9"))
    with pytest.raises(ConfigError, match="--limit: expected 1 or more, found 0"):
        run(parse(str(folder), *words, "--limit", "0"))
    with pytest.raises(ConfigError, match="--seed"):
        run(parse(str(folder), *words, "--seed", "-1"))
    with pytest.raises(ConfigError, match="--device gpu: expected cpu, cuda or cuda:N; torch sees"):
        run(parse(str(folder), *words, "--device", "gpu"))
    with pytest.raises(DataError, match="figures can't be written"):
        run(parse(str(folder), *words, "--limit", "1", "--json", str(tmp_path)))


def test_broken_image_stops_with_its_name(folder: Path, sr_x2: Weights) -> None:
    data = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"^a\.png: "):
        evaluated(folder, sr_x2)


@pytest.mark.parametrize(("side", "enough"), [(14, False), (15, False), (16, True)])
def test_image_smaller_than_the_window_is_named(
    tmp_path: Path, sr_x2: Weights, side: int, enough: bool
) -> None:
    save(picture(40, side), tmp_path / "small" / "tiny.png")
    if enough:
        assert evaluated(tmp_path / "small", sr_x2).keys == ("tiny.png",)
        return
    with pytest.raises(DataError, match=rf"tiny.png: 40x{side} px is too small .* 15 px a side"):
        evaluated(tmp_path / "small", sr_x2)
