"""How a good photograph gets worse: the steps that make the input of training and evaluation.

A `Degradation` is a fixed list of frozen steps; all chance comes from the generator that is handed
in, so that one seed gives one picture. Between steps pixels are float32 HWC, 0..1, RGB or gray; a
degraded picture is what a file holds, uint8. "Levels" are steps of an 8-bit file, 0..255.

Sources of the steps: BSRGAN (Zhang et al. 2021, arXiv:2103.14006) and Real-ESRGAN (Wang et al.
2021, arXiv:2107.10833) for blur, resampling, noise and JPEG in a row; DnCNN (Zhang et al. 2017,
arXiv:1608.03981) for blind noise levels; FBCNN (Jiang et al. 2021, arXiv:2109.14573) for double
JPEG whose two grids don't coincide.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, Protocol, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from resnet_core.errors import ConfigError, did_you_mean

Pixels = NDArray[np.float32]
Levels = NDArray[np.uint8]
Range = tuple[float, float]
ResampleKind = Literal["bicubic", "bilinear", "box", "lanczos"]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

_RESAMPLING: Final[dict[str, Image.Resampling]] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}
_BLUR_TRUNCATE_SIGMAS: Final = 3.0
_JPEG_MCU_PX: Final = 16


class Step(Protocol):
    """One thing that happens to a picture."""

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """float32 HWC, 0..1, in and out; the argument isn't changed."""
        ...


@dataclass(frozen=True, kw_only=True)
class Downscale:
    """A smaller picture, antialiased, on 8-bit levels: what Pillow's `resize` gives.

    Bicubic is the convention of super-resolution papers (MATLAB's `imresize`, equal to 0.02 dB).
    `scale`: whole factor, 1 or more; the sides must be multiples of it.
    `kinds`: filters, one is drawn for each picture (BSRGAN and Real-ESRGAN draw likewise).
    """

    scale: int
    kinds: tuple[ResampleKind, ...] = ("bicubic",)

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ConfigError(f"Downscale.scale: expected 1 or more, found {self.scale}")
        _check_choices("Downscale.kinds", self.kinds, get_args(ResampleKind))

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        return _to_pixels(self.apply_levels(to_levels(pixels), rng))

    def apply_levels(self, image: Levels, rng: np.random.Generator) -> Levels:
        """The same on uint8 HWC, straight through Pillow."""
        height, width = image.shape[:2]
        if height % self.scale or width % self.scale:
            raise ValueError(f"{width}x{height} px: expected multiples of {self.scale}")
        kind = _draw_choice(rng, self.kinds)
        size = (width // self.scale, height // self.scale)
        return from_pil(to_pil(image).resize(size, _RESAMPLING[kind]))


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Gaussian blur, isotropic or elongated in a random direction (BSRGAN, section III-A).

    `sigma_px`: range of the standard deviation, pixels, uniform.
    `elongation`: range of the ratio of long to short axis, 1 or more, uniform; (1, 1) is isotropic.
    """

    sigma_px: Range
    elongation: Range = (1.0, 1.0)

    def __post_init__(self) -> None:
        _check_range("Blur.sigma_px", self.sigma_px, low=0.0, high=32.0)
        _check_range("Blur.elongation", self.elongation, low=1.0, high=8.0)

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        sigma_px = rng.uniform(*self.sigma_px)
        elongation = rng.uniform(*self.elongation)
        angle_rad = rng.uniform(0.0, math.pi)
        if sigma_px == 0.0:
            return pixels
        return _convolve(pixels, _gaussian_kernel(sigma_px, sigma_px / elongation, angle_rad))


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Additive white Gaussian noise (blind levels: DnCNN, section IV-A).

    `sigma_levels`: range of the standard deviation, levels of 0..255, uniform.
    `gray_probability`: chance that all channels get the same noise (Real-ESRGAN, section 3.2: 0.4).
    """

    sigma_levels: Range
    gray_probability: float = 0.0

    def __post_init__(self) -> None:
        _check_range("GaussianNoise.sigma_levels", self.sigma_levels, low=0.0, high=255.0)
        _check_probability("GaussianNoise.gray_probability", self.gray_probability)

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        sigma = np.float32(rng.uniform(*self.sigma_levels) / 255.0)
        height, width, channels = pixels.shape
        if rng.random() < self.gray_probability:
            channels = 1
        noise: Pixels = rng.standard_normal((height, width, channels), dtype=np.float32)
        noise *= sigma
        return _clip(pixels + noise)


@dataclass(frozen=True, kw_only=True)
class PoissonNoise:
    """Shot noise: each value counts photons (BSRGAN, section III-C; Real-ESRGAN, section 3.2).

    `peak_photons`: range of the photons that make white, log-uniform; the standard deviation at
    white is 255 / sqrt(peak) levels: 1000 gives 8 levels.
    """

    peak_photons: Range

    def __post_init__(self) -> None:
        _check_range("PoissonNoise.peak_photons", self.peak_photons, low=1.0, high=1e6)

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        low, high = self.peak_photons
        peak = math.exp(rng.uniform(math.log(low), math.log(high)))
        photons = rng.poisson(_clip(pixels) * peak)
        return _clip(photons.astype(np.float32) / np.float32(peak))


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
        _check_range("Jpeg.quality", self.quality, low=1, high=100)
        _check_range("Jpeg.shift_px", self.shift_px, low=0, high=_JPEG_MCU_PX - 1)
        _check_choices("Jpeg.subsampling", self.subsampling, get_args(Subsampling))

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        return _to_pixels(self.apply_levels(to_levels(pixels), rng))

    def apply_levels(self, image: Levels, rng: np.random.Generator) -> Levels:
        """The same on uint8 HWC."""
        quality = int(rng.integers(*self.quality, endpoint=True))
        top, left = (int(shift) for shift in rng.integers(*self.shift_px, size=2, endpoint=True))
        subsampling = _draw_choice(rng, self.subsampling)
        padded = np.pad(image, ((top, 0), (left, 0), (0, 0)), mode="symmetric")
        worn = _through_jpeg(padded, quality=quality, subsampling=subsampling)
        return np.ascontiguousarray(worn[top:, left:])


@dataclass(frozen=True, kw_only=True)
class Sometimes:
    """The steps inside happen, all or none, with this probability (0..1)."""

    probability: float
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        _check_probability("Sometimes.probability", self.probability)

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        if rng.random() >= self.probability:
            return pixels
        for step in self.steps:
            pixels = step.apply(pixels, rng)
        return pixels


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What stands between a target and its input.

    `name`: the task it belongs to. `scale`: target side / input side. `steps`: in order.
    """

    name: str
    scale: int
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        found = math.prod(step.scale for step in self.steps if isinstance(step, Downscale))
        if found != self.scale:
            raise ConfigError(
                f"degradation {self.name}: scale {self.scale}, its steps give {found}"
            )


def degrade(image: Levels, degradation: Degradation, rng: np.random.Generator) -> Levels:
    """The degraded `image`: uint8 HWC in and out, C = 1 or 3, 1 / scale of its size.

    Raises ValueError where a side is no multiple of the scale (see `crop_to_multiple`).
    """
    _check_image(image)
    picture: Levels | Pixels = image
    for step in degradation.steps:
        if isinstance(step, Downscale | Jpeg):
            picture = step.apply_levels(to_levels(picture), rng)
        else:
            picture = step.apply(_to_pixels(picture), rng)
    return to_levels(picture)


def crop_to_multiple(image: Levels, scale: int) -> Levels:
    """`image` (HWC) without what `scale` doesn't divide at bottom and right; a view."""
    height, width = image.shape[:2]
    if min(height, width) < scale:
        raise ValueError(f"{width}x{height} px: smaller than the scale {scale}")
    return image[: height - height % scale, : width - width % scale]


def to_levels(picture: Levels | Pixels) -> Levels:
    """uint8 0..255 from float32 0..1, clipped and rounded to the nearest level; uint8 as it is."""
    if picture.dtype == np.uint8:
        return cast("Levels", picture)
    return np.rint(np.clip(picture, 0.0, 1.0) * np.float32(255.0)).astype(np.uint8)


def to_pil(image: Levels) -> Image.Image:
    """Pillow's picture (mode RGB or L) of uint8 HWC, C = 3 or 1."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def from_pil(image: Image.Image) -> Levels:
    """uint8 HWC, C = 3 or 1, writable, of Pillow's picture of mode RGB or L."""
    levels = np.array(image, dtype=np.uint8)
    return levels[:, :, np.newaxis] if levels.ndim == 2 else levels


def describe(degradation: Degradation) -> dict[str, Any]:
    """The degradation as plain JSON values, for the metadata of weights; see `from_description`."""
    return {
        "name": degradation.name,
        "scale": degradation.scale,
        "steps": [_describe_step(step) for step in degradation.steps],
    }


def from_description(description: Mapping[str, Any]) -> Degradation:
    """The degradation that `describe` told of. Raises ConfigError that names what can't be read."""
    values = _checked_fields("degradation", description, ("name", "scale", "steps"))
    try:
        steps = _steps_from(values["steps"])
        return Degradation(name=values["name"], scale=values["scale"], steps=steps)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"degradation can't be read: {error}") from error


def bicubic(scale: int) -> Degradation:
    """The clean small picture of the super-resolution papers: bicubic down, nothing else."""
    return Degradation(name=f"sr-x{scale}", scale=scale, steps=(Downscale(scale=scale),))


def gaussian_noise(sigma_levels: float) -> Degradation:
    """Noise of one known level, for tables: what `denoise` is measured with (sigma 15, 25, 50).

    The noisy picture is rounded and clipped to 8 bits, as a file is; papers often keep floats.
    """
    noise = GaussianNoise(sigma_levels=(sigma_levels, sigma_levels))
    return Degradation(name=f"noise-{sigma_levels:g}", scale=1, steps=(noise,))


def jpeg(quality: int, *, subsampling: Subsampling = "4:2:0") -> Degradation:
    """JPEG of one known quality, for tables: what `dejpeg` is measured with (quality 10 to 40)."""
    step = Jpeg(quality=(quality, quality), subsampling=(subsampling,))
    return Degradation(name=f"jpeg-{quality}", scale=1, steps=(step,))


def standard_degradation(task: str) -> Degradation:
    """The degradation that the weights of `task` are trained on. Raises ConfigError for others."""
    if task not in STANDARD:
        raise ConfigError(f"no degradation for task {task!r}; {did_you_mean(task, STANDARD)}")
    return STANDARD[task]


def _describe_step(step: Step) -> dict[str, Any]:
    if isinstance(step, Sometimes):
        inner = [_describe_step(each) for each in step.steps]
        return {"step": "Sometimes", "probability": step.probability, "steps": inner}
    values = {field.name: getattr(step, field.name) for field in fields(cast("Any", step))}
    plain = {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }
    return {"step": type(step).__name__, **plain}


def _steps_from(descriptions: Any) -> tuple[Step, ...]:
    return tuple(_step_from(description) for description in descriptions)


def _step_from(description: Mapping[str, Any]) -> Step:
    name = str(description.get("step"))
    if name not in _STEPS:
        raise ConfigError(f"no degradation step {name!r}; {did_you_mean(name, _STEPS)}")
    kind = _STEPS[name]
    names = ("step", *(field.name for field in fields(kind)))
    values = _checked_fields(f"degradation step {name}", description, names)
    del values["step"]
    if kind is Sometimes:
        return Sometimes(probability=values["probability"], steps=_steps_from(values["steps"]))
    return kind(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )


def _checked_fields(
    what: str, description: Mapping[str, Any], names: tuple[str, ...]
) -> dict[str, Any]:
    if set(description) != set(names):
        raise ConfigError(f"{what}: expected {sorted(names)}, found {sorted(description)}")
    return dict(description)


def _check_image(image: Levels) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"expected uint8 HWC with 1 or 3 channels, found {image.dtype} {image.shape}"
        )


def _check_range(what: str, found: Range, *, low: float, high: float) -> None:
    if len(found) != 2 or not low <= found[0] <= found[1] <= high:
        raise ConfigError(f"{what}: expected a range within {low:g}..{high:g}, found {found}")


def _check_probability(what: str, found: float) -> None:
    if not 0.0 <= found <= 1.0:
        raise ConfigError(f"{what}: expected 0..1, found {found}")


def _check_choices(what: str, found: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not found or not set(found) <= set(known):
        raise ConfigError(f"{what}: expected one or more of {', '.join(known)}, found {found}")


def _draw_choice(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[0] if len(choices) == 1 else choices[int(rng.integers(len(choices)))]


def _to_pixels(picture: Levels | Pixels) -> Pixels:
    if picture.dtype == np.float32:
        return cast("Pixels", picture)
    return picture.astype(np.float32) / np.float32(255.0)


def _clip(pixels: Pixels) -> Pixels:
    return np.clip(pixels, np.float32(0.0), np.float32(1.0))


def _through_jpeg(image: Levels, *, quality: int, subsampling: str) -> Levels:
    buffer = io.BytesIO()
    options = {} if image.shape[2] == 1 else {"subsampling": subsampling}
    to_pil(image).save(buffer, format="JPEG", quality=quality, **options)
    with Image.open(buffer) as decoded:
        return from_pil(decoded)


def _gaussian_kernel(sigma_long: float, sigma_short: float, angle_rad: float) -> Pixels:
    """Sampled Gaussian of the given axes, px, the long one turned by the angle; float32, sum 1."""
    radius = max(1, math.ceil(_BLUR_TRUNCATE_SIGMAS * sigma_long))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    along = x * math.cos(angle_rad) + y * math.sin(angle_rad)
    across = y * math.cos(angle_rad) - x * math.sin(angle_rad)
    kernel = np.exp(-0.5 * ((along / sigma_long) ** 2 + (across / sigma_short) ** 2))
    return (kernel / kernel.sum()).astype(np.float32)


def _convolve(pixels: Pixels, kernel: Pixels) -> Pixels:
    """Each channel with the kernel, same size, edges mirrored with the edge pixel repeated."""
    radius = kernel.shape[0] // 2
    padded = np.pad(pixels, ((radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    planes_nchw = torch.from_numpy(np.ascontiguousarray(padded.transpose(2, 0, 1)[:, np.newaxis]))
    blurred = torch.nn.functional.conv2d(planes_nchw, torch.from_numpy(kernel)[None, None])
    return np.ascontiguousarray(blurred.numpy()[:, 0].transpose(1, 2, 0))


BICUBIC_X2: Final = bicubic(2)
BICUBIC_X3: Final = bicubic(3)
BICUBIC_X4: Final = bicubic(4)
DENOISE: Final = Degradation(
    name="denoise", scale=1, steps=(GaussianNoise(sigma_levels=(0.0, 50.0)),)
)
DEJPEG: Final = Degradation(
    name="dejpeg",
    scale=1,
    steps=(
        Sometimes(probability=0.3, steps=(Jpeg(quality=(10, 95), shift_px=(0, 15)),)),
        Jpeg(quality=(10, 95)),
    ),
)
RESTORE: Final = Degradation(
    name="restore",
    scale=1,
    steps=(
        Sometimes(probability=0.8, steps=(Blur(sigma_px=(0.2, 1.2), elongation=(1.0, 2.0)),)),
        Sometimes(probability=0.5, steps=(PoissonNoise(peak_photons=(400.0, 10_000.0)),)),
        Sometimes(
            probability=0.6,
            steps=(GaussianNoise(sigma_levels=(0.0, 12.0), gray_probability=0.4),),
        ),
        Sometimes(probability=0.2, steps=(Jpeg(quality=(60, 95), shift_px=(0, 15)),)),
        Jpeg(quality=(40, 95)),
    ),
)
PHOTO_X2: Final = Degradation(
    name="photo-x2",
    scale=2,
    steps=(
        Sometimes(probability=0.8, steps=(Blur(sigma_px=(0.2, 1.6), elongation=(1.0, 2.0)),)),
        Downscale(scale=2, kinds=("bicubic", "bilinear", "box", "lanczos")),
        Sometimes(probability=0.5, steps=(PoissonNoise(peak_photons=(400.0, 10_000.0)),)),
        Sometimes(
            probability=0.6,
            steps=(GaussianNoise(sigma_levels=(0.0, 10.0), gray_probability=0.4),),
        ),
        Jpeg(quality=(40, 95)),
    ),
)
STANDARD: Final[dict[str, Degradation]] = {
    degradation.name: degradation
    for degradation in (BICUBIC_X2, BICUBIC_X3, BICUBIC_X4, DENOISE, DEJPEG, RESTORE, PHOTO_X2)
}

_STEPS: Final[dict[str, type[Any]]] = {
    kind.__name__: kind for kind in (Downscale, Blur, GaussianNoise, PoissonNoise, Jpeg, Sometimes)
}
