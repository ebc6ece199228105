"""Small networks with random weights, as loaded weights and as files."""

import warnings
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

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


def foreign_model(kind: str) -> torch.nn.Module:
    """A small network of another project with random weights, whose pictures aren't flat."""
    from spandrel import architectures as known  # noqa: PLC0415  seconds, for those who use it

    makers = {
        "compact": lambda: known.Compact.Compact(num_feat=16, num_conv=4, upscale=2),
        "esrgan": lambda: known.ESRGAN.ESRGAN(num_filters=16, num_blocks=1, scale=4),
        "esrgan-unshuffled": lambda: known.ESRGAN.ESRGAN(
            in_nc=12, num_filters=16, num_blocks=1, scale=4, shuffle_factor=2
        ),
        "span": lambda: known.SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2),
        "fdncnn": lambda: known.DnCNN.DnCNN(
            in_nc=4, out_nc=3, nc=16, nb=8, act_mode="R", mode="FDnCNN"
        ),
        "gray": lambda: known.DnCNN.DnCNN(nc=16, nb=8, act_mode="R"),
        "swinir": lambda: known.SwinIR.SwinIR(
            window_size=8,
            embed_dim=16,
            depths=[2],
            num_heads=[2],
            upscale=2,
            upsampler="pixelshuffledirect",
        ),
    }
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = makers[kind]().eval()
        last = [part for part in model.modules() if isinstance(part, torch.nn.Conv2d)][-1]
        if (
            kind != "compact"
        ):  # it adds to its input; of the others the last layer makes the picture
            channels = {"fdncnn": 4, "gray": 1}.get(kind, 3)
            with torch.no_grad():
                picture = model(torch.rand(1, channels, 32, 32))
                last.weight.mul_(0.2 / picture.std())
                last.bias.sub_(picture.mean()).mul_(0.2 / picture.std()).add_(0.5)
    return model


def write_foreign(path: Path, kind: str = "compact") -> Path:
    """Its file, as its project would give it: `.pth` or `.safetensors`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = foreign_model(kind).state_dict()
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"params": tensors}, path)
    return path
