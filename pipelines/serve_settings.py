"""What can be set about serving: one typed object for the command and for configuration files."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from pipelines.argument_types import SMALLEST_TILE_PX
from pipelines.catalogue import usual_weights
from resnet_core.enhancer import EnhanceSettings, Precision
from resnet_core.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Raises ConfigError for a value that can't be."""

    weights: tuple[str, ...] = ()
    """Names or files, the default first; none: all of the package's."""
    precision: Precision = "auto"
    tile_px: int = EnhanceSettings.tile_px
    batch_px: int = 0
    """Input pixels that one batch may have; 0: 2,000,000 on GPUs and one window on CPUs, where
    batches gain nothing."""
    threads: int = 0
    """For computing, in each network replica; 0: as many as the CPUs it holds."""

    max_bytes: int = 32 * 1024**2
    """Of a body."""
    max_pixels: int = 25_000_000
    """Of an image."""
    max_requests: int = 64
    """In hand at once, in each ingress replica, from the first byte to the last."""
    max_queued_pixels: int = 50_000_000
    """Of the images in hand at once, in each ingress replica."""
    deadline_s: float = 60.0
    """For each request, from its first byte; a client may ask for less."""
    body_timeout_s: float = 30.0
    """How long a body may take to come."""

    min_replicas: int = 1
    """Of the network; 0: none until the first request."""
    max_replicas: int = 1
    target_requests: float = 4.0
    """In each network replica; more add replicas."""
    upscale_delay_s: float = 5.0
    downscale_delay_s: float = 300.0
    network_cpus: float = 1.0
    """That each network replica holds."""
    network_gpus: float = 0.0
    ingress_replicas: int = 1
    ingress_cpus: float = 1.0
    """That each ingress replica holds, for decoding and encoding."""

    keys_file: str | None = None
    """API keys, one a line; those of RESRAY_API_KEYS count too. Read where an ingress runs."""
    require_keys: bool = False
    """Don't start without any."""
    access_log: str = "-"
    """A line of JSON for each request: "-" standard error, "" none, else a file."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            _check_kind(spec.name, getattr(self, spec.name), spec.default)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not value >= least:
                raise ConfigError(f"{name} is {value}, expected at least {least:g}")
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision is {self.precision!r}, expected {', '.join(get_args(Precision))}"
            )
        if self.max_replicas < self.min_replicas:
            raise ConfigError(
                f"max_replicas is {self.max_replicas}, expected at least min_replicas,"
                f" {self.min_replicas}"
            )

    @property
    def served(self) -> tuple[str, ...]:
        return self.weights or usual_weights()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "ServeSettings":
        """From a configuration file. ConfigError for a key that isn't known, with the near one."""
        names = [spec.name for spec in fields(cls)]
        for name in values:
            if name not in names:
                raise ConfigError(f"unknown setting {name!r}; {did_you_mean(name, names)}")
        given = dict(values)
        if isinstance(given.get("weights"), list):
            given["weights"] = tuple(given["weights"])
        return cls(**given)


_LEAST = {
    "tile_px": SMALLEST_TILE_PX,
    "batch_px": 0,
    "threads": 0,
    "max_bytes": 1,
    "max_pixels": 1,
    "max_requests": 1,
    "max_queued_pixels": 1,
    "deadline_s": 0.001,
    "body_timeout_s": 0.001,
    "min_replicas": 0,
    "max_replicas": 1,
    "target_requests": 0.01,
    "upscale_delay_s": 0,
    "downscale_delay_s": 0,
    "network_cpus": 0,
    "network_gpus": 0,
    "ingress_replicas": 1,
    "ingress_cpus": 0,
}


def _check_kind(name: str, value: Any, default: Any) -> None:
    """A value is of its default's type; a whole number will do for a float."""
    if name == "keys_file":
        fits, expected = value is None or isinstance(value, str), "a path"
    elif name == "weights":
        fits = isinstance(value, tuple) and all(isinstance(each, str) for each in value)
        expected = "a list of names or files"
    elif isinstance(default, bool):
        fits, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, float):
        fits, expected = type(value) in (int, float), "a number"
    elif isinstance(default, int):
        fits, expected = type(value) is int, "a whole number"
    else:
        fits, expected = isinstance(value, str), "text"
    if not fits:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")
