"""Weights and settings in, then image in, image out.

An `Enhancer` keeps nothing between or during calls but its network (and the queue of windows that
calls share, with `batch_px`): any number of threads may share one.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from numpy.typing import NDArray

from resnet_core.batching import WindowBatcher
from resnet_core.errors import ConfigError
from resnet_core.images import Image, fill_transparent
from resnet_core.network import BICUBIC_SUPPORT_PX, bicubic_base
from resnet_core.pixels import to_levels, to_nchw
from resnet_core.precision import Precision, compute_dtype
from resnet_core.tiling import map_tiles
from resnet_core.weights import Weights

_LEVELS = ("uint8", "uint16")


@dataclass(frozen=True, kw_only=True)
class EnhanceSettings:
    """How a network is applied. Raises ConfigError for a value that can't be."""

    strength: float = 1.0
    """Factor of the residual: 0 the base alone, 1 as learned, more exaggerates; -4 to 4."""
    tile_px: int = 512
    """Largest side of a tile in input pixels, without its halo."""
    precision: Precision = "auto"
    """Of the convolutions."""
    num_blocks: int | None = None
    """The picture after so many blocks; None for all."""

    def __post_init__(self) -> None:
        if not -4 <= self.strength <= 4:
            raise ConfigError(f"strength is {self.strength}, expected -4 to 4")
        if self.tile_px < 1:
            raise ConfigError(f"tile_px is {self.tile_px}, expected at least 1")
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision is {self.precision!r}, expected {', '.join(get_args(Precision))}"
            )


@dataclass(frozen=True, kw_only=True)
class Enhanced:
    """An enhanced image, and how far it is from its base."""

    image: Image
    change_levels: float
    """Mean absolute difference between the two, in levels of 255."""
    network_s: float
    """Its share of the network's time, without what it waited for other images."""


@dataclass(frozen=True, kw_only=True)
class _Window:
    """A window's result, the sum of its changes over all its values, and its time."""

    levels: NDArray[Any]
    change: float
    seconds: float


class Enhancer:
    """Applies weights to images of any size, in tiles.

    `device`: a torch device; None takes the first GPU where there is one, else the CPU.
    `batch_px`: windows of one shape, from whatever threads call, run as one batch of up to so many
    input pixels, and large images take turns with small ones; None runs each window alone, in the
    caller's thread.
    """

    def __init__(
        self,
        weights: Weights,
        settings: EnhanceSettings | None = None,
        *,
        device: str | None = None,
        batch_px: int | None = None,
    ):
        self.weights = weights
        self.settings = settings or EnhanceSettings()
        self.scale = weights.config.scale
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = compute_dtype(self.settings.precision, self.device)
        depth = self.settings.num_blocks
        if depth is not None and not 0 <= depth <= weights.config.num_blocks:
            raise ConfigError(f"num_blocks is {depth}, expected 0 to {weights.config.num_blocks}")
        # A copy: the caller's network keeps its device and dtype.
        network = type(weights.network)(weights.config)
        network.load_state_dict(weights.network.state_dict())
        network = network.eval().to(self.device, self.dtype)
        self._network = network.to(memory_format=torch.channels_last)
        self._batcher = None if batch_px is None else WindowBatcher(self._run, batch_px=batch_px)

    def enhance(self, image: Image) -> Image:
        """The better image, `scale` times as large; format, profile and metadata are the source's.

        Alpha is enlarged bicubically; colour under fully transparent pixels is taken from their
        surroundings first, so that no dark edge grows from what can't be seen.
        """
        return self.enhance_measured(image).image

    def enhance_measured(self, image: Image) -> Enhanced:
        """`enhance`, with how much it changed and what it took."""
        alpha = image.alpha
        visible = image.pixels if alpha is None else fill_transparent(image.pixels, alpha)
        pixels, change_levels, network_s = self._enhance_pixels(visible)
        enlarged = None if alpha is None else self._enlarge(alpha)
        better = replace(image, pixels=pixels, alpha=enlarged)
        return Enhanced(image=better, change_levels=change_levels, network_s=network_s)

    def enhance_pixels(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """uint8 or uint16 HWC, C = 3 (RGB) or 1 (gray) -> same dtype, (scale * H, scale * W, C).

        Gray is shown to the network as three equal channels, and their mean is kept.
        Raises ValueError for another dtype or shape.
        """
        return self._enhance_pixels(pixels)[0]

    def _enhance_pixels(self, pixels: NDArray[Any]) -> tuple[NDArray[Any], float, float]:
        """Pixels, change in levels and seconds, as in `Enhanced`."""
        if pixels.dtype.name not in _LEVELS or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise ValueError(
                f"expected uint8 or uint16 HWC with 1 or 3 channels, got {_told(pixels)}"
            )
        change, count, seconds = 0.0, 0, 0.0

        def work(windows: Sequence[NDArray[Any]]) -> Iterator[NDArray[Any]]:
            nonlocal change, count, seconds
            for result in self._results(windows):
                change += result.change
                count += result.levels.size
                seconds += result.seconds
                yield result.levels

        config = self.weights.config
        better = map_tiles(
            work,
            pixels,
            scale=self.scale,
            tile_px=self.settings.tile_px,
            halo_px=config.halo_px,
            multiple_of=config.unshuffle,
        )
        return better, 255 * change / max(count, 1), seconds

    def _results(self, windows: Sequence[NDArray[Any]]) -> Iterator[_Window]:
        if self._batcher is not None:
            return self._batcher.results(windows)
        return (self._run([window])[0] for window in windows)

    @torch.inference_mode()
    def _run(self, windows: Sequence[NDArray[Any]]) -> list[_Window]:
        """Windows of one shape and dtype, as one batch; each has an equal share of its time."""
        began_s = time.perf_counter()
        strength = self.settings.strength
        x = torch.cat([to_nchw(window) for window in windows]).to(self.device)
        gray = x.shape[1] == 1
        base = y = bicubic_base(x, self.scale)
        if strength != 0:
            rgb = x.expand(-1, 3, -1, -1).to(self.dtype, memory_format=torch.channels_last)
            residual = self._network.residual(rgb, num_blocks=self.settings.num_blocks).float()
            # The base stays float32: in bfloat16 it would lose the image's own levels.
            y = base + strength * (residual.mean(1, keepdim=True) if gray else residual)
        changes = (y.clamp(0, 1) - base.clamp(0, 1)).abs().sum(dim=(1, 2, 3)).tolist()
        levels = to_levels(y, windows[0].dtype)
        seconds = (time.perf_counter() - began_s) / len(windows)
        return [
            _Window(levels=image, change=change, seconds=seconds)
            for image, change in zip(levels, changes, strict=True)
        ]

    def _enlarge(self, alpha: NDArray[Any]) -> NDArray[Any]:
        return map_tiles(
            lambda windows: map(self._enlarge_window, windows),
            alpha,
            scale=self.scale,
            tile_px=self.settings.tile_px,
            halo_px=BICUBIC_SUPPORT_PX,
        )

    @torch.inference_mode()
    def _enlarge_window(self, window: NDArray[Any]) -> NDArray[Any]:
        x = to_nchw(window).to(self.device)
        return to_levels(bicubic_base(x, self.scale), window.dtype)[0]


def _told(pixels: NDArray[Any]) -> str:
    return f"{pixels.dtype} of shape {pixels.shape}"
