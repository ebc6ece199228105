"""Weights and settings in, then image in, image out.

An `Enhancer` keeps nothing between or during calls but its network (and the queue of windows that
calls share, with `batch_px`): any number of threads may share one.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_core.allocator import keep_freed_memory
from resnet_core.batching import NoLongerWantedError, Wanted, WindowBatcher, always_wanted
from resnet_core.cpu_threads import CpuThreads
from resnet_core.errors import ConfigError
from resnet_core.images import Image, fill_transparent
from resnet_core.network import BICUBIC_SUPPORT_PX, bicubic_bands, bicubic_base
from resnet_core.pixels import to_levels, to_nchw
from resnet_core.precision import Precision, fix_arithmetic
from resnet_core.tiling import TileRules, Window, map_tiles
from resnet_core.weights import Weights

_LEVELS = ("uint8", "uint16")
_BAND_VALUES = 2**18
"""Of an output, for each step of its last stage on a CPU: 1 MB in float32, which caches hold."""


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
        check_strength(self.strength)
        if type(self.tile_px) is not int or self.tile_px < 1:
            raise ConfigError(f"tile_px is {self.tile_px!r}, expected a whole number from 1")
        if self.num_blocks is not None and type(self.num_blocks) is not int:
            raise ConfigError(f"num_blocks is {self.num_blocks!r}, expected a whole number")
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision is {self.precision!r}, expected {', '.join(get_args(Precision))}"
            )


def check_strength(strength: float) -> None:
    """ConfigError for a factor of the residual that can't be."""
    if not -4 <= strength <= 4:
        raise ConfigError(f"strength is {strength!r}, expected -4 to 4")


@dataclass(frozen=True, kw_only=True)
class Enhanced:
    """An enhanced image, and how far it is from its base."""

    image: Image
    change_levels: float
    """Mean absolute difference between the two, in levels of 255."""
    network_s: float
    """Its share of the network's time, without what it waited for other images."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What was run at once."""

    windows: int
    pixels: int
    """Of the input, with halos."""
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """A window, and the factor of its image's residual."""

    window: Window
    strength: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.window.pixels.shape

    @property
    def dtype(self) -> Any:
        return self.window.pixels.dtype


@dataclass(frozen=True, kw_only=True)
class _Result:
    """A window's result, the sum of its changes over all values of its core, and its time."""

    levels: NDArray[Any]
    change: float
    seconds: float


class Enhancer:
    """Applies weights to images of any size, in tiles.

    `device`: a torch device; None takes the first GPU where there is one, else the CPU.
    `batch_px`: windows of one shape, from whatever threads call, run as one batch of up to so many
    input pixels, and large images take turns with small ones; None runs each window alone, in the
    caller's thread.
    `cpu`: shared with other enhancers of this process; on a CPU as many batches run at once as is
    worth. None leaves torch's threads as they are, and runs one batch at a time.
    `on_batch`: told of each batch after it ran, in the thread that ran it.
    """

    def __init__(
        self,
        weights: Weights,
        settings: EnhanceSettings | None = None,
        *,
        device: str | None = None,
        batch_px: int | None = None,
        cpu: CpuThreads | None = None,
        on_batch: Callable[[Batch], None] | None = None,
    ):
        self.weights = weights
        self.settings = settings or EnhanceSettings()
        self.scale = weights.network.scale
        self.device = _device(device)
        fix_arithmetic(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        # A copy: the caller's network keeps its device and dtype.
        network = weights.network.copy()
        self.dtype = network.dtype_for(self.settings.precision, self.device)
        depth = self.settings.num_blocks
        if depth is not None and not (network.num_blocks and 0 <= depth <= network.num_blocks):
            most = network.num_blocks
            raise ConfigError(
                f"num_blocks is {depth}, expected {f'0 to {most}' if most else 'none'}"
            )
        network = network.eval().to(self.device, self.dtype)
        self._network = network.to(memory_format=network.memory_format)
        self._turn = nullcontext() if network.reentrant else Lock()
        self._on_batch = on_batch
        self._cpu = cpu if self.device.type == "cpu" else None
        at_once = self._cpu.at_once if self._cpu and network.reentrant else 1
        self._batcher = (
            None
            if batch_px is None
            else WindowBatcher(self._run, batch_px=batch_px, at_once=at_once)
        )

    def enhance(self, image: Image) -> Image:
        """The better image, `scale` times as large; format, profile and metadata are the source's.

        Alpha is enlarged bicubically; colour under fully transparent pixels is taken from their
        surroundings first, so that no dark edge grows from what can't be seen.
        """
        return self.enhance_measured(image).image

    def enhance_measured(
        self, image: Image, *, strength: float | None = None, wanted: Wanted = always_wanted
    ) -> Enhanced:
        """`enhance`, with how much it changed and what it took.

        `strength`: for this image, instead of the settings'; images of different strengths share
        batches. `wanted`: asked before each window; NoLongerWantedError once it says no.
        Raises ConfigError for a strength that can't be.
        """
        strength = self.settings.strength if strength is None else strength
        check_strength(strength)
        alpha = image.alpha
        visible = image.pixels if alpha is None else fill_transparent(image.pixels, alpha)
        pixels, change_levels, network_s = self._enhance_pixels(visible, strength, wanted)
        enlarged = None if alpha is None else self._enlarge(alpha)
        better = replace(image, pixels=pixels, alpha=enlarged)
        return Enhanced(image=better, change_levels=change_levels, network_s=network_s)

    def enhance_pixels(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """uint8 or uint16 HWC, C = 3 (RGB) or 1 (gray) -> same dtype, (scale * H, scale * W, C).

        Gray is shown to the network as three equal channels, and their mean is kept.
        Raises ValueError for another dtype or shape.
        """
        return self._enhance_pixels(pixels, self.settings.strength, always_wanted)[0]

    def _enhance_pixels(
        self, pixels: NDArray[Any], strength: float, wanted: Wanted
    ) -> tuple[NDArray[Any], float, float]:
        """Pixels, change in levels and seconds, as in `Enhanced`."""
        if pixels.dtype.name not in _LEVELS or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise ValueError(
                f"expected uint8 or uint16 HWC with 1 or 3 channels, got {_told(pixels)}"
            )
        change, seconds = 0.0, 0.0

        def work(windows: Sequence[Window]) -> Iterator[NDArray[Any]]:
            nonlocal change, seconds
            tasks = [_Task(window=window, strength=strength) for window in windows]
            for result in self._results(tasks, wanted):
                change += result.change
                seconds += result.seconds
                yield result.levels

        better = map_tiles(
            work,
            pixels,
            scale=self.scale,
            tile_px=self.settings.tile_px,
            rules=self._network.tile_rules,
        )
        return better, 255 * change / max(better.size, 1), seconds

    def _results(self, tasks: Sequence[_Task], wanted: Wanted) -> Iterator[_Result]:
        if self._batcher is not None:
            return self._batcher.results(tasks, wanted=wanted)
        return self._one_by_one(tasks, wanted)

    def _one_by_one(self, tasks: Sequence[_Task], wanted: Wanted) -> Iterator[_Result]:
        for task in tasks:
            if not wanted():
                raise NoLongerWantedError
            yield from self._run([task])

    def _run(self, tasks: Sequence[_Task]) -> list[_Result]:
        """Windows of one shape and dtype, as one batch; each has an equal share of its time."""
        with self._turn, self._threads(), torch.inference_mode():
            return self._computed(tasks)

    def _threads(self) -> AbstractContextManager[object]:
        return self._cpu.share() if self._cpu else nullcontext()

    def _computed(self, tasks: Sequence[_Task]) -> list[_Result]:
        began_s = time.perf_counter()
        x = to_nchw(np.stack([task.window.pixels for task in tasks]), self.device)
        if all(task.strength == 0 for task in tasks):
            changes = [0.0] * len(tasks)
            levels = to_levels(bicubic_base(x, self.scale), tasks[0].dtype)
        else:
            levels, changes = self._levels(x, tasks)
        seconds = time.perf_counter() - began_s
        if self._on_batch is not None:
            pixels = len(tasks) * x.shape[2] * x.shape[3]
            self._on_batch(Batch(windows=len(tasks), pixels=pixels, seconds=seconds))
        return [
            _Result(levels=image, change=change, seconds=seconds / len(tasks))
            for image, change in zip(levels, changes, strict=True)
        ]

    def _levels(self, x: Tensor, tasks: Sequence[_Task]) -> tuple[NDArray[Any], list[float]]:
        """`base + strength * residual` as levels (NHWC), and how far each image is from its base.

        `x`: float32 (N, C, H, W), C = 3 or 1, and overwritten. The changes are sums of absolute
        differences over all values of the windows' cores, 0..1 each.
        """
        number, channels, height, width = x.shape
        multiple = self._network.tile_rules.multiple_of
        row_values = number * channels * width * self.scale**2
        rows = max(_BAND_VALUES // (row_values * multiple), 1) * multiple if x.is_cpu else height
        rgb = x.expand(-1, 3, -1, -1).to(self.dtype, memory_format=self._network.memory_format)
        residuals = self._network.residual_bands(rgb, rows, num_blocks=self.settings.num_blocks)
        strengths = torch.tensor([task.strength for task in tasks], device=x.device)
        factors = strengths.view(-1, 1, 1, 1)
        kept_rows, kept_columns = self._kept(tasks, x)
        top = 0
        levels: list[NDArray[Any]] = []
        changes = torch.zeros(number, device=x.device)
        for base, residual in zip(bicubic_bands(x, self.scale, rows), residuals, strict=True):
            added = residual.float()
            if channels == 1:
                added = added.mean(1, keepdim=True)
            # The base stays float32: in bfloat16 it would lose the image's own levels.
            y = torch.addcmul(base, factors, added).clamp_(0, 1)
            levels.append(to_levels(y, tasks[0].dtype))
            apart = base.clamp_(0, 1).sub_(y).abs_().permute(0, 2, 3, 1).flatten(2)
            bottom = top + apart.shape[1]
            changes += (kept_rows[:, :, top:bottom] @ apart @ kept_columns).view(number)
            top = bottom
        return np.concatenate(levels, axis=1), changes.tolist()

    def _kept(self, tasks: Sequence[_Task], x: Tensor) -> tuple[Tensor, Tensor]:
        """1 for rows of the output (N, 1, H), values of a row (N, W * C, 1) that are of a core."""
        sides = [torch.zeros(len(tasks), self.scale * side) for side in x.shape[2:]]
        for number, task in enumerate(tasks):
            for side, core in zip(sides, task.window.core, strict=True):
                side[number, self.scale * core.start : self.scale * core.stop] = 1
        rows, columns = (side.to(x.device) for side in sides)
        return rows.unsqueeze(1), columns.repeat_interleave(x.shape[1], 1).unsqueeze(2)

    def _enlarge(self, alpha: NDArray[Any]) -> NDArray[Any]:
        return map_tiles(
            lambda windows: map(self._enlarge_window, windows),
            alpha,
            scale=self.scale,
            tile_px=self.settings.tile_px,
            rules=TileRules(halo_px=BICUBIC_SUPPORT_PX),
        )

    def _enlarge_window(self, window: Window) -> NDArray[Any]:
        with self._threads(), torch.inference_mode():
            x = to_nchw(window.pixels, self.device)
            return to_levels(bicubic_base(x, self.scale), window.pixels.dtype)[0]


def _device(name: str | None) -> torch.device:
    """ConfigError for one that torch doesn't know, or this machine doesn't have."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device is {name!r}, which can't be used: {reason}") from error
    return device


def _told(pixels: NDArray[Any]) -> str:
    return f"{pixels.dtype} of shape {pixels.shape}"
