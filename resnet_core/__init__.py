"""The network and the images: what resray does to one picture. No Ray, no storage, no internet.

from resnet_core import Enhancer, decode, encode, load_weights

enhancer = Enhancer(load_weights("sr-x2"))
better = encode(enhancer.enhance(decode(data))).data

A name is imported from its module when it is first asked for (PEP 562): processes that only list or
record images never load PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_core.enhancer import Enhancer, EnhanceSettings
    from resnet_core.errors import (
        BrokenImageError,
        ConfigError,
        DataError,
        ImageError,
        ImageTooLargeError,
        NoImageError,
        ResrayError,
        SuspectResultError,
        UnsupportedImageError,
        WeightsError,
    )
    from resnet_core.images import Encoded, Image, decode, encode
    from resnet_core.network import NetworkConfig, ResidualNetwork, fold
    from resnet_core.weights import (
        Weights,
        WeightsMetadata,
        load_weights,
        packaged_weights,
        save_weights,
    )

__all__ = [
    "BrokenImageError",
    "ConfigError",
    "DataError",
    "Encoded",
    "EnhanceSettings",
    "Enhancer",
    "Image",
    "ImageError",
    "ImageTooLargeError",
    "NetworkConfig",
    "NoImageError",
    "ResidualNetwork",
    "ResrayError",
    "SuspectResultError",
    "UnsupportedImageError",
    "Weights",
    "WeightsError",
    "WeightsMetadata",
    "decode",
    "encode",
    "fold",
    "load_weights",
    "packaged_weights",
    "save_weights",
]

_MODULES = {
    "enhancer": {"EnhanceSettings", "Enhancer"},
    "images": {"Encoded", "Image", "decode", "encode"},
    "network": {"NetworkConfig", "ResidualNetwork", "fold"},
    "weights": {"Weights", "WeightsMetadata", "load_weights", "packaged_weights", "save_weights"},
}
"""Where public names live; the others are errors."""

if not TYPE_CHECKING:  # a type checker would take any name for one of the package's

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = next((module for module, names in _MODULES.items() if name in names), "errors")
        return getattr(import_module(f"{__name__}.{home}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
