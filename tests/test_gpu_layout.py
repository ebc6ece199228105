"""Where Ray has GPUs a bulk run has other stages, and its workers share them: here on CPUs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from photographs_for_tests import write_photographs
from PIL import Image as PillowImage
from weights_for_tests import write_weights

from cluster.connect import set_environment
from pipelines.cli import main
from resnet_core.enhancer import Enhancer
from resnet_core.weights import load_weights


@pytest.fixture(scope="module")
def _one_gpu() -> Iterator[None]:
    """A Ray that believes in one; torch doesn't."""
    set_environment()
    ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.usefixtures("_one_gpu")
def test_two_workers_share_a_gpu_and_give_what_one_image_gives(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photographs", 12, height=60, width=80)
    (photographs / "broken.png").write_bytes(b"no picture")
    weights = str(write_weights(tmp_path / "small.safetensors"))
    target = tmp_path / "out"
    arguments = ["enhance", str(photographs), str(target), "--weights", weights]
    assert main([*arguments, "--workers", "2", "--precision", "float32"]) == 2
    enhancer = Enhancer(load_weights(weights), device="cpu")
    for source in photographs.glob("photograph-*.png"):
        expected = enhancer.enhance_pixels(np.asarray(PillowImage.open(source)))
        found = np.asarray(PillowImage.open(target / source.name)).astype(int)
        assert np.abs(found - expected).max() <= 1
    assert not (target / "broken.png").exists()
