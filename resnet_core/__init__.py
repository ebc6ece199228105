"""The network and the images: what resray does to one picture. No Ray, no storage, no internet.

from resnet_core import Enhancer, decode, encode, load_weights

enhancer = Enhancer(load_weights("sr-x2"))
better = encode(enhancer.enhance(decode(data))).data
"""

from resnet_core.enhancer import Enhancer, EnhanceSettings
from resnet_core.errors import (
    BrokenImageError,
    ConfigError,
    DataError,
    ImageError,
    ImageTooLargeError,
    ResrayError,
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
    "ResidualNetwork",
    "ResrayError",
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
