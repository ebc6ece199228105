"""Counts, times and sizes as people read them."""

import math

import pytest

from pipelines.quantities import format_bytes, format_count, format_duration, format_figure


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0 ms"),
        (0.0031, "3.1 ms"),
        (0.0123, "12 ms"),
        (1.23, "1.2 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (75, "1 min 15 s"),
        (3600, "1 h"),
        (3_570, "59 min 30 s"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_read_in_two_units(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999, "999 B"), (1_530_000, "1.5 MB"), (999_600, "1.0 MB"), (2e15, "2.0 PB")],
)
def test_bytes_read_in_decimal_units(value: float, shown: str) -> None:
    assert format_bytes(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1,234"), (0.1234, "0.123"), (12.345, "12.3"), (0, "0"), (math.nan, "n/a")],
)
def test_figures_keep_three_digits(value: float, shown: str) -> None:
    assert format_figure(value) == shown


def test_counts_are_grouped_by_thousands() -> None:
    assert format_count(1_234_567) == "1,234,567"
