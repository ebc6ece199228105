"""Small networks with random weights, as loaded weights and as files."""

from functools import cache
from pathlib import Path

import torch

from resnet_core.network import NetworkConfig, ResidualNetwork
from resnet_core.standard_degradations import DENOISE, bicubic
from resnet_core.weights import Weights, WeightsMetadata, save_weights

SMALL = NetworkConfig(scale=2, num_blocks=2, channels=16)


def random_network(config: NetworkConfig = SMALL, *, seed: int = 0) -> ResidualNetwork:
    """Every layer has random weights, and the residual is so small that the guard lets it pass."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResidualNetwork(config)
        torch.nn.init.normal_(network.tail.direct, std=0.005)
    return network.eval()


def metadata_for(config: NetworkConfig = SMALL) -> WeightsMetadata:
    scale = config.scale
    return WeightsMetadata(
        task="denoise" if scale == 1 else f"sr-x{scale}",
        degradation=DENOISE if scale == 1 else bicubic(scale),
        data="random weights, no photographs",
        licence="CC0-1.0",
        git_revision="0" * 40,
        created="2026-01-01T00:00:00+00:00",
        training={"steps": 0},
        figures={"valid psnr_y_db": 30.0},
    )


def write_weights(path: Path, config: NetworkConfig = SMALL, *, seed: int = 0) -> Path:
    save_weights(path, random_network(config, seed=seed), metadata_for(config))
    return path


@cache
def make_weights(config: NetworkConfig = SMALL) -> Weights:
    return Weights(
        name="random",
        network=random_network(config),
        metadata=metadata_for(config),
        sha256="0" * 64,
    )
