"""Quality by quantisation tables: exact for those of the library that nearly all programs use."""

import numpy as np
import pytest
from image_files import noise, pillow, reopened, saved

from resnet_core.images import decode
from resnet_core.jpeg_tables import LUMA_TABLES, luma_table, nearest_quality


@pytest.mark.parametrize("quality", range(1, 101))
def test_the_tables_are_those_of_the_library(quality: int) -> None:
    data = saved(pillow(noise(8, 8, 3)), "JPEG", quality=quality)
    assert reopened(data).quantization[0] == luma_table(quality).ravel().tolist()
    assert decode(data).jpeg_quality == quality


def test_luma_may_have_any_of_the_files_tables() -> None:
    data = bytearray(saved(pillow(noise(8, 8, 3)), "JPEG", quality=30))
    tables = [at + 4 for at in range(len(data)) if data[at : at + 4] == b"\xff\xdb\x00\x43"]
    frame = data.index(b"\xff\xc0")
    for at in (*tables, *range(frame + 12, frame + 21, 3)):
        data[at] = 1 - data[at]  # the two change their numbers
    assert reopened(bytes(data)).quantization[1] == luma_table(30).ravel().tolist()
    assert decode(bytes(data)).jpeg_quality == 30


def test_other_tables_have_the_quality_of_the_nearest() -> None:
    assert nearest_quality((luma_table(60) + np.eye(8, dtype=int)).ravel().tolist()) in (59, 60)
    flat = saved(pillow(noise(8, 8, 3)), "JPEG", qtables=[[40] * 64])
    assert 20 < (decode(flat).jpeg_quality or 0) < 80
    assert nearest_quality([0] * 64) == 100, "steps that can't be"
    assert nearest_quality([65535] * 64) == 1, "steps of 16 bits"


def test_coarser_tables_have_a_lower_quality() -> None:
    assert (np.diff(LUMA_TABLES, axis=0) <= 0).all()


def test_other_formats_have_none() -> None:
    assert decode(saved(pillow(noise(8, 8, 3)), "PNG")).jpeg_quality is None
