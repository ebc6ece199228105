"""ICC profiles of colours that a file tells in another way: by codes, or chromaticities and gamma.

Results then carry the profile, in every format, and no reader takes them for sRGB. The codes are
ITU-T H.273's (AVIF, PNG), profiles ICC.1:2022's with a matrix and parametric curves.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_core.errors import UnsupportedImageError

Chromaticities = tuple[float, ...]
"""x and y of red, green, blue and white: eight numbers."""
Curve = tuple[float, ...]
"""A gamma; or gamma, a, b, c, d of (a v + b)^gamma, which is c v below d."""

_D65 = (0.3127, 0.3290)
SRGB: Chromaticities = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *_D65)
SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)

UNSPECIFIED = 2
_PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB,
    UNSPECIFIED: SRGB,
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *_D65),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *_D65),
    7: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *_D65),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, *_D65),
    22: (0.63, 0.34, 0.295, 0.605, 0.155, 0.077, *_D65),
}
_CURVES: dict[int, Curve] = {
    # Video's own curves are shown as that of sRGB.
    **dict.fromkeys((1, UNSPECIFIED, 6, 13, 14, 15), SRGB_CURVE),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
}
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}

_XYZ_OF_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


@dataclass(frozen=True, kw_only=True)
class ColourSpace:
    """RGB, or gray with its curve and white."""

    chromaticities: Chromaticities = SRGB
    curve: Curve = SRGB_CURVE

    @classmethod
    def of_codes(cls, primaries: int, transfer: int) -> "ColourSpace":
        """By H.273, tables 2 and 3. UnsupportedImageError for high dynamic range and others."""
        if transfer in HDR_TRANSFERS:
            raise UnsupportedImageError(
                f"colours of high dynamic range ({HDR_TRANSFERS[transfer]}) aren't read"
            )
        if primaries not in _PRIMARIES or transfer not in _CURVES:
            raise UnsupportedImageError(
                f"colours of primaries {primaries} and transfer {transfer} (H.273) aren't read"
            )
        return cls(chromaticities=_PRIMARIES[primaries], curve=_CURVES[transfer])

    def profile(self, *, gray: bool = False) -> bytes | None:
        """An ICC profile; None for sRGB, which is what is meant without one.

        Raises ValueError for chromaticities that span no colours, and gammas beyond all sense.
        """
        if self == ColourSpace():
            return None
        white = _xyz(*self.chromaticities[6:])
        adaptation = _adaptation(white)
        curve = _curve_element(self.curve)
        tags = {
            b"desc": _text_element("RGB by its chromaticities"),
            b"cprt": _text_element("CC0"),
            b"wtpt": _xyz_element(_XYZ_OF_D50),
            b"chad": b"sf32" + bytes(4) + _fixed(adaptation.ravel()),
        }
        if gray:
            tags[b"kTRC"] = curve
        else:
            columns = adaptation @ _rgb_to_xyz(self.chromaticities, white)
            for name, column in zip((b"r", b"g", b"b"), columns.T, strict=True):
                tags[name + b"XYZ"] = _xyz_element(column)
                tags[name + b"TRC"] = curve
        return _profile(b"GRAY" if gray else b"RGB ", tags)


def _xyz(x: float, y: float) -> NDArray[np.float64]:
    if y <= 0:
        raise ValueError(f"a chromaticity of y = {y}")
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _rgb_to_xyz(chromaticities: Chromaticities, white: NDArray[np.float64]) -> NDArray[np.float64]:
    red, green, blue = (_xyz(*chromaticities[at : at + 2]) for at in (0, 2, 4))
    columns = np.stack([red, green, blue], axis=1)
    try:
        return columns * np.linalg.solve(columns, white)
    except np.linalg.LinAlgError as error:
        raise ValueError("chromaticities on one line") from error


def _adaptation(white: NDArray[np.float64]) -> NDArray[np.float64]:
    """From `white` to D50 (Bradford)."""
    scale = (_BRADFORD @ _XYZ_OF_D50) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(scale) @ _BRADFORD


def _fixed(values: NDArray[np.float64] | Curve) -> bytes:
    """As s15Fixed16Number."""
    try:
        return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))
    except struct.error as error:
        raise ValueError("a number beyond 32,768 in an ICC profile") from error


def _xyz_element(value: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(value)


def _curve_element(curve: Curve) -> bytes:
    kind = 0 if len(curve) == 1 else 3
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + _fixed(curve)


def _text_element(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(encoded), 28) + encoded


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    start = 128 + 4 + 12 * len(tags)
    table, elements = struct.pack(">I", len(tags)), b""
    for name, element in tags.items():
        table += struct.pack(">4sII", name, start + len(elements), len(element))
        elements += element + bytes(-len(element) % 4)
    header = struct.pack(
        ">II4s4s4s4s6H4s28x12s48x",
        *(start + len(elements), 0, b"\x04\x30\0\0", b"mntr", space, b"XYZ "),
        *(2000, 1, 1, 0, 0, 0, b"acsp", _fixed(_XYZ_OF_D50)),
    )
    return header + table + elements
