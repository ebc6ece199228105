"""Training recipes: functions that return the whole configuration of a run."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from resnet_core.errors import ConfigError, did_you_mean
from resnet_core.network import NetworkConfig
from resnet_core.standard_degradations import bicubic, standard_degradation
from resnet_core.training import TrainingRecipe


def super_resolution(scale: int) -> TrainingRecipe:
    """Enlargement of clean photographs.

    EDSR (Lim et al. 2017, arXiv:1707.02921, sec. 4.2) for loss, batch and augmentation; half a
    cosine instead of its steps, for a schedule that ends when the time does. Kernels are plain:
    wider ones in training (`expansion`, as in ECBSR) take longer.
    """
    return TrainingRecipe(
        name=f"sr-x{scale}",
        network=NetworkConfig(scale=scale, num_blocks=16, channels=48),
        degradation=bicubic(scale),
        source="EDSR, arXiv:1707.02921, sec. 4.2",
    )


def sr_x2() -> TrainingRecipe:
    """Twice the size."""
    return super_resolution(2)


def sr_x3() -> TrainingRecipe:
    """Three times the size; sooner from sr-x2 (`--from sr-x2`)."""
    return super_resolution(3)


def sr_x4() -> TrainingRecipe:
    """Four times the size; sooner from sr-x2 (`--from sr-x2`)."""
    return super_resolution(4)


def same_size(task: str, source: str) -> TrainingRecipe:
    """Clean-up at the same size, on the image unshuffled by 2: four times cheaper (FFDNet, Zhang
    et al. 2018, arXiv:1710.04026, sec. III-B)."""
    return TrainingRecipe(
        name=task,
        network=NetworkConfig(scale=1, num_blocks=12, channels=64, unshuffle=2),
        degradation=standard_degradation(task),
        source=source,
        input_px=64,
    )


def denoise() -> TrainingRecipe:
    """Gaussian noise of a level that isn't told, sigma 0 to 50."""
    return same_size("denoise", "DnCNN, arXiv:1608.03981, sec. IV-A; FFDNet, arXiv:1710.04026")


def dejpeg() -> TrainingRecipe:
    """The blocks and rings of JPEG of a quality that isn't told, 10 to 95, saved once or twice."""
    return same_size("dejpeg", "DnCNN, arXiv:1608.03981, sec. IV-A; FBCNN, arXiv:2109.14573")


def restore() -> TrainingRecipe:
    """An ordinary worn photograph: mild blur, another size, noise and JPEG, each twice."""
    return same_size("restore", "Real-ESRGAN, arXiv:2107.10833, sec. 3; BSRGAN, arXiv:2103.14006")


def photo_x2() -> TrainingRecipe:
    """Twice the size of a worn photograph."""
    return replace(
        super_resolution(2),
        name="photo-x2",
        degradation=standard_degradation("photo-x2"),
        source="Real-ESRGAN, arXiv:2107.10833, sec. 3; EDSR, arXiv:1707.02921, sec. 4.2",
    )


def fast(recipe: TrainingRecipe) -> TrainingRecipe:
    """The same with an eighth of the multiply-adds."""
    network = replace(recipe.network, num_blocks=4, channels=32)
    return replace(recipe, name=f"{recipe.name}-fast", network=network)


def sr_x2_fast() -> TrainingRecipe:
    """Twice the size, in a fraction of the time."""
    return fast(sr_x2())


def sr_x4_fast() -> TrainingRecipe:
    """Four times the size, in a fraction of the time."""
    return fast(sr_x4())


RECIPES: dict[str, Callable[[], TrainingRecipe]] = {
    "sr-x2": sr_x2,
    "sr-x3": sr_x3,
    "sr-x4": sr_x4,
    "denoise": denoise,
    "dejpeg": dejpeg,
    "restore": restore,
    "photo-x2": photo_x2,
    "sr-x2-fast": sr_x2_fast,
    "sr-x4-fast": sr_x4_fast,
}


def build_recipe(name: str, overrides: Sequence[str] = ()) -> TrainingRecipe:
    """A recipe by name, with `field=value` overrides; `network.channels=32` reaches inside.

    Raises ConfigError for an unknown recipe or field (the near one is offered), and for a value of
    another kind than the field's.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe named {name!r}; {did_you_mean(name, RECIPES)}")
    recipe = RECIPES[name]()
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected name=value")
        recipe = _with(recipe, path.split("."), value, override)
    return recipe


def describe_fields(config: Any) -> str:
    """One line for each field that --set reaches, with its value: for `--help`."""
    return "\n".join(f"  {name}={_shown(value)}" for name, value in field_values(config))


def field_values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields that --set reaches; `network.channels` lies in a field of its own."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value) and field.name != "degradation":
            yield from field_values(value, f"{prefix}{field.name}.")
        elif type(value) in _KINDS and field.name != "source":
            yield f"{prefix}{field.name}", value


def _shown(value: object) -> str:
    return json.dumps(value) if type(value) is bool else str(value)


def _with(config: Any, path: Sequence[str], value: str, override: str) -> Any:
    name, *rest = path
    if name == "degradation":
        raise ConfigError(
            f"--set {override}: a degradation is made in Python, in a recipe of its own"
            " (pipelines/recipes.py)"
        )
    names = [field.name for field in fields(config)]
    if name not in names:
        raise ConfigError(
            f"--set {override}: {type(config).__name__} has no field {name!r}; "
            f"{did_you_mean(name, names)}"
        )
    found = getattr(config, name)
    if rest:
        if not is_dataclass(found):
            raise ConfigError(f"--set {override}: {name} has no fields of its own")
        return replace(config, **{name: _with(found, rest, value, override)})
    return replace(config, **{name: _parsed(value, type(found), override)})


def _parsed(value: str, kind: type, override: str) -> Any:
    if kind is str:
        return value
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = None
    if kind is float and type(parsed) is int:
        parsed = float(parsed)
    if kind not in _KINDS or type(parsed) is not kind:
        raise ConfigError(f"--set {override}: expected {_KINDS.get(kind, 'one of its fields')}")
    return parsed


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
