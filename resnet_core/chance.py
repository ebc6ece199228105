"""Ranges and choices that chance decides: how they are checked, and how one is drawn.

All draws come from the generator that is handed in; `generator` makes those of a training run.
Checks raise ConfigError, which names the setting, what was expected and what was found.
"""

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import TypeVar

import numpy as np

from resnet_core.errors import ConfigError

Range = tuple[float, float]
"""Lowest and highest value."""

_Choice = TypeVar("_Choice")


class Use(IntEnum):
    """What the draws of a run decide, each from generators of its own."""

    EXAMPLE = 1
    PATCH = 2
    ORDER = 3
    VALIDATION = 4


def generator(use: Use, seed: int, *place: int) -> np.random.Generator:
    """The one of a place in a run: as many numbers for each place of a use.

    numpy makes the same one of (seed, 5) and (seed, 5, 0), so the use, which isn't 0, tells them
    apart.
    """
    return np.random.default_rng((seed, use, *place))


def check_range(what: str, found: Range, *, low: float, high: float) -> None:
    """Two values in order, both from `low` to `high`."""
    if len(found) != 2 or not low <= found[0] <= found[1] <= high:
        raise ConfigError(f"{what}: expected a range within {low:g}..{high:g}, found {found}")


def check_range_around_one(what: str, found: Range, *, low: float, high: float) -> None:
    """A range as in `check_range` that 1 lies in."""
    check_range(what, found, low=low, high=high)
    if not found[0] <= 1.0 <= found[1]:
        raise ConfigError(f"{what}: expected 1 within it, found {found}")


def check_odd_range(what: str, found: tuple[int, int], *, low: int, high: int) -> None:
    """A range as in `check_range` of two odd numbers."""
    check_range(what, found, low=low, high=high)
    if not found[0] % 2 == found[1] % 2 == 1:
        raise ConfigError(f"{what}: expected odd numbers, found {found}")


def check_probability(what: str, found: float) -> None:
    """From 0 to 1."""
    if not 0.0 <= found <= 1.0:
        raise ConfigError(f"{what}: expected 0..1, found {found}")


def check_probabilities(what: str, found: Sequence[float], count: int) -> None:
    """So many, none below 0, sum 1."""
    if len(found) != count or min(found, default=0.0) < 0.0 or not math.isclose(sum(found), 1.0):
        raise ConfigError(f"{what}: expected {count} of sum 1, found {found}")


def check_choices(what: str, found: Sequence[str], known: Sequence[str]) -> None:
    """One or more of the known ones."""
    if not found or not set(found) <= set(known):
        raise ConfigError(f"{what}: expected one or more of {', '.join(known)}, found {found}")


def draw_choice(rng: np.random.Generator, choices: Sequence[_Choice]) -> _Choice:
    """One of the choices, all alike; from a single one nothing is drawn."""
    return choices[0] if len(choices) == 1 else choices[int(rng.integers(len(choices)))]


def draw_weighted(
    rng: np.random.Generator, choices: Sequence[_Choice], probabilities: Sequence[float]
) -> _Choice:
    """One of the choices, each with its probability."""
    drawn = rng.random()
    for choice, probability in zip(choices, probabilities, strict=True):
        drawn -= probability
        if drawn < 0.0:
            return choice
    return choices[-1]


def draw_odd(rng: np.random.Generator, odd_range: tuple[int, int]) -> int:
    """One of the odd numbers from the lowest to the highest, both odd, all alike."""
    low, high = odd_range
    return low + 2 * int(rng.integers((high - low) // 2, endpoint=True))
