"""ICC profiles: which pixels they fit, and the way to sRGB."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageCms

_SPACES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}
_HEADER_BYTES = 128


def profile_mode(icc_profile: bytes) -> str | None:
    """Pillow's mode ("L", "RGB", "CMYK") of the pixels that a profile describes, None if other."""
    if len(icc_profile) < _HEADER_BYTES or icc_profile[36:40] != b"acsp":
        return None
    return _SPACES.get(icc_profile[16:20])


def fitting_profile(icc_profile: bytes | None, channels: int) -> bytes | None:
    """The profile if it describes gray (1 channel) or RGB (3) pixels, as the case may be."""
    expected = "L" if channels == 1 else "RGB"
    return icc_profile if icc_profile and profile_mode(icc_profile) == expected else None


def to_srgb(pixels: NDArray[np.uint8], icc_profile: bytes) -> NDArray[np.uint8]:
    """uint8 HWC of the profile's space (gray, RGB or CMYK) to sRGB, uint8 HW3.

    Relative colorimetric with black point compensation, as browsers and editors do. Raises
    ValueError where the profile can't be used.
    """
    image = PillowImage.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if pixels.shape[2] == 4:
        image = _cmyk_image(pixels)
    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(BytesIO(icc_profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f"ICC profile can't be used: {error}") from error
    if converted is None:
        raise ValueError("ICC profile can't be used")
    return np.array(converted)


def cmyk_to_srgb(pixels: NDArray[np.uint8], icc_profile: bytes | None) -> NDArray[np.uint8]:
    """uint8 HW4, 255 = full ink, to sRGB, uint8 HW3.

    Through the profile; without one that fits, by ink's plain definition: (1 - C) (1 - K).
    """
    if icc_profile and profile_mode(icc_profile) == "CMYK":
        try:
            return to_srgb(pixels, icc_profile)
        except ValueError:
            pass
    return np.array(_cmyk_image(pixels).convert("RGB"))


def _cmyk_image(pixels: NDArray[np.uint8]) -> PillowImage.Image:
    size = (pixels.shape[1], pixels.shape[0])
    return PillowImage.frombytes("CMYK", size, pixels.tobytes())
