"""The steps of a degradation: each is frozen, and all its chance comes from a generator.

Between steps pixels are float32 HWC, 0..1, RGB or gray, clipped to that range by each step.
"Levels" are steps of an 8-bit file, 0..255.

    on pixels          Blur, Ringing, GaussianNoise, PoissonNoise
    on 8-bit pictures  Downscale, Jpeg
    of another size    RandomResize, ResizeToResult, Downscale
    of other steps     Sometimes, OneOf

`draw` says what a step does this time, and takes from the generator what that needs.

Sources: Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833) for blur, ringing, random sizes and noise;
DnCNN (Zhang et al. 2017, arXiv:1608.03981) for blind noise levels; FBCNN (Jiang et al. 2021,
arXiv:2109.14573) for double JPEG whose two grids don't coincide.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, Union, get_args

import numpy as np
import torch
from PIL import Image

from resnet_core.blur_kernels import BlurKernel, KernelShape, SincKernel, convolve
from resnet_core.chance import (
    Range,
    check_choices,
    check_odd_range,
    check_probabilities,
    check_probability,
    check_range,
    check_range_around_one,
    draw_choice,
    draw_odd,
    draw_weighted,
)
from resnet_core.errors import ConfigError
from resnet_core.levels import Levels, Pixels, from_pil, to_levels, to_pil, to_pixels

Size = tuple[int, int]
"""Height and width, px."""
ResampleKind = Literal["bicubic", "bilinear", "box", "lanczos"]
InterpolationKind = Literal["area", "bilinear", "bicubic"]
BlurShape = Literal[
    "iso", "aniso", "generalised-iso", "generalised-aniso", "plateau-iso", "plateau-aniso"
]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

_RESAMPLING: Final[dict[str, Image.Resampling]] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}
_KERNEL_SHAPES: Final[dict[str, KernelShape]] = {
    "iso": "gaussian",
    "aniso": "gaussian",
    "generalised-iso": "generalised",
    "generalised-aniso": "generalised",
    "plateau-iso": "plateau",
    "plateau-aniso": "plateau",
}
_MAX_SIDE_PX: Final = 63
_JPEG_MCU_PX: Final = 16
_PHOTONS: Final = np.float32(256.0)
_LUMA: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Downscale:
    """A smaller picture, antialiased, on 8-bit levels: what Pillow's `resize` gives.

    Bicubic is the convention of super-resolution papers (MATLAB's `imresize`, equal to 0.02 dB).
    `scale`: whole factor, 1 or more; the sides must be multiples of it.
    `kinds`: filters, one is drawn for each picture.
    """

    scale: int
    kinds: tuple[ResampleKind, ...] = ("bicubic",)

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ConfigError(f"Downscale.scale: expected 1 or more, found {self.scale}")
        check_choices("Downscale.kinds", self.kinds, get_args(ResampleKind))

    def apply_levels(self, image: Levels, rng: np.random.Generator) -> Levels:
        """uint8 HWC in and out, straight through Pillow."""
        height, width = image.shape[:2]
        if height % self.scale or width % self.scale:
            raise ValueError(f"{width}x{height} px: expected multiples of {self.scale}")
        kind = draw_choice(rng, self.kinds)
        size = (width // self.scale, height // self.scale)
        return from_pil(to_pil(image).resize(size, _RESAMPLING[kind]))


@dataclass(frozen=True, kw_only=True)
class RandomResize:
    """A picture of another size, that a later `ResizeToResult` ends (Real-ESRGAN, sec. 3.1).

    It isn't antialiased, but for "area": aliasing is a part of the damage.

    `factor`: lowest and highest size, as a share of the reference's sides; 1 lies between them.
    `up`, `down`: probabilities of a factor from 1 to the highest, and from the lowest to 1, both
    uniform; else the size is the reference's.
    `kinds`: interpolations, one is drawn for each picture; nearest isn't one, for it shifts.
    `reference`: the "picture" that comes in, or the "result" of the whole degradation.
    """

    factor: Range
    up: float
    down: float
    kinds: tuple[InterpolationKind, ...] = ("area", "bilinear", "bicubic")
    reference: Literal["picture", "result"] = "picture"

    def __post_init__(self) -> None:
        check_range_around_one("RandomResize.factor", self.factor, low=0.01, high=4.0)
        check_probability("RandomResize.up", self.up)
        check_probability("RandomResize.down", self.down)
        check_probability("RandomResize.up + down", self.up + self.down)
        check_choices("RandomResize.kinds", self.kinds, get_args(InterpolationKind))
        check_choices("RandomResize.reference", (self.reference,), ("picture", "result"))

    def draw(self, rng: np.random.Generator) -> tuple[float, InterpolationKind]:
        """The factor and the interpolation."""
        low, high = self.factor
        drawn = rng.random()
        if drawn < self.up:
            factor = rng.uniform(1.0, high)
        elif drawn < self.up + self.down:
            factor = rng.uniform(low, 1.0)
        else:
            factor = 1.0
        return factor, draw_choice(rng, self.kinds)

    def resize(self, pixels: Pixels, rng: np.random.Generator, result: Size) -> Pixels:
        """float32 HWC, 0..1, in and out; at least 1 px in each direction."""
        factor, kind = self.draw(rng)
        height, width = result if self.reference == "result" else pixels.shape[:2]
        return _interpolate(
            pixels, (max(1, int(height * factor)), max(1, int(width * factor))), kind
        )


@dataclass(frozen=True, kw_only=True)
class ResizeToResult:
    """The size of the result exactly: target side / scale (Real-ESRGAN, sec. 3.3).

    `kinds`: interpolations, one is drawn for each picture.
    """

    kinds: tuple[InterpolationKind, ...] = ("area", "bilinear", "bicubic")

    def __post_init__(self) -> None:
        check_choices("ResizeToResult.kinds", self.kinds, get_args(InterpolationKind))

    def resize(self, pixels: Pixels, rng: np.random.Generator, result: Size) -> Pixels:
        """float32 HWC, 0..1, in and out."""
        return _interpolate(pixels, result, draw_choice(rng, self.kinds))


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Blur by a kernel of the Gaussian's family (Real-ESRGAN, sec. 3.1; values: sec. 4.1).

    `sigma_px`: range of the standard deviation, uniform; an "aniso" kernel has two of them, drawn
    apart, and any direction.
    `probabilities`: of the shapes in the order of `BlurShape`.
    `beta_generalised`, `beta_plateau`: ranges of the exponent, 1 within; half of the draws are
    uniform below 1, half above.
    `side_px`: least and largest side of the kernel, odd; all odd sides between are alike.
    """

    sigma_px: Range
    probabilities: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    beta_generalised: Range = (0.5, 4.0)
    beta_plateau: Range = (1.0, 2.0)
    side_px: tuple[int, int] = (7, 21)

    def __post_init__(self) -> None:
        check_range("Blur.sigma_px", self.sigma_px, low=0.01, high=32.0)
        check_probabilities("Blur.probabilities", self.probabilities, len(get_args(BlurShape)))
        check_range_around_one("Blur.beta_generalised", self.beta_generalised, low=0.1, high=8.0)
        check_range_around_one("Blur.beta_plateau", self.beta_plateau, low=0.1, high=8.0)
        check_odd_range("Blur.side_px", self.side_px, low=3, high=_MAX_SIDE_PX)

    def draw(self, rng: np.random.Generator) -> BlurKernel:
        """The kernel."""
        side_px = draw_odd(rng, self.side_px)
        shape: BlurShape = draw_weighted(rng, get_args(BlurShape), self.probabilities)
        first = second = rng.uniform(*self.sigma_px)
        angle_rad = 0.0
        if shape.endswith("aniso"):
            second = rng.uniform(*self.sigma_px)
            angle_rad = rng.uniform(-math.pi, math.pi)
        kind = _KERNEL_SHAPES[shape]
        beta = 1.0
        if kind != "gaussian":
            low, high = self.beta_plateau if kind == "plateau" else self.beta_generalised
            beta = rng.uniform(low, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, high)
        return BlurKernel(
            shape=kind, side_px=side_px, sigma_px=(first, second), angle_rad=angle_rad, beta=beta
        )

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """float32 HWC, 0..1, in and out; the argument isn't changed."""
        return _clip(convolve(pixels, self.draw(rng).weights()))


@dataclass(frozen=True, kw_only=True)
class Ringing:
    """Overshoot and rings along edges, as of a too sharp filter: a sinc (Real-ESRGAN, sec. 3.3).

    `cutoff`: range of the highest frequency that passes, as a share of the Nyquist frequency,
    uniform.
    `side_px`: least and largest side of the kernel, odd; all odd sides between are alike.
    """

    cutoff: Range
    side_px: tuple[int, int] = (7, 21)

    def __post_init__(self) -> None:
        check_range("Ringing.cutoff", self.cutoff, low=0.05, high=1.0)
        check_odd_range("Ringing.side_px", self.side_px, low=3, high=_MAX_SIDE_PX)

    def draw(self, rng: np.random.Generator) -> SincKernel:
        """The kernel."""
        side_px = draw_odd(rng, self.side_px)
        return SincKernel(cutoff=rng.uniform(*self.cutoff), side_px=side_px)

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """float32 HWC, 0..1, in and out; the argument isn't changed."""
        return _clip(convolve(pixels, self.draw(rng).weights()))


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Additive white Gaussian noise (blind levels: DnCNN, section IV-A).

    `sigma_levels`: range of the standard deviation, levels of 0..255, uniform.
    `gray_probability`: chance that all channels get the same noise (Real-ESRGAN, sec. 4.1: 0.4).
    """

    sigma_levels: Range
    gray_probability: float = 0.0

    def __post_init__(self) -> None:
        check_range("GaussianNoise.sigma_levels", self.sigma_levels, low=0.0, high=255.0)
        check_probability("GaussianNoise.gray_probability", self.gray_probability)

    def draw(self, rng: np.random.Generator) -> tuple[float, bool]:
        """The standard deviation in levels, and whether the noise is gray."""
        return rng.uniform(*self.sigma_levels), bool(rng.random() < self.gray_probability)

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """float32 HWC, 0..1, in and out; the argument isn't changed."""
        sigma_levels, gray = self.draw(rng)
        height, width, channels = pixels.shape
        noise: Pixels = rng.standard_normal(
            (height, width, 1 if gray else channels), dtype=np.float32
        )
        noise *= np.float32(sigma_levels / 255.0)
        return _clip(pixels + noise)


@dataclass(frozen=True, kw_only=True)
class PoissonNoise:
    """Shot noise: each value counts photons, 256 of them for white (Real-ESRGAN, sec. 3.1).

    256 is what the authors' code comes to for a picture of more than 128 levels.

    `scale`: range of a factor of the noise, uniform; the standard deviation at white is 16 levels
    times the factor.
    `gray_probability`: chance that all channels get the noise of the luma (sec. 4.1: 0.4).
    """

    scale: Range
    gray_probability: float = 0.0

    def __post_init__(self) -> None:
        check_range("PoissonNoise.scale", self.scale, low=0.0, high=16.0)
        check_probability("PoissonNoise.gray_probability", self.gray_probability)

    def draw(self, rng: np.random.Generator) -> tuple[float, bool]:
        """The factor, and whether the noise is gray."""
        return rng.uniform(*self.scale), bool(rng.random() < self.gray_probability)

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """float32 HWC, 0..1, in and out; the argument isn't changed."""
        scale, gray = self.draw(rng)
        signal = _clip(pixels)
        if gray and signal.shape[2] == 3:
            signal = (signal @ _LUMA)[:, :, np.newaxis]
        noise: Pixels = rng.poisson(signal * _PHOTONS).astype(np.float32)
        noise = (noise / _PHOTONS - signal) * np.float32(scale)
        return _clip(pixels + noise)


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """JPEG compression through libjpeg (Pillow), as a file on the web went through it.

    `quality`: range of libjpeg's quality, 1..100, uniform whole numbers, both ends included.
    `subsampling`: chroma subsamplings, one is drawn for each picture; gray has none.
    `shift_px`: range of the offset of the block grid in x and in y, 0..15 px, whole numbers; of two
    JPEG steps give the first one a shift, and their grids don't coincide (FBCNN, section 3.3).
    """

    quality: tuple[int, int]
    subsampling: tuple[Subsampling, ...] = ("4:2:0", "4:4:4")
    shift_px: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        check_range("Jpeg.quality", self.quality, low=1, high=100)
        check_range("Jpeg.shift_px", self.shift_px, low=0, high=_JPEG_MCU_PX - 1)
        check_choices("Jpeg.subsampling", self.subsampling, get_args(Subsampling))

    def draw(self, rng: np.random.Generator) -> tuple[int, Size, Subsampling]:
        """The quality, the shift down and right, the subsampling."""
        quality = int(rng.integers(*self.quality, endpoint=True))
        top, left = (int(shift) for shift in rng.integers(*self.shift_px, size=2, endpoint=True))
        return quality, (top, left), draw_choice(rng, self.subsampling)

    def apply_levels(self, image: Levels, rng: np.random.Generator) -> Levels:
        """uint8 HWC in and out."""
        quality, (top, left), subsampling = self.draw(rng)
        if top or left:
            image = np.pad(image, ((top, 0), (left, 0), (0, 0)), mode="symmetric")
        worn = _through_jpeg(image, quality=quality, subsampling=subsampling)
        return np.ascontiguousarray(worn[top:, left:])


@dataclass(frozen=True, kw_only=True)
class Sometimes:
    """The steps inside happen, all or none, with this probability (0..1)."""

    probability: float
    steps: "tuple[Step, ...]"

    def __post_init__(self) -> None:
        check_probability("Sometimes.probability", self.probability)
        check_steps("Sometimes.steps", self.steps)

    def draw(self, rng: np.random.Generator) -> "tuple[Step, ...]":
        """The steps that happen."""
        return self.steps if rng.random() < self.probability else ()


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """One of several rows of steps happens.

    `probabilities`: one for each row, sum 1. `rows`: of each the steps in order.
    """

    probabilities: tuple[float, ...]
    rows: "tuple[tuple[Step, ...], ...]"

    def __post_init__(self) -> None:
        check_probabilities("OneOf.probabilities", self.probabilities, len(self.rows))
        for row in self.rows:
            check_steps("OneOf.rows", row)

    def draw(self, rng: np.random.Generator) -> "tuple[Step, ...]":
        """The steps that happen."""
        return draw_weighted(rng, self.rows, self.probabilities)


Step: TypeAlias = Union[  # noqa: UP007 - names of classes that are used above
    Downscale,
    RandomResize,
    ResizeToResult,
    Blur,
    Ringing,
    GaussianNoise,
    PoissonNoise,
    Jpeg,
    Sometimes,
    OneOf,
]
"""One thing that happens to a picture."""


def apply_steps(
    steps: Sequence[Step], picture: Levels | Pixels, rng: np.random.Generator, result: Size
) -> Levels | Pixels:
    """The picture (HWC) after the steps; `result` is the size that the whole degradation gives.

    It is uint8 where the last step works on files, else float32.
    """
    for step in steps:
        match step:
            case Sometimes() | OneOf():
                picture = apply_steps(step.draw(rng), picture, rng, result)
            case RandomResize() | ResizeToResult():
                picture = step.resize(to_pixels(picture), rng, result)
            case Downscale() | Jpeg():
                picture = step.apply_levels(to_levels(picture), rng)
            case _:
                picture = step.apply(to_pixels(picture), rng)
    return picture


def check_steps(what: str, found: Any) -> None:
    """Raises ConfigError if `found` is anything but a tuple of steps."""
    if not isinstance(found, tuple) or not all(isinstance(step, get_args(Step)) for step in found):
        raise ConfigError(f"{what}: expected steps, found {found}")


def _clip(pixels: Pixels) -> Pixels:
    return np.clip(pixels, np.float32(0.0), np.float32(1.0))


def _interpolate(pixels: Pixels, size: Size, kind: InterpolationKind) -> Pixels:
    """float32 HWC of the given size, clipped; outer edges match, not centres of corner pixels."""
    if pixels.shape[:2] == size:
        return pixels
    planes_nchw = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis]))
    resized = torch.nn.functional.interpolate(planes_nchw, size=size, mode=kind)
    return _clip(np.ascontiguousarray(resized.numpy()[0].transpose(1, 2, 0)))


def _through_jpeg(image: Levels, *, quality: int, subsampling: str) -> Levels:
    buffer = io.BytesIO()
    options = {} if image.shape[2] == 1 else {"subsampling": subsampling}
    to_pil(image).save(buffer, format="JPEG", quality=quality, **options)
    with Image.open(buffer) as decoded:
        return from_pil(decoded)
