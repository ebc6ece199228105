"""`--weights auto`: what is chosen for what is seen, and what a run with it goes by."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import pillow, saved
from PIL import Image as PillowImage

from pipelines import auto
from pipelines.auto import BOUNDS, CANDIDATES, Candidate, choose, together
from resnet_core.degradation import degrade
from resnet_core.images import Image, decode
from resnet_core.inspection import Findings, inspect_image
from resnet_core.standard_degradations import gaussian_noise

CLEAN = Findings(
    noise_levels=1.0,
    weakest_levels=1.0,
    grain_levels=0.8,
    colour_levels=0.5,
    sharpness=1.4,
    file_quality=None,
    blocks_quality=None,
)
UNSEEN = dict.fromkeys(
    ("noise_levels", "weakest_levels", "grain_levels", "colour_levels", "sharpness")
)
NOISE = {"noise_levels": 10.0, "weakest_levels": 10.0, "grain_levels": 5.0, "colour_levels": 7.0}


@pytest.mark.parametrize(
    ("seen", "weights"),
    [
        ({}, "none"),
        (UNSEEN, "none"),
        ({"noise_levels": 0.0, "grain_levels": 0.0}, "none"),
        (NOISE, "denoise"),
        (NOISE | {"file_quality": 95}, "denoise"),
        (NOISE | {"colour_levels": 2.0}, "restore"),
        ({"file_quality": 40}, "dejpeg"),
        ({"blocks_quality": 40}, "dejpeg"),
        ({"file_quality": 95, "blocks_quality": 40}, "dejpeg"),
        ({"file_quality": 98}, "none"),
        (UNSEEN | {"file_quality": 40}, "dejpeg"),
        ({"noise_levels": 1.0, "grain_levels": 6.0}, "restore"),
        ({"noise_levels": 1.0, "grain_levels": 6.0, "file_quality": 60}, "restore"),
    ],
)
def test_what_is_seen_decides(seen: dict[str, Any], weights: str) -> None:
    assert choose(replace(CLEAN, **seen)) == weights


def test_each_photograph_gets_what_was_done_to_it(examples_dir: Path) -> None:
    for name in ("colosseum.webp", "indri.avif", "lighthouse.png"):
        picture = pillow(decode((examples_dir / name).read_bytes()).pixels)
        # Smaller, so that nothing is left of their own compression.
        picture = picture.resize(
            (picture.width * 4 // 5, picture.height * 4 // 5), PillowImage.Resampling.LANCZOS
        )
        image = Image(pixels=np.array(picture), format="PNG")
        assert choose(inspect_image(image)) == "none"
        noisy = degrade(image.pixels, gaussian_noise(20), np.random.default_rng(0))
        assert choose(inspect_image(replace(image, pixels=noisy))) == "denoise"
        compressed = decode(saved(picture, "JPEG", quality=30))
        assert choose(inspect_image(compressed)) == "dejpeg"
        again = replace(compressed, jpeg_quality=None)
        assert choose(inspect_image(again)) == "dejpeg"
        both = decode(saved(pillow(noisy), "JPEG", quality=50))
        assert choose(inspect_image(both)) == "restore"


def test_a_run_goes_by_all_that_decides_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [Candidate(name=name, sha256=name, task=name) for name in CANDIDATES]
    first = together(candidates)
    assert first == together(candidates)
    assert len(first.sha256) == 64
    others = [together([replace(candidates[0], sha256="other"), *candidates[1:]])]
    monkeypatch.setattr(auto, "RULE", auto.RULE + 1)
    others.append(together(candidates))
    monkeypatch.setattr(auto, "BOUNDS", replace(BOUNDS, noise_levels=1.0))
    others.append(together(candidates))
    assert len({first.sha256, *(each.sha256 for each in others)}) == 4
