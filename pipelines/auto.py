"""`--weights auto`: which weights an image gets, told from what it shows of its wear.

The size stays: only whoever asks knows whether a picture is to be larger. The bounds were set on
the photographs that training validates on, by `docs/auto.py`; docs/auto.md has what they come to.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

from resnet_core.inspection import Findings

AUTO: Final = "auto"
CANDIDATES: Final = ("denoise", "dejpeg", "restore")
"""Tasks, and the names of their weights in the package."""
RULE: Final = 2
"""Of looking and choosing: raised where an image may be judged otherwise under the same bounds."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """From where on wear is worth taking away, and what tells its kind."""

    noise_levels: float = 3.0
    grain_levels: float = 1.5
    """Less would take fine film grain for wear."""
    grain_of_noise: float = 1.75
    """Grain so many times as strong as noise was noise before the picture was blurred, resized or
    compressed; it may be as strong as that in a picture's own structure."""
    white_colour_of_noise: float = 0.35
    """Noise whose share in colour is less isn't white: the channels have it in common, or it was
    blurred or compressed."""
    clean_quality: int = 88
    """JPEG of this quality and above stays: writing it again would cost what is gained."""


BOUNDS: Final = Bounds()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Weights that may be chosen."""

    name: str
    sha256: str
    task: str


NO_WEIGHTS: Final = Candidate(name="none", sha256="", task="")
"""The image stays as it is."""


def choose(found: Findings, bounds: Bounds = BOUNDS) -> str:
    """The name of a candidate, or "none", for an image that shows this."""
    noise, grain = found.noise_levels or 0.0, found.grain_levels or 0.0
    weakest = found.weakest_levels or 0.0
    if noise >= bounds.noise_levels:
        share = (found.colour_levels or 0.0) / noise
        return "denoise" if share >= bounds.white_colour_of_noise else "restore"
    if grain >= max(bounds.grain_levels, bounds.grain_of_noise * weakest):
        return "restore"
    is_compressed = found.jpeg_quality is not None and found.jpeg_quality < bounds.clean_quality
    return "dejpeg" if is_compressed else NO_WEIGHTS.name


def together(candidates: Iterable[Candidate]) -> Candidate:
    """What a run with `auto` has as its weights: the hash is of all that decides a choice."""
    decisive = [RULE, asdict(BOUNDS), *(each.sha256 for each in candidates)]
    sha256 = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
    return Candidate(name=AUTO, sha256=sha256, task="")
