"""Weights files: one `.safetensors` with the folded network and all that is known of it.

The metadata is one JSON object under the key `resray`. A file without it is of another project
(`foreign_network`), and so is a `.pth`. No object is ever unpickled.
"""

import hashlib
import io
import json
import math
import os
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors

from resnet_core.degradation import Degradation, describe, from_description
from resnet_core.errors import ConfigError, DataError, WeightsError, did_you_mean
from resnet_core.foreign_network import ForeignNetwork
from resnet_core.network import NetworkConfig, ResidualNetwork

FORMAT_VERSION = 1
METADATA_KEY = "resray"
SUFFIX = ".safetensors"
PICKLED = (".pth", ".pt", ".ckpt")
UNKNOWN = "not known"
_MOST_CLAIMED = 4
"""Times a file's bytes that its tensors may have: those that share values are written once."""
PACKAGED = Path(__file__).parent / "pretrained"

_T = TypeVar("_T", "NetworkConfig", "WeightsMetadata")


@dataclass(frozen=True, kw_only=True)
class WeightsMetadata:
    """What a weights file says of itself."""

    task: str
    """What the network does: `sr-x2`, `denoise`, …; `other` or `other-x4` if it isn't known."""
    degradation: Degradation | None
    """What it was trained to undo; None where that isn't known."""
    data: str
    """The photographs that it was trained on."""
    licence: str
    """Of the weights, and what the data asks for."""
    git_revision: str
    """Of the code that trained it; ends in `+` where the tree had changes."""
    created: str
    """UTC, ISO 8601."""
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The recipe's own fields, and `curve`: step, mean loss and PSNR-Y in dB at each validation."""
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    """Measured results, each named with its set and unit: `validation psnr_y_db`."""

    def __post_init__(self) -> None:
        for name in ("task", "data", "licence", "git_revision", "created"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value.isprintable()):
                raise ConfigError(f"{name} is {value!r}, expected one line of text")
        for name in ("training", "figures"):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected named values")
        for name, value in self.figures.items():
            if not (type(value) in (int, float) and math.isfinite(value)):
                raise ConfigError(f"figure {name} is {value!r}, expected a number")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A loaded network, ready to run, and its origin."""

    name: str
    """Name in the package, or the file's stem."""
    network: ResidualNetwork | ForeignNetwork
    """Folded, in evaluation mode, float32, on the CPU."""
    metadata: WeightsMetadata
    sha256: str
    """Of the file's bytes, hexadecimal."""

    @property
    def scale(self) -> int:
        return self.network.scale

    @property
    def own_network(self) -> ResidualNetwork:
        """The network, where it is of this project. WeightsError where it is from elsewhere."""
        if isinstance(self.network, ForeignNetwork):
            raise WeightsError(
                f"weights {self.name}: {self.network.summary}; expected a network of resray"
            )
        return self.network

    @property
    def config(self) -> NetworkConfig:
        return self.own_network.config


def packaged_weights() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(path.stem for path in PACKAGED.glob(f"*{SUFFIX}"))


def weights_path(name_or_path: str) -> Path:
    """Where the weights lie: a name from the package, or the path of a file.

    Raises WeightsError that offers the near name.
    """
    if name_or_path in packaged_weights():
        return PACKAGED / f"{name_or_path}{SUFFIX}"
    path = Path(name_or_path)
    if os.path.isfile(path):  # noqa: PTH113  False, not an error, where a folder can't be entered
        return path
    if path.suffix or len(path.parts) > 1:
        raise WeightsError(f"weights {name_or_path}: no such file")
    hint = did_you_mean(name_or_path, packaged_weights())
    raise WeightsError(
        f"no weights named {name_or_path!r}; {hint} (or give the path of a {SUFFIX} or .pth file)"
    )


def load_weights(name_or_path: str) -> Weights:
    """Reads weights by name or path, and checks all that running them needs.

    Raises WeightsError that names the file and what is wrong: no such file, or see `parse_weights`.
    """
    path = weights_path(name_or_path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights {path}: {error.strerror}") from error
    return parse_weights(str(path), data)


def parse_weights(place: str, data: bytes) -> Weights:
    """The weights in a file's bytes; `place` is where they come from, a path or an address.

    Raises WeightsError that names the place and what is wrong: damaged, of no known architecture, a
    newer version, a tensor missing or of another shape, a value that isn't finite.
    """
    path = Path(place)
    try:
        return _parse(path.stem, data, is_pickled=path.suffix.lower() in PICKLED)
    except (WeightsError, ConfigError) as error:
        raise WeightsError(f"weights {place}: {error}") from error


def serialize_weights(network: ResidualNetwork, metadata: WeightsMetadata) -> tuple[bytes, str]:
    """A weights file's bytes, and their SHA-256.

    The same network and metadata give the same bytes. Raises ConfigError for a network that isn't
    folded or holds values that aren't finite.
    """
    if not network.config.folded:
        raise ConfigError("only a folded network is written; call fold() first")
    for name, value in network.state_dict().items():
        if not _is_finite(value):
            raise ConfigError(f"tensor {name} holds values that aren't finite: not written")
    assert metadata.degradation is not None
    described = asdict(metadata) | {"degradation": describe(metadata.degradation)}
    header = {"version": FORMAT_VERSION, "network": asdict(network.config), **described}
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    data = dump_tensors(tensors, {METADATA_KEY: json.dumps(header, sort_keys=True, default=dict)})
    return data, hashlib.sha256(data).hexdigest()


def save_weights(path: Path, network: ResidualNetwork, metadata: WeightsMetadata) -> str:
    """Writes a weights file, whole or not at all; returns its SHA-256.

    Raises as `serialize_weights`, and DataError if the file can't be written.
    """
    data, sha256 = serialize_weights(network, metadata)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: can't be written ({error.strerror})") from error
    return sha256


def _parse(name: str, data: bytes, *, is_pickled: bool) -> Weights:
    tensors, header = (_read_pickled(data), None) if is_pickled else _read(data)
    if header is None:
        return _foreign(name, tensors, hashlib.sha256(data).hexdigest())
    version = header.pop("version", None)
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"format version {version!r}, expected {FORMAT_VERSION}; a newer resray wrote it?"
        )
    config = _known(NetworkConfig, header.pop("network", None), "network")
    if not config.folded:
        raise WeightsError("the network isn't folded")
    # Shapes are compared before there is memory for them: a header may claim any size.
    with torch.device("meta"):
        network = ResidualNetwork(config)
    _fill(network, tensors)
    degradation = _degradation(header.get("degradation"))
    metadata = _known(WeightsMetadata, header | {"degradation": degradation}, "metadata")
    if degradation.scale != config.scale:
        raise WeightsError(
            f"its degradation is of scale {degradation.scale}, its network of {config.scale}"
        )
    sha256 = hashlib.sha256(data).hexdigest()
    return Weights(name=name, network=network.eval(), metadata=metadata, sha256=sha256)


def _foreign(name: str, tensors: Mapping[str, Any], sha256: str) -> Weights:
    network = ForeignNetwork(tensors)
    metadata = WeightsMetadata(
        task="other" if network.scale == 1 else f"other-x{network.scale}",
        degradation=None,
        data=UNKNOWN,
        licence=UNKNOWN,
        git_revision="",
        created="",
    )
    return Weights(name=name, network=network, metadata=metadata, sha256=sha256)


def _read_pickled(data: bytes) -> dict[str, Any]:
    """The tensors of what `torch.save` wrote, and names for them; no other object is made."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a pickle's protocol, among others
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle that is damaged fails in any way
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"it holds an object ({refused[1]}), expected tensors alone: not unpickled"
            ) from error
        raise WeightsError(
            "no tensors that torch.save wrote, or damaged ones (TorchScript isn't read)"
        ) from error
    if not isinstance(found, dict):
        raise WeightsError(f"it holds one {type(found).__name__}, expected named tensors")
    claimed_bytes = _claimed_bytes(found)
    if claimed_bytes > _MOST_CLAIMED * len(data):
        raise WeightsError(f"its tensors claim {claimed_bytes} bytes, in a file of {len(data)}")
    return found


def _claimed_bytes(value: Any, depth: int = 4) -> int:
    """Of tensors, however deep they lie: they may repeat a few values without end."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict) and depth:
        return sum(
            _claimed_bytes(each, depth - 1) for each in cast("dict[Any, Any]", value).values()
        )
    return 0


def _read(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """Tensors and resray's metadata, None where there is none."""
    try:
        tensors = load_tensors(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch lacks
        raise WeightsError(f"no safetensors file, or a damaged one ({error})") from error
    (length,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    entry = entries.get(METADATA_KEY)
    if entry is None:
        return tensors, None
    try:
        header = json.loads(entry)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"its metadata is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise WeightsError("its metadata is no JSON object")
    return tensors, header


def _degradation(description: Any) -> Degradation:
    if not isinstance(description, dict):
        raise WeightsError("its metadata has no degradation")
    try:
        return from_description(description)
    except (TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise WeightsError(f"its degradation can't be read ({error})") from error


def _is_finite(value: torch.Tensor) -> bool:
    return math.isfinite(float(value.double().abs().sum()))


def _known(kind: type[_T], values: Any, what: str) -> _T:
    names = {f.name for f in fields(kind)}
    if not isinstance(values, dict):
        raise WeightsError(f"its metadata has no {what}")
    unknown = values.keys() - names
    if unknown:
        raise WeightsError(
            f"{what} has an unknown field {min(unknown)!r}; {did_you_mean(min(unknown), names)}"
        )
    try:
        return kind(**values)
    except (TypeError, OverflowError) as error:
        raise WeightsError(f"{what}: {error}") from error


def _fill(network: ResidualNetwork, tensors: Mapping[str, torch.Tensor]) -> None:
    expected = network.state_dict()
    for name, value in expected.items():
        if name not in tensors:
            raise WeightsError(f"tensor {name} is missing")
        found = tensors[name]
        if found.shape != value.shape or found.dtype != value.dtype:
            raise WeightsError(
                f"tensor {name}: expected {value.dtype} {tuple(value.shape)}, "
                f"found {found.dtype} {tuple(found.shape)}"
            )
        if not _is_finite(found):
            raise WeightsError(f"tensor {name} holds values that aren't finite")
    extra = tensors.keys() - expected.keys()
    if extra:
        raise WeightsError(f"tensor {min(extra)} is not of this network")
    network.load_state_dict(dict(tensors), assign=True)
