"""The quantisation tables of JPEG, and the quality that they stand for.

"Quality" is that of the Independent JPEG Group's library, 1 to 100, which nearly all programs use:
the table that ITU-T T.81 gives as an example for luma (annex K.1), times a factor (`jcparam.c`,
`jpeg_quality_scaling` and `jpeg_add_quant_table`).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_EXAMPLE: Final = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def luma_table(quality: int) -> NDArray[np.int64]:
    """Steps of the 64 coefficients, 1 to 255, [vertical, horizontal] frequency."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((_EXAMPLE * percent + 50) // 100, 1, 255)


LUMA_TABLES: Final = np.stack([luma_table(quality) for quality in range(1, 101)])
"""Of the qualities 1 to 100, in that order."""


def nearest_quality(table: Sequence[int]) -> int:
    """The quality whose luma table is nearest to `table` (64 steps, row by row).

    It is exact for tables of the library; other programs have their own.
    """
    steps = np.maximum(np.reshape(table, (8, 8)), 1)
    return int(np.abs(np.log(LUMA_TABLES / steps)).sum((1, 2)).argmin()) + 1
