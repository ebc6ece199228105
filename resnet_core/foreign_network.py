"""Weights from elsewhere: a network of another project, of an architecture that spandrel knows.

Such a network gives the whole picture. Run as one of this project's it gives the residual, its
picture less the base, so that `base + strength * residual` means the same: the base at 0, what the
network gives at 1.

Tensors are read by `resnet_core.weights`, without unpickling objects: spandrel's own reader lets
some through, and runs TorchScript. spandrel is an extra, imported when it is first needed.
"""

import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from resnet_core.errors import ConfigError, WeightsError
from resnet_core.network import RGB_CHANNELS, bicubic_base
from resnet_core.precision import Precision, compute_dtype
from resnet_core.tiling import TileRules

HALO_PX: Final = 32
"""Of tiles: how far these networks see isn't known, and what is further away matters little."""
GLOBAL_HALO_PX: Final = 64
"""Where spandrel discourages tiles, because what is far away matters."""
GLOBAL_TILE_PX: Final = 1024
"""The least side of a tile there."""
PURPOSES: Final = ("SR", "Restoration")


class ForeignNetwork(nn.Module):
    """A network that spandrel made from a file's tensors, in evaluation mode.

    `tensors`: as a file holds them. Raises WeightsError without spandrel, for an architecture that
    it doesn't know, and for a network that isn't one of RGB to RGB.
    """

    memory_format = torch.contiguous_format
    """Some reshape by `view`, which fails on channels last."""
    reentrant = False
    """Some write to themselves while they run: SPAN folds its kernels in each call."""

    def __init__(self, tensors: Mapping[str, Any]):
        super().__init__()
        self._tensors = tensors
        self._found = _found(tensors)
        self.model: nn.Module = self._found.model.eval().requires_grad_(requires_grad=False)
        for name, value in self.model.state_dict().items():
            if not math.isfinite(float(value.double().abs().sum())):
                raise WeightsError(f"tensor {name} holds values that aren't finite")

    def copy(self) -> "ForeignNetwork":
        """Another one from the same tensors: not every architecture can be copied in memory."""
        return ForeignNetwork(self._tensors)

    @property
    def scale(self) -> int:
        return self._found.scale

    @property
    def num_blocks(self) -> int:
        """None that could be left out."""
        return 0

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    @property
    def summary(self) -> str:
        """Its architecture and size, on one line."""
        return f"{' '.join((self._found.architecture.name, *self._found.tags))}, by spandrel"

    @property
    def tile_rules(self) -> TileRules:
        """Its sizes, and tiles as its architecture bears them."""
        return _tile_rules(self._found)

    def dtype_for(self, precision: Precision, device: torch.device) -> torch.dtype:
        """`auto` is float32: bfloat16 would round the picture itself, not its residual alone."""
        if precision == "auto":
            return torch.float32
        if precision == "bfloat16" and not self._found.supports_bfloat16:
            raise ConfigError(
                f"precision is bfloat16, expected float32: {self.summary} computes in nothing else"
            )
        return compute_dtype(precision, device)

    def residual(self, x: Tensor, *, num_blocks: int | None = None) -> Tensor:
        """What is added to the base: float (N, 3, H, W) -> float32 (N, 3, s*H, s*W).

        H and W are as `tile_rules` says, else they are padded inside. Raises ConfigError for
        `num_blocks`.
        """
        if num_blocks is not None:
            raise ConfigError(f"num_blocks is {num_blocks}, expected none: {self.summary}")
        # One by one: spandrel says so, and some join a noise map of one picture to their input.
        better = torch.cat([self._found(each.contiguous()) for each in x.split(1)])
        return better.float() - bicubic_base(x.float(), self.scale)

    def residual_bands(
        self, x: Tensor, rows: int, *, num_blocks: int | None = None
    ) -> Iterator[Tensor]:
        """`residual` in bands of so many input rows, from the top."""
        return iter(self.residual(x, num_blocks=num_blocks).split(self.scale * rows, 2))


def _found(tensors: Mapping[str, Any]) -> Any:
    """spandrel's descriptor of the network, checked."""
    try:
        import spandrel  # noqa: PLC0415  seconds, for those who use it
    except ImportError as error:
        raise WeightsError(
            f"not of resray; those of other projects need spandrel ({error}): pip install spandrel"
        ) from error
    try:
        with warnings.catch_warnings(action="ignore"):  # theirs, of torch's future
            # Copies, though not of the values: some architectures rename what they are given.
            named = dict(spandrel.canonicalize_state_dict(dict(tensors)))
            found = spandrel.MAIN_REGISTRY.load(named)
    except spandrel.UnsupportedModelError as error:
        raise WeightsError(
            f"not of resray, nor of an architecture that spandrel {spandrel.__version__} knows"
        ) from error
    except Exception as error:  # each architecture fails in its own way on tensors that don't fit
        told = " ".join(str(error).split())
        raise WeightsError(
            f"damaged, or of no architecture that spandrel {spandrel.__version__} knows"
            f" ({type(error).__name__}: {told:.200})"
        ) from error
    name = found.architecture.name
    if found.purpose not in PURPOSES or not isinstance(found, spandrel.ImageModelDescriptor):
        raise WeightsError(
            f"{name} is for {found.purpose}, expected a network for {' or '.join(PURPOSES)}"
        )
    channels = (found.input_channels, found.output_channels)
    if channels != (RGB_CHANNELS, RGB_CHANNELS):
        raise WeightsError(
            f"{name} takes {channels[0]} channels and gives {channels[1]}, expected 3 and 3 (RGB)"
        )
    return found


def _tile_rules(found: Any) -> TileRules:
    import spandrel  # noqa: PLC0415

    sizes, tiling = found.size_requirements, found.tiling
    halo_px = HALO_PX if tiling == spandrel.ModelTiling.SUPPORTED else GLOBAL_HALO_PX
    least_tile_px = {
        spandrel.ModelTiling.SUPPORTED: 1,
        spandrel.ModelTiling.DISCOURAGED: GLOBAL_TILE_PX,
        spandrel.ModelTiling.INTERNAL: sys.maxsize,  # it cuts the picture up itself
    }[tiling]
    return TileRules(
        halo_px=-(-halo_px // sizes.multiple_of) * sizes.multiple_of,
        multiple_of=sizes.multiple_of,
        least_px=max(sizes.minimum, 1),
        square=sizes.square,
        least_tile_px=least_tile_px,
    )
