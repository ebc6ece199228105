"""The academic test sets, which aren't shipped: RESRAY_BENCH_DIR names the folder that has them."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

VARIABLE = "RESRAY_BENCH_DIR"


def bench_images(name: str) -> list[NDArray[np.uint8]]:
    """The images of a set ("set5"), uint8 HWC RGB, in the order of names; skips without them."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} isn't set: it names the folder that holds set5/, set14/ ...")
    paths = sorted(Path(folder, name).glob("*"))
    assert paths, f"no images in {name} of {VARIABLE}"
    return [read_rgb(path) for path in paths]


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """uint8 HWC RGB."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))
