"""The kernels that blur a picture or make it ring, and the convolution with them.

After Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833, sec. 3.1 and 3.3); the generalised Gaussian
is that of Pascal et al. 2013, arXiv:1302.6498. A kernel is float32, square, of an odd side, sum 1;
sides and sigmas are in pixels.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_core.levels import Pixels

KernelShape = Literal["gaussian", "generalised", "plateau"]

_NEGLIGIBLE: Final = 1e-7


@dataclass(frozen=True, kw_only=True)
class BlurKernel:
    """One kernel of the Gaussian's family.

    With q the squared distance from the middle in units of sigma along the two axes:
    "gaussian" exp(-q / 2), "generalised" exp(-q ** beta / 2), "plateau" 1 / (1 + q ** beta).
    `sigma_px`: along the two axes, over 0. `angle_rad`: of the first axis to x.
    `beta`: over 0; "gaussian" takes none.
    """

    shape: KernelShape
    side_px: int
    sigma_px: tuple[float, float]
    angle_rad: float = 0.0
    beta: float = 1.0

    def weights(self) -> NDArray[np.float32]:
        """float32 (side, side), sum 1."""
        x, y = _offsets(self.side_px)
        along = x * math.cos(self.angle_rad) + y * math.sin(self.angle_rad)
        across = y * math.cos(self.angle_rad) - x * math.sin(self.angle_rad)
        q = (along / self.sigma_px[0]) ** 2 + (across / self.sigma_px[1]) ** 2
        match self.shape:
            case "gaussian":
                return _normalised(np.exp(-0.5 * q))
            case "generalised":
                return _normalised(np.exp(-0.5 * q**self.beta))
            case "plateau":
                return _normalised(1.0 / (1.0 + q**self.beta))


@dataclass(frozen=True, kw_only=True)
class SincKernel:
    """The ideal low pass, cut off at the kernel's side: what it leaves rings.

    `cutoff`: the highest frequency that passes, as a share of the Nyquist frequency, over 0 to 1.
    The impulse response of a disc of frequencies is a Bessel function of the first kind over the
    distance (Real-ESRGAN, sec. 3.3).
    """

    cutoff: float
    side_px: int

    def weights(self) -> NDArray[np.float32]:
        """float32 (side, side), sum 1; some are negative."""
        omega = self.cutoff * math.pi
        distance = np.hypot(*_offsets(self.side_px))
        middle = distance == 0.0
        distance[middle] = 1.0
        bessel = torch.special.bessel_j1(torch.from_numpy(omega * distance)).numpy()
        response = omega * bessel / (2.0 * math.pi * distance)
        response[middle] = omega**2 / (4.0 * math.pi)
        return _normalised(response)


def convolve(pixels: Pixels, kernel: NDArray[np.float32]) -> Pixels:
    """Each channel of `pixels` (float32 HWC) with the kernel, same size.

    Edges are mirrored with the edge pixel repeated, as often as the kernel is larger than the
    picture.
    """
    kernel = _trimmed(kernel)
    radius = kernel.shape[0] // 2
    padded = np.pad(pixels, ((radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    planes_nchw = torch.from_numpy(np.ascontiguousarray(padded.transpose(2, 0, 1)))[None]
    channels = planes_nchw.shape[1]
    kernels = torch.from_numpy(kernel).expand(channels, 1, -1, -1)
    blurred = torch.nn.functional.conv2d(planes_nchw, kernels, groups=channels)
    return np.ascontiguousarray(blurred.numpy()[0].transpose(1, 2, 0))


def _offsets(side_px: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of each element from the middle one, px."""
    radius = side_px // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    return x, y


def _normalised(kernel: NDArray[np.float64]) -> NDArray[np.float32]:
    return (kernel / kernel.sum()).astype(np.float32)


def _trimmed(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """The kernel without the border that adds nothing: most blur is smaller than its kernel."""
    counts = np.flatnonzero(np.abs(kernel).max(axis=0) + np.abs(kernel).max(axis=1) > _NEGLIGIBLE)
    margin = min(int(counts[0]), kernel.shape[0] - 1 - int(counts[-1]))
    inner = slice(margin, kernel.shape[0] - margin)
    return np.ascontiguousarray(kernel[inner, inner])
