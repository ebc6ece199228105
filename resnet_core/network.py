"""The residual network: head, residual blocks, tail, over a bicubic base.

    x  ──head──► f0 ──block 1──► f1 ── … ──block K──► fK ──tail──► residual
    y = base(x) + strength * residual,   base = x, or its bicubic enlargement

Each block adds to one stream of features, `f(k) = f(k-1) + conv(relu(conv(f(k-1))))` (He et al.
2016, arXiv:1512.03385, eq. 1, without batch normalisation as in EDSR, Lim et al. 2017,
arXiv:1707.02921), and the tail reads that stream, so that the picture after the first k blocks can
be asked for.

Why this block. On CPUs and GPUs alike the time of a small network follows its plain 3x3
multiply-adds as long as widths are multiples of 16 and the activation is ReLU. Gates, SiLU,
depthwise convolutions, layer normalisation and attention cost two to ten times what their
multiply-adds say, and gave no more decibels for the same time. One convolution before the pixel
shuffle saves 15 to 40 % against EDSR's tail. So the network that runs is a stack of plain 3x3
convolutions and ReLUs. On a CPU these convolutions finish ReLU and sum themselves (`fused_block`).

Training may be wider (`expansion`): a 3x3 kernel is then the sum of a direct kernel and a 1x1
expansion followed by a 3x3 convolution (RepVGG, arXiv:2101.03697; ECBSR, Zhang et al. 2021). Both
are linear, so the sum is one plain 3x3 kernel, formed from the weights in every training step
(OREPA, Hu et al. 2022, arXiv:2204.00826, sec. 3.2). `fold` keeps the kernel and drops its parts.

Tensors are float NCHW, RGB, 0..1. H, W: input pixels; s: `scale`; u: `unshuffle`.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from resnet_core.errors import ConfigError
from resnet_core.fused_block import can_fuse, residual_block
from resnet_core.precision import Precision, compute_dtype
from resnet_core.tiling import TileRules

Kind = Literal["residual", "residual-bn", "plain"]
RGB_CHANNELS = 3
BICUBIC_SUPPORT_PX = 2
MATRIX_ROWS = 16
"""Of the base, for each product: the matrices are mostly zeros, the more so the higher they are."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Everything that fixes the shape of a network. Raises ConfigError for a bad value."""

    kind: Kind = "residual"
    """`residual`; for comparison `residual-bn` (batch normalisation in the blocks) and `plain` (the
    same convolutions without the blocks' skips; the base stays)."""
    scale: int = 2
    """Enlargement, 1 to 4."""
    num_blocks: int = 8
    """Residual blocks of two 3x3 convolutions each."""
    channels: int = 48
    """Width of the stream of features; multiples of 16 run fastest."""
    expansion: int = 0
    """Width of the training kernels' expansion, a multiple of their input's; 0: plain kernels."""
    unshuffle: int = 1
    """The body works on the image unshuffled by this factor (1, 2 or 4): cheaper for scale 1."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"kind is {self.kind!r}, expected one of {', '.join(get_args(Kind))}")
        bounds = {
            "scale": (1, 4),
            "num_blocks": (1, 256),
            "channels": (1, 1024),
            "expansion": (0, 8),
            "unshuffle": (1, 4),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(
                    f"{name} is {value!r}, expected a whole number from {low} to {high}"
                )
        if self.unshuffle == 3:
            raise ConfigError("unshuffle is 3, expected 1, 2 or 4")

    @property
    def folded(self) -> bool:
        """Whether every kernel is plain and no normalisation is left: the form that is run."""
        return self.expansion == 0 and self.kind != "residual-bn"

    @property
    def halo_px(self) -> int:
        """How far an output pixel sees, input pixels on each side; a multiple of `unshuffle`."""
        convolutions = 2 + 2 * self.num_blocks
        reach = max(convolutions * self.unshuffle, BICUBIC_SUPPORT_PX)
        return -(-reach // self.unshuffle) * self.unshuffle


def _fill_normal(weights: Tensor, *, std: float) -> None:
    if not weights.is_meta:  # of shapes alone there is nothing to fill: PyTorch would take seconds
        nn.init.normal_(weights, std=std)


class FoldableConv(nn.Module):
    """A 3x3 convolution, zero-padded, whose kernel is a sum of linear parts while it trains.

    kernel[o, i] = direct[o, i] + sum_m project[o, m] * expand[m, i]   (each of 3x3; expand is 1x1)
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, expansion: int = 0, gain: float = 1.0
    ):
        super().__init__()
        self.direct = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        std = gain * (2 / (9 * in_channels)) ** 0.5
        _fill_normal(self.direct, std=std)
        if expansion:
            hidden = expansion * in_channels
            self.expand = nn.Parameter(torch.empty(hidden, in_channels))
            self.project = nn.Parameter(torch.empty(out_channels, hidden, 3, 3))
            _fill_normal(self.expand, std=in_channels**-0.5)
            _fill_normal(self.project, std=std * (in_channels / hidden) ** 0.5)
            with torch.no_grad():
                self.direct.mul_(0.5**0.5)
                self.project.mul_(0.5**0.5)
        else:
            self.expand = self.project = None

    def kernel(self) -> Tensor:
        """The plain kernel, float (out, in, 3, 3)."""
        if self.expand is None or self.project is None:
            return self.direct
        return self.direct + torch.einsum("omkl,mi->oikl", self.project, self.expand)

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, in, H, W) -> (N, out, H, W)."""
        return functional.conv2d(x, self.kernel(), self.bias, padding=1)


class Block(nn.Module):
    """Two 3x3 convolutions with a ReLU between, and a skip connection unless `kind` is `plain`."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.kind = config.kind
        width = config.channels
        # The second convolution starts small: the stack begins near the identity.
        last_gain = 1.0 if config.kind == "plain" else 0.1
        self.first = FoldableConv(width, width, expansion=config.expansion)
        self.second = FoldableConv(width, width, expansion=config.expansion, gain=last_gain)
        normalised = config.kind == "residual-bn"
        self.first_norm = nn.BatchNorm2d(width) if normalised else nn.Identity()
        self.second_norm = nn.BatchNorm2d(width) if normalised else nn.Identity()

    def forward(self, x: Tensor, *, overwrite: bool = False) -> Tensor:
        """Features to features: float (N, channels, H, W), of the same shape.

        `overwrite`: the result may take the place of `x`, of which no gradient is asked for.
        """
        if self.kind == "residual" and can_fuse(x):
            kernels = (self.first.kernel(), self.first.bias, self.second.kernel(), self.second.bias)
            return residual_block(x, *kernels, overwrite=overwrite)
        inner = functional.relu(self.first_norm(self.first(x)), inplace=True)
        inner = self.second_norm(self.second(inner))
        # A plain stack needs an activation after every convolution, or two of them are one.
        return functional.relu(inner, inplace=True) if self.kind == "plain" else inner.add_(x)


class ResidualNetwork(nn.Module):
    """The network of this module's docstring.

    An untrained network gives its base exactly: the tail starts at zero.
    """

    memory_format = torch.channels_last
    """In which it runs fastest."""
    reentrant = True
    """Whether threads may run it at once."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        u, s = config.unshuffle, config.scale
        self.head = FoldableConv(RGB_CHANNELS * u**2, config.channels, expansion=config.expansion)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.tail = FoldableConv(config.channels, RGB_CHANNELS * (s * u) ** 2)
        nn.init.zeros_(self.tail.direct)

    def copy(self) -> "ResidualNetwork":
        """Another one with the same weights, of its own."""
        return deepcopy(self)

    @property
    def scale(self) -> int:
        return self.config.scale

    @property
    def num_blocks(self) -> int:
        return self.config.num_blocks

    @property
    def summary(self) -> str:
        """Its shape, on one line."""
        return f"{self.config.num_blocks} blocks, {self.config.channels} channels"

    @property
    def tile_rules(self) -> TileRules:
        """A halo as wide as it sees."""
        return TileRules(halo_px=self.config.halo_px, multiple_of=self.config.unshuffle)

    def dtype_for(self, precision: Precision, device: torch.device) -> torch.dtype:
        """Of its convolutions."""
        return compute_dtype(precision, device)

    def residual(self, x: Tensor, *, num_blocks: int | None = None) -> Tensor:
        """What is added to the base: float (N, 3, H, W) -> (N, 3, s*H, s*W), around 0.

        `num_blocks`: stop after so many blocks (0 to all), None for all. Sizes are free: an image
        that is no multiple of `unshuffle` is padded inside by its edge and cropped after.
        """
        (whole,) = self.residual_bands(x, x.shape[2], num_blocks=num_blocks)
        return whole

    def residual_bands(
        self, x: Tensor, rows: int, *, num_blocks: int | None = None
    ) -> Iterator[Tensor]:
        """`residual` in bands of so many input rows, from the top.

        `rows`: a multiple of `unshuffle`, or at least the height.
        """
        u, s = self.config.unshuffle, self.config.scale
        if rows % u and rows < x.shape[2]:
            raise ValueError(f"rows is {rows}, expected a multiple of {u}")
        depth = self.config.num_blocks if num_blocks is None else num_blocks
        if not 0 <= depth <= self.config.num_blocks:
            raise ConfigError(f"num_blocks is {depth}, expected 0 to {self.config.num_blocks}")
        height, width = x.shape[-2:]
        if height % u or width % u:
            x = functional.pad(x, (0, -width % u, 0, -height % u), mode="replicate")
        features = self.head(functional.pixel_unshuffle(x, u) if u > 1 else x)
        for block in self.blocks[:depth]:
            features = block(features, overwrite=not torch.is_grad_enabled())
        # `pixel_shuffle` moves single values, at ten times the cost of `_interleave`.
        kernel, bias = (
            part.unflatten(0, (RGB_CHANNELS, -1)).transpose(0, 1).flatten(0, 1)
            for part in (self.tail.kernel(), self.tail.bias)
        )
        out = functional.conv2d(features, kernel, bias, padding=1)
        for top in range(0, height, rows):
            band = _interleave(out[:, :, top // u : -(-(top + rows) // u)], s * u)
            yield band[:, :, : s * (height - top), : s * width]

    def forward(self, x: Tensor, *, strength: float = 1.0, num_blocks: int | None = None) -> Tensor:
        """`base + strength * residual`: float (N, 3, H, W) -> (N, 3, s*H, s*W), not clipped."""
        base = bicubic_base(x, self.config.scale)
        if strength == 0:
            return base
        return base + strength * self.residual(x, num_blocks=num_blocks).to(base.dtype)

    @property
    def num_parameters(self) -> int:
        """Trained numbers of this form of the network; the training form has more."""
        return sum(p.numel() for p in self.parameters())

    @property
    def macs_per_output_pixel(self) -> float:
        """Multiply-adds of all convolutions, of the folded form, for one pixel of the output."""
        kernels = (part.direct.numel() for part in self.modules() if isinstance(part, FoldableConv))
        return sum(kernels) / (self.config.scale * self.config.unshuffle) ** 2


def bicubic_base(x: Tensor, scale: int) -> Tensor:
    """Bicubic enlargement (Keys 1981, a = -0.5), float (N, C, H, W) -> (N, C, s*H, s*W).

    Not clipped. Kernel and edges are Pillow's `BICUBIC`, and inside MATLAB's `imresize`. Computed
    in the dtype of `x`, under autocast too (on a GPU in TF32, unless `fix_arithmetic` forbids it,
    as `Enhancer` and `Trainer` do).
    """
    if scale == 1:
        return x
    if torch.compiler.is_compiling():  # it doesn't see caches, and makes a kernel of its own
        return functional.interpolate(x, scale_factor=scale, mode="bicubic", antialias=True)
    (whole,) = bicubic_bands(x, scale, x.shape[2])
    return whole


def bicubic_bands(x: Tensor, scale: int, rows: int) -> Iterator[Tensor]:
    """`bicubic_base` in bands of so many input rows, from the top.

    Along rows by a convolution, down columns by a product with a small matrix, so that channels
    come out last without being moved: 3 to 10 times as fast on CPUs as torch's `interpolate`.
    """
    if scale == 1:
        yield from x.split(rows, 2)
        return
    number, channels, height, width = x.shape
    wide = _enlarged_rows(x, scale)
    weights = dict[tuple[int, int, int], Tensor]()
    for top in range(0, height, rows):
        parts: list[Tensor] = []
        end = min(top + rows, height)
        for start in range(top, end, MATRIX_ROWS):
            stop = min(start + MATRIX_ROWS, end)
            first, last = max(start - BICUBIC_SUPPORT_PX, 0), min(stop + BICUBIC_SUPPORT_PX, height)
            places = (start - first, stop - start, last - stop)
            if places not in weights:
                weights[places] = torch.from_numpy(_column_weights(scale, *places)).to(x)
            with torch.autocast(x.device.type, enabled=False):
                parts.append(torch.matmul(weights[places], wide[:, first:last]))
        band = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        yield band.reshape(number, -1, scale * width, channels).permute(0, 3, 1, 2)


def _enlarged_rows(x: Tensor, scale: int) -> Tensor:
    """Along its rows alone: float (N, C, H, W) -> (N, H, s*W*C), channels last."""
    number, channels, height, width = x.shape
    kernel = torch.from_numpy(_row_kernel(scale, channels)).to(x)
    with torch.autocast(x.device.type, enabled=False):
        wide = functional.conv2d(x, kernel, padding=(0, BICUBIC_SUPPORT_PX))
    wide = wide.permute(0, 2, 3, 1).reshape(number, height, scale * width, channels)
    gains = torch.from_numpy(_edge_gains(scale, width)).to(x)[:, np.newaxis]
    edge = min(scale * BICUBIC_SUPPORT_PX, scale * width // 2)
    for part in (slice(edge), slice(scale * width - edge, None)):
        wide[:, :, part] *= gains[part]
    return wide.flatten(2)


def _interleave(x: Tensor, scale: int) -> Tensor:
    """Float (N, s*s*C, H, W), channels by row, column and colour -> (N, C, s*H, s*W)."""
    number, channels, height, width = x.shape
    run = channels // scale
    rows = x.permute(0, 2, 3, 1).reshape(number, height, width, scale, run).transpose(2, 3)
    shape = number, scale * height, scale * width, run // scale
    return rows.reshape(shape).permute(0, 3, 1, 2)


@cache
def _bicubic_taps(scale: int) -> NDArray[np.float64]:
    """Keys' weights (scale, 5) of the pixels around, for each place inside an enlarged pixel."""
    places = (np.arange(scale) + 0.5) / scale - 0.5
    reach = np.arange(-BICUBIC_SUPPORT_PX, BICUBIC_SUPPORT_PX + 1)
    far = np.abs(reach - places[:, np.newaxis])
    near = (1.5 * far - 2.5) * far**2 + 1
    return np.where(far < 1, near, np.where(far < 2, ((2.5 - 0.5 * far) * far - 4) * far + 2, 0.0))


@cache
def _row_kernel(scale: int, channels: int) -> NDArray[np.float64]:
    """(s*C, C, 1, 5), outputs by place and channel."""
    kernel = np.einsum("jl,cd->jcdl", _bicubic_taps(scale), np.eye(channels))
    return kernel.reshape(-1, channels, 1, kernel.shape[-1])


@lru_cache(maxsize=256)
def _column_weights(scale: int, above: int, rows: int, below: int) -> NDArray[np.float64]:
    """(s*rows, above + rows + below): of the rows read, for each row of a band.

    `above`, `below`: rows that are there beyond the band, up to the support. What falls outside is
    made up for, as Pillow does.
    """
    read = np.arange(-above, rows + below)
    tap = read - np.arange(rows)[:, np.newaxis] + BICUBIC_SUPPORT_PX
    taps = _bicubic_taps(scale)
    is_read = (tap >= 0) & (tap < taps.shape[1])
    weights = np.where(is_read, taps[:, np.where(is_read, tap, 0)], 0.0)
    weights /= weights.sum(-1, keepdims=True)
    return weights.transpose(1, 0, 2).reshape(scale * rows, -1)


@lru_cache(maxsize=64)
def _edge_gains(scale: int, length_px: int) -> NDArray[np.float64]:
    """(s*W,): what makes up for the weights that fall outside, as Pillow does."""
    reach = np.arange(-BICUBIC_SUPPORT_PX, BICUBIC_SUPPORT_PX + 1)
    places = np.arange(length_px)[:, np.newaxis] + reach
    inside = (places >= 0) & (places < length_px)
    return 1 / (inside @ _bicubic_taps(scale).T).reshape(-1)


def fold(network: ResidualNetwork) -> ResidualNetwork:
    """The same function in plain 3x3 kernels: a new network, in evaluation mode.

    Batch normalisation is folded with its running statistics (RepVGG, arXiv:2101.03697, eq. 3), so
    that a `residual-bn` network comes back as a `residual` one.
    """
    source = network.config
    kind: Kind = "residual" if source.kind == "residual-bn" else source.kind
    folded = ResidualNetwork(replace(source, kind=kind, expansion=0))
    with torch.no_grad():
        _copy_folded(network.head, folded.head, nn.Identity())
        _copy_folded(network.tail, folded.tail, nn.Identity())
        for old, new in zip(network.blocks, folded.blocks, strict=True):
            assert isinstance(old, Block)
            assert isinstance(new, Block)
            _copy_folded(old.first, new.first, old.first_norm)
            _copy_folded(old.second, new.second, old.second_norm)
    device = next(network.parameters()).device
    return folded.eval().to(device)


def _copy_folded(source: FoldableConv, target: FoldableConv, norm: nn.Module) -> None:
    kernel, bias = source.kernel(), source.bias
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        kernel = kernel * gain[:, None, None, None]
        bias = (bias - norm.running_mean) * gain + norm.bias
    target.direct.copy_(kernel)
    target.bias.copy_(bias)
