"""Options take numbers with units, and name what they can't take."""

import argparse
from collections.abc import Callable

import pytest

from pipelines.argument_types import amount, duration_s, positive, seconds, side_px, worker_range


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (positive, "12", 12),
        (side_px, "32", 32),
        (seconds, "0", 0),
        (seconds, "2.5", 2.5),
        (worker_range, "4", (4, 4)),
        (worker_range, "4..32", (4, 32)),
        (amount, "100M", 100_000_000),
        (amount, "256Mi", 2**28),
        (amount, "1000", 1000),
        (duration_s, "30s", 30),
        (duration_s, "90min", 5400),
        (duration_s, "1.5h", 5400),
        (duration_s, "2d", 172_800),
    ],
)
def test_a_value(kind: Callable[[str], object], text: str, value: object) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (positive, "0"),
        (side_px, "31"),
        (seconds, "-1"),
        (seconds, "inf"),
        (seconds, "nan"),
        (seconds, "soon"),
        (worker_range, "0..3"),
        (worker_range, "4..2"),
        (amount, "12 apples"),
        (amount, "0"),
        (amount, "inf"),
        (duration_s, "8"),
        (duration_s, "0h"),
        (duration_s, "-1h"),
        (duration_s, "an hour"),
    ],
)
def test_what_is_none(kind: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected"):
        kind(text)
