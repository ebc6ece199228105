"""Which weights are served, by name, and what is told of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.problems import ProblemError
from resnet_core.errors import ConfigError, WeightsError, did_you_mean
from resnet_core.weights import Weights, load_weights, packaged_weights

USUAL = "sr-x2"
_KEY = "weights"


@dataclass(frozen=True, kw_only=True)
class ServedWeights:
    """One network: its card, and where replicas find it."""

    name: str
    location: str
    """A name from the package, or the path of a file that every machine has."""
    sha256: str
    task: str
    scale: int
    parameters: int
    licence: str

    @property
    def model_id(self) -> str:
        """What a replica loads by: another content is another model."""
        return f"{self.sha256}:{self.location}"

    @classmethod
    def of(cls, weights: Weights, location: str) -> "ServedWeights":
        return cls(
            name=weights.name,
            location=location,
            sha256=weights.sha256,
            task=weights.metadata.task,
            scale=weights.scale,
            parameters=weights.network.num_parameters,
            licence=weights.metadata.licence,
        )


def load_model(model_id: str) -> Weights:
    """The weights of a `model_id`. WeightsError where the place holds others by now."""
    sha256, _, location = model_id.partition(":")
    weights = load_weights(location)
    if weights.sha256 != sha256:
        raise WeightsError(
            f"weights {location}: expected sha256 {sha256[:12]}, found {weights.sha256[:12]}"
        )
    return weights


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All that is served, the default first."""

    served: tuple[ServedWeights, ...]

    @property
    def default(self) -> ServedWeights:
        return self.served[0]

    def find(self, name: str | None) -> ServedWeights:
        """By name; None is the default. ProblemError 404 that offers the near name."""
        if name is None:
            return self.default
        names = {each.name: each for each in self.served}
        if name not in names:
            hint = did_you_mean(name, names)
            raise ProblemError("unknown-weights", f"no weights named {name!r} are served; {hint}")
        return names[name]


def usual_weights() -> tuple[str, ...]:
    """All of the package's, the most general first."""
    return tuple(sorted(packaged_weights(), key=lambda name: (name != USUAL, name)))


def load_catalogue(locations: Sequence[str]) -> Catalogue:
    """Reads the weights at all locations. WeightsError, and ConfigError for two of one name."""
    if not locations:
        raise ConfigError("no weights to serve: expected at least one name or file")
    served: dict[str, ServedWeights] = {}
    for location in locations:
        each = ServedWeights.of(load_weights(location), location)
        if each.name in served:
            raise ConfigError(f"two weights are named {each.name!r}: rename one of the files")
        served[each.name] = each
    return Catalogue(served=tuple(served.values()))


def locations_of(user_config: Mapping[str, Any]) -> tuple[str, ...]:
    """What a configuration `{"weights": [...]}` names. ConfigError for any other."""
    for name in user_config:
        if name != _KEY:
            raise ConfigError(
                f"user_config has an unknown key {name!r}; {did_you_mean(name, [_KEY])}"
            )
    found = user_config.get(_KEY)
    if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
        raise ConfigError(f"user_config: weights is {found!r}, expected a list of names or files")
    return tuple(found)
