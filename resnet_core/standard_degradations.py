"""The degradation of each task, and those of known strength for tables.

`photo-x2` is the second-order process of Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833, sec. 3)
with the values of its section 4.1 and of its authors' `options/train_realesrgan_x2plus.yml`: blur,
random size, noise and JPEG happen twice, and at the end the picture gets its size and a ringing
filter, before the last JPEG or after it.

`restore` is the same process at scale 1, for an ordinary worn photograph, that is a milder case.
Each of its values is published too, and none is invented:

- both orders have the values that Real-ESRGAN gives its second one, the milder of the two;
- the smallest size between is 1 / (2 * scale) of the target, which is a half here (BSRGAN, Zhang
  et al. 2021, arXiv:2103.14006, and `add_resize` of its authors' `utils_blindsr.py`). Real-ESRGAN's
  own 0.15 and 0.3 were chosen for enlargement: a picture of which a sixth is left isn't restored
  at the same size.

JPEG has the 4:2:0 of the authors' encoders.
"""

from typing import Final

from resnet_core.chance import Range
from resnet_core.degradation import Degradation
from resnet_core.degradation_steps import (
    Blur,
    Downscale,
    GaussianNoise,
    Jpeg,
    OneOf,
    PoissonNoise,
    RandomResize,
    ResizeToResult,
    Ringing,
    Sometimes,
    Step,
    Subsampling,
)
from resnet_core.errors import ConfigError, did_you_mean


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


def _blur_or_ringing(sigma_px: Range) -> OneOf:
    """Blur, or ringing with a probability of 0.1 (Real-ESRGAN, sec. 4.1).

    A ringing kernel has each of the eight sides alike, and the three below 13 px cut off at a third
    of the Nyquist frequency or more, the others at a fifth (`realesrgan_dataset.py`).
    """
    return OneOf(
        probabilities=(0.9, 0.0375, 0.0625),
        rows=(
            (Blur(sigma_px=sigma_px),),
            (Ringing(cutoff=(1 / 3, 1.0), side_px=(7, 11)),),
            (Ringing(cutoff=(1 / 5, 1.0), side_px=(13, 21)),),
        ),
    )


def _noise(sigma_levels: Range, poisson_scale: Range) -> OneOf:
    """Gaussian or Poisson noise, one as likely as the other, of which 0.4 is gray (sec. 4.1)."""
    return OneOf(
        probabilities=(0.5, 0.5),
        rows=(
            (GaussianNoise(sigma_levels=sigma_levels, gray_probability=0.4),),
            (PoissonNoise(scale=poisson_scale, gray_probability=0.4),),
        ),
    )


def _last_jpeg_and_size() -> OneOf:
    """Size and ringing before JPEG or after it, one as likely as the other (sec. 3.3)."""
    size_and_ringing = (
        ResizeToResult(),
        Sometimes(probability=0.8, steps=(Ringing(cutoff=(1 / 3, 1.0)),)),
    )
    return OneOf(
        probabilities=(0.5, 0.5),
        rows=((*size_and_ringing, _JPEG), (_JPEG, *size_and_ringing)),
    )


def _milder_order(smallest: float) -> tuple[Step, ...]:
    """Blur, size and noise as in the second order of Real-ESRGAN, JPEG apart.

    `smallest`: of the sizes, as a share of the result's sides.
    """
    return (
        Sometimes(probability=0.8, steps=(_blur_or_ringing((0.2, 1.5)),)),
        RandomResize(factor=(smallest, 1.2), up=0.3, down=0.4, reference="result"),
        _noise((1.0, 25.0), (0.05, 2.5)),
    )


_JPEG: Final = Jpeg(quality=(30, 95), subsampling=("4:2:0",))

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
        *_milder_order(smallest=0.5),
        _JPEG,
        *_milder_order(smallest=0.5),
        _last_jpeg_and_size(),
    ),
)
PHOTO_X2: Final = Degradation(
    name="photo-x2",
    scale=2,
    steps=(
        _blur_or_ringing((0.2, 3.0)),
        RandomResize(factor=(0.15, 1.5), up=0.2, down=0.7),
        _noise((1.0, 30.0), (0.05, 3.0)),
        _JPEG,
        *_milder_order(smallest=0.3),
        _last_jpeg_and_size(),
    ),
)
STANDARD: Final[dict[str, Degradation]] = {
    degradation.name: degradation
    for degradation in (BICUBIC_X2, BICUBIC_X3, BICUBIC_X4, DENOISE, DEJPEG, RESTORE, PHOTO_X2)
}
