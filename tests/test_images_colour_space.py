"""Colours that a file tells without a profile: by codes, chromaticities or gamma."""

import struct
import zlib

import numpy as np
import pytest
from image_files import DISPLAY_P3, noise, pillow, saved

from resnet_core.errors import UnsupportedImageError
from resnet_core.images import FORMATS, decode, encode
from resnet_core.images.colour import profile_mode, to_srgb
from resnet_core.images.colour_space import SRGB_CURVE, ColourSpace

P3 = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.3290)
PIXELS = noise(32, 32, 3)


def png_with(*chunks: tuple[bytes, bytes], channels: int = 3) -> bytes:
    data = saved(pillow(noise(8, 8, channels)), "PNG")
    extra = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return data[:33] + extra + data[33:]


def numbers(*values: float) -> bytes:
    return struct.pack(f">{len(values)}I", *(round(100_000 * value) for value in values))


def avif_with(primaries: int, transfer: int, **options: bytes) -> bytes:
    data = saved(pillow(noise(8, 8, 3)), "AVIF", **options)
    at = data.index(b"nclx") + 4
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def test_a_profile_shows_what_another_of_the_same_space_shows() -> None:
    ours = ColourSpace(chromaticities=P3, curve=(2.2,)).profile()
    assert ours
    difference = to_srgb(PIXELS, ours).astype(int) - to_srgb(PIXELS, DISPLAY_P3)
    assert abs(difference).max() <= 1


def test_the_curve_is_that_of_srgb() -> None:
    shifted = (0.6401, *ColourSpace().chromaticities[1:])
    ours = ColourSpace(chromaticities=shifted).profile()
    assert ours
    assert abs(to_srgb(PIXELS, ours).astype(int) - PIXELS).max() <= 1
    assert ColourSpace().profile() is None


def test_gray_has_a_profile_of_its_own() -> None:
    linear = ColourSpace(curve=(1.0,)).profile(gray=True)
    assert linear
    assert profile_mode(linear) == "L"
    ramp = np.arange(16, 256, dtype=np.uint8)[:, None, None]
    shown = to_srgb(ramp, linear)[:, 0, 0] / 255
    v = ramp[:, 0, 0] / 255
    assert abs(shown - (1.055 * v ** (1 / 2.4) - 0.055)).max() < 0.01


@pytest.mark.parametrize(
    ("data", "space"),
    [
        (avif_with(1, 13), None),
        (avif_with(12, 13), ColourSpace(chromaticities=P3)),
        (avif_with(2, 2), None),
        (avif_with(1, 8), ColourSpace(curve=(1.0,))),
        (png_with((b"cICP", b"\x0c\x0d\0\1")), ColourSpace(chromaticities=P3)),
        (png_with((b"cICP", b"\x01\x0d\0\1"), (b"gAMA", numbers(1))), None),
        (png_with((b"gAMA", numbers(0.45455))), None),
        (png_with((b"gAMA", numbers(0.5))), ColourSpace(curve=(2.0,))),
        (png_with((b"gAMA", numbers(0.5)), (b"sRGB", b"\0")), None),
        (png_with((b"gAMA", numbers(0))), None),
        (png_with((b"cHRM", numbers(0.3127, 0.329, *P3[:6]))), ColourSpace(chromaticities=P3)),
        (png_with((b"cHRM", numbers(*[0.3] * 8))), None),
        (png_with((b"cHRM", numbers(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06))), None),
    ],
)
def test_results_carry_the_colours_of_their_source(data: bytes, space: ColourSpace | None) -> None:
    image = decode(data)
    expected = space.profile() if space else None
    assert image.icc_profile == expected
    for name, spec in FORMATS.items():
        if spec.writes and spec.icc:
            assert decode(encode(image, format=name).data).icc_profile == expected


def test_a_gray_png_with_gamma_stays_gray() -> None:
    image = decode(png_with((b"gAMA", numbers(1)), channels=1))
    assert image.icc_profile == ColourSpace(curve=(1.0,)).profile(gray=True)


@pytest.mark.parametrize(
    ("primaries", "transfer", "told"),
    [(9, 16, r"high dynamic range \(PQ\)"), (9, 18, "HLG"), (12, 11, "12 and transfer 11")],
)
def test_what_can_not_be_shown_is_refused(primaries: int, transfer: int, told: str) -> None:
    for data in (
        avif_with(primaries, transfer),
        png_with((b"cICP", bytes([primaries, transfer, 0, 1]))),
    ):
        with pytest.raises(UnsupportedImageError, match=told):
            decode(data)


def test_no_codes_but_known_ones_are_guessed() -> None:
    assert ColourSpace.of_codes(6, 6).curve == SRGB_CURVE
    with pytest.raises(UnsupportedImageError, match="primaries 99"):
        ColourSpace.of_codes(99, 13)


def test_an_avif_with_a_profile_needs_no_codes() -> None:
    assert decode(avif_with(99, 11, icc_profile=DISPLAY_P3)).icc_profile == DISPLAY_P3
    with pytest.raises(UnsupportedImageError, match="high dynamic range"):
        decode(avif_with(9, 16, icc_profile=DISPLAY_P3))
