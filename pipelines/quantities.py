"""Counts, times and sizes as people read them."""

import math


def format_count(value: int) -> str:
    """1204 -> "1,204"."""
    return f"{value:,}"


def format_duration(seconds: float) -> str:
    """0.0123 -> "12 ms", 75 -> "1 min 15 s", 90000 -> "1 d 1 h"."""
    if seconds < 1:
        return f"{seconds * 1000:.{0 if seconds == 0 or seconds >= 0.00995 else 1}f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two_units(whole, 60, "min", "s")
    if whole < 86400:
        return _two_units(round(whole / 60), 60, "h", "min")
    return _two_units(round(whole / 3600), 24, "d", "h")


def _two_units(value: int, ratio: int, large: str, small: str) -> str:
    whole, rest = divmod(value, ratio)
    return f"{whole:,} {large} {rest} {small}" if rest else f"{whole:,} {large}"


def format_bytes(value: float) -> str:
    """Decimal units: 1_530_000 -> "1.5 MB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} PB"


def format_figure(value: float, digits: int = 3) -> str:
    """About `digits` significant digits without an exponent: 1234.5 -> "1,234"."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "n/a"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"
