"""How a good photograph gets worse: what makes the input of training and evaluation.

A `Degradation` is a fixed list of frozen steps (`degradation_steps`); all chance comes from the
generator that is handed in, so that one seed gives one picture. A degraded picture is what a file
holds, uint8. `standard_degradations` has the one of each task.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, cast, get_args

import numpy as np

from resnet_core.degradation_steps import (
    Downscale,
    OneOf,
    RandomResize,
    ResizeToResult,
    Sometimes,
    Step,
    apply_steps,
    check_steps,
)
from resnet_core.errors import ConfigError, did_you_mean
from resnet_core.levels import Levels, to_levels

_STEPS: Final[dict[str, type[Any]]] = {kind.__name__: kind for kind in get_args(Step)}
_DRAWN: Final = math.nan
"""The scale of a picture whose size was drawn."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What stands between a target and its input.

    `name`: the task it belongs to. `scale`: target side / input side, exactly; steps of random size
    may lie between, if a `ResizeToResult` ends them. `steps`: in order.
    """

    name: str
    scale: int
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        check_steps(f"degradation {self.name}", self.steps)
        if self.scale < 1:
            raise ConfigError(f"degradation {self.name}: scale {self.scale}, expected 1 or more")
        found = _scale_after(self.steps, 1.0, self.scale)
        if found != self.scale:
            gives = "a size that is drawn" if math.isnan(found) else f"{found:g}"
            raise ConfigError(
                f"degradation {self.name}: scale {self.scale}, its steps give {gives}"
            )


def degrade(image: Levels, degradation: Degradation, rng: np.random.Generator) -> Levels:
    """The degraded `image`: uint8 HWC in and out, C = 1 or 3, 1 / scale of its size.

    Raises ValueError where a side is no multiple of the scale (see `crop_to_multiple`).
    """
    _check_image(image)
    height, width = image.shape[:2]
    scale = degradation.scale
    if height % scale or width % scale:
        raise ValueError(f"{width}x{height} px: expected multiples of {scale}")
    return to_levels(apply_steps(degradation.steps, image, rng, (height // scale, width // scale)))


def crop_to_multiple(image: Levels, scale: int) -> Levels:
    """`image` (HWC) without what `scale` doesn't divide at bottom and right; a view."""
    height, width = image.shape[:2]
    if min(height, width) < scale:
        raise ValueError(f"{width}x{height} px: smaller than the scale {scale}")
    return image[: height - height % scale, : width - width % scale]


def describe(degradation: Degradation) -> dict[str, Any]:
    """The degradation as plain JSON values, for the metadata of weights; see `from_description`."""
    return {
        "name": degradation.name,
        "scale": degradation.scale,
        "steps": _described(degradation.steps),
    }


def from_description(description: Mapping[str, Any]) -> Degradation:
    """The degradation that `describe` told of. Raises ConfigError that names what can't be read."""
    values = _checked_fields("degradation", description, ("name", "scale", "steps"))
    try:
        steps = _read(values["steps"])
        return Degradation(name=values["name"], scale=values["scale"], steps=steps)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(f"degradation can't be read: {error}") from error


def _scale_after(steps: Sequence[Step], scale: float, whole: int) -> float:
    """Target side / picture side after the steps, `_DRAWN` where chance decides it.

    `scale` is that before them, `whole` that of the result.
    """
    for step in steps:
        match step:
            case Downscale():
                if math.isnan(scale):
                    raise ConfigError("Downscale after a random size: expected ResizeToResult")
                scale *= step.scale
            case RandomResize():
                scale = _DRAWN
            case ResizeToResult():
                scale = float(whole)
            case Sometimes():
                scale = _same(scale, _scale_after(step.steps, scale, whole))
            case OneOf():
                scale = _same(*(_scale_after(row, scale, whole) for row in step.rows))
            case _:
                pass
    return scale


def _same(*scales: float) -> float:
    return scales[0] if len(set(scales)) == 1 else _DRAWN


def _described(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_described(each) for each in cast("tuple[Any, ...]", value)]
    if isinstance(value, get_args(Step)):
        named = {field.name: _described(getattr(value, field.name)) for field in fields(value)}
        return {"step": type(value).__name__, **named}
    return value


def _read(description: Any) -> Any:
    if isinstance(description, list):
        return tuple(_read(each) for each in cast("list[Any]", description))
    if isinstance(description, Mapping):
        return _read_step(cast("Mapping[str, Any]", description))
    return description


def _read_step(description: Mapping[str, Any]) -> Step:
    name = str(description.get("step"))
    if name not in _STEPS:
        raise ConfigError(f"no degradation step {name!r}; {did_you_mean(name, _STEPS)}")
    kind = _STEPS[name]
    names = ("step", *(field.name for field in fields(kind)))
    values = _checked_fields(f"degradation step {name}", description, names)
    del values["step"]
    return kind(**{key: _read(value) for key, value in values.items()})


def _checked_fields(
    what: str, description: Mapping[str, Any], names: tuple[str, ...]
) -> dict[str, Any]:
    if set(description) != set(names):
        raise ConfigError(f"{what}: expected {sorted(names)}, found {sorted(description)}")
    return dict(description)


def _check_image(image: Levels) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"expected uint8 HWC with 1 or 3 channels, found {image.dtype} {image.shape}"
        )
