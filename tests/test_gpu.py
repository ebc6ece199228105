"""On a GPU: the pixels and the training of the CPU, the same each time, through every engine."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs_for_tests import make_photograph, write_photographs
from PIL import Image as PillowImage
from serving_for_tests import Client, free_port
from training_for_tests import SETS, assert_same_weights, small_recipe
from weights_for_tests import make_weights

from pipelines.cli import main
from resnet_core.enhancer import Enhancer, EnhanceSettings
from resnet_core.network import NetworkConfig
from resnet_core.patches import PatchSampler, cut_patches
from resnet_core.training import Trainer, TrainingRecipe
from resnet_core.weights import load_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
STEPS = 6
ROOT = Path(__file__).resolve().parent.parent


def difference(weights: str, pixels: np.ndarray, **settings: object) -> np.ndarray:
    """Between the two devices, in levels of 255."""
    chosen = EnhanceSettings(tile_px=64, **settings)  # pyright: ignore[reportArgumentType]
    cpu, gpu = (
        Enhancer(load_weights(weights), chosen, device=device).enhance_pixels(pixels).astype(float)
        for device in ("cpu", "cuda")
    )
    return np.abs(gpu - cpu) * 255 / np.iinfo(pixels.dtype).max


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_float32_gives_the_pixels_of_the_cpu(dtype: type, channels: int) -> None:
    levels = make_photograph(131, 178)[:, :, :channels].astype(dtype)
    found = difference("sr-x2", levels * (np.iinfo(dtype).max // 255), precision="float32")
    assert found.max() <= 1
    assert found.mean() < 0.001


def test_bfloat16_differs_by_its_own_rounding_alone() -> None:
    found = difference("sr-x2", make_photograph(131, 178), precision="bfloat16")
    assert 0 < found.mean() < 0.2
    assert found.max() <= 6


def test_windows_in_batches_give_what_each_gives_alone() -> None:
    weights = make_weights(NetworkConfig(scale=2, num_blocks=2, channels=16))
    pictures = [make_photograph(40, 50, seed=i) for i in range(8)]
    alone, together = (
        Enhancer(weights, EnhanceSettings(precision="float32"), device="cuda", batch_px=batch_px)
        for batch_px in (None, 10**6)
    )
    for picture in pictures:
        a, b = (one.enhance_pixels(picture).astype(int) for one in (alone, together))
        assert np.abs(a - b).max() <= 1


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    PillowImage.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def sampler(recipe: TrainingRecipe) -> PatchSampler:
    patches = cut_patches(make_photograph(260, 260), patch_px=64)
    return recipe.sampler([patches], [len(patches)], patch_px=64)


def trained(recipe: TrainingRecipe, device: str, *, resumed_at: int = 0) -> tuple[Trainer, list]:
    trainer, batches, losses = Trainer(recipe, device=device), sampler(recipe), list[float]()
    for step in range(STEPS):
        losses.append(trainer.step(*batches.batch(step)).item())
        if step + 1 == resumed_at:
            state, trainer = trainer.state(), Trainer(recipe, device=device)
            trainer.load_state(state)
    return trainer, losses


def test_training_goes_as_on_the_cpu() -> None:
    recipe = small_recipe()
    assert trained(recipe, "cuda")[1] == pytest.approx(trained(recipe, "cpu")[1], rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("resumed_at", [0, 3])
def test_training_gives_the_same_bytes_again_and_resumed(precision: str, resumed_at: int) -> None:
    recipe = small_recipe(precision=precision)
    once, again = trained(recipe, "cuda")[0], trained(recipe, "cuda", resumed_at=resumed_at)[0]
    assert_same_weights(once.averaged(), again.averaged(), atol=0)


@pytest.mark.ray
def test_train_and_enhance_take_the_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "x2"
    photographs = write_photographs(tmp_path / "photographs", 8, height=400, width=420)
    train = ["train", "sr-x2", "--data", str(photographs), "--output", str(output), "--use-gpu"]
    assert main([*train, *SETS, "--set", "precision=bfloat16"]) == 0
    assert "ended after step 6" in capsys.readouterr().out
    weights = output / "sr-x2.safetensors"
    enhanced = tmp_path / "enhanced"
    # Two workers share the GPU, each with its half.
    enhance = ["enhance", str(photographs), str(enhanced), "--weights", str(weights)]
    assert main([*enhance, "--workers", "2", "--precision", "float32"]) == 0
    settings = EnhanceSettings(precision="float32")
    expected = Enhancer(load_weights(str(weights)), settings, device="cuda")
    for source in photographs.iterdir():
        pixels = np.asarray(PillowImage.open(source))
        found = np.asarray(PillowImage.open(enhanced / source.name)).astype(int)
        assert np.abs(found - expected.enhance_pixels(pixels)).max() <= 1


@pytest.mark.ray
def test_the_endpoint_takes_the_gpu() -> None:
    port = free_port()
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert f":{port}" in process.stdout.readline()
        picture = make_photograph(120, 150)
        answer = Client(port=port).enhance(png(picture), weights="sr-x2")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=600)
    assert answer.status == 200
    found = np.asarray(PillowImage.open(io.BytesIO(answer.body))).astype(int)
    expected = Enhancer(load_weights("sr-x2"), device="cuda").enhance_pixels(picture)
    assert np.abs(found - expected).max() <= 1
