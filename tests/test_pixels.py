"""The crossing between integers HWC and floats NCHW loses nothing."""

import numpy as np
import pytest
import torch

from resnet_core.pixels import to_levels, to_nchw


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_comes_back(dtype: type[np.unsignedinteger]) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(-1, 64, 1)
    x = to_nchw(levels)
    assert x.shape == (1, 1, *levels.shape[:2])
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert np.array_equal(to_levels(x, levels.dtype)[0], levels)


def test_channels_and_batch_keep_their_order() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    x = to_nchw(batch)
    assert x.shape == (2, 3, 5, 7)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert float(x[1, 2, 3, 4]) == pytest.approx(batch[1, 3, 4, 2] / 255)
    assert np.array_equal(to_levels(x, batch.dtype), batch)


def test_values_outside_are_clipped_and_the_rest_rounded_to_nearest() -> None:
    x = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 7.0]).reshape(1, 1, 1, 6)
    assert to_levels(x, np.dtype(np.uint8)).ravel().tolist() == [0, 0, 0, 1, 255, 255]
