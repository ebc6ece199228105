"""Inline SVG charts that stretch with the page: positions across in percent, down in pixels.

Text keeps its size at every width, since nothing is scaled; colours come from the page's classes,
so that one drawing serves the light and the dark scheme. Every text is escaped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


@dataclass(frozen=True, kw_only=True)
class Point:
    """One mark of a scatter plot; `emphasis` draws it in the accent colour."""

    label: str
    x: float
    y: float
    emphasis: bool = False


def _svg(label: str, height_px: int, parts: Sequence[Markup]) -> Markup:
    body = Markup("").join(parts)
    return Markup(
        '<svg class="chart" role="img" aria-label="{}" width="100%" height="{}">{}</svg>'
    ).format(label, height_px, body)


def _text(x: float, y: float, text: str, *, anchor: str = "middle", kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.2f}%" y="{:.1f}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, escape(text)
    )


def columns(
    counts: Sequence[int], edges: Sequence[float], *, unit: str, label: str, height_px: int = 190
) -> Markup:
    """A histogram: one column for each bin, its count above, the edges below."""
    top, base = 22, height_px - 40
    step = 100 / max(len(counts), 1)
    highest = max(max(counts, default=0), 1)
    parts = [Markup('<line class="axis" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(base)]
    for index, count in enumerate(counts):
        bar_px = (base - top) * count / highest
        bar_px = max(bar_px, 2.0) if count else 0.0
        span = bin_label(edges[index], edges[index + 1])
        parts.append(
            Markup(
                '<rect class="bar" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}" rx="3">'
                "<title>{} {}: {:,}</title></rect>"
            ).format(
                index * step + step * 0.08, base - bar_px, step * 0.84, bar_px, span, unit, count
            )
        )
        if count:
            x = (index + 0.5) * step
            parts.append(_text(x, base - bar_px - 6, compact(count), kind="value"))
    for index, edge in enumerate(edges[1:-1], start=1):
        parts.append(_text(index * step, base + 16, f"{edge:g}"))
    parts.append(_text(100, base + 34, unit, anchor="end"))
    return _svg(label, height_px, parts)


def bin_label(low: float, high: float) -> str:
    """How a bin reads: "0.5 to 1", "under 0.1", "64 and more"."""
    if math.isinf(high):
        return f"{low:g} and more"
    return f"{low:g} to {high:g}" if low > 0 else f"under {high:g}"


def compact(count: int) -> str:
    """A count in few letters: 950, 1.2k, 34k, 5.1M."""
    for limit, divisor, suffix in ((1000, 1, ""), (999_500, 1000, "k"), (math.inf, 1_000_000, "M")):
        if count < limit:
            scaled = count / divisor
            return (
                f"{scaled:.1f}{suffix}"
                if divisor > 1 and scaled < 9.95
                else f"{scaled:.0f}{suffix}"
            )
    raise AssertionError("unreachable")


def shares(stages: Sequence[tuple[str, float]], *, label: str) -> Markup:
    """One bar cut into stages by their share; the colours are the classes s0, s1, ..."""
    total = sum(seconds for _, seconds in stages) or 1.0
    parts: list[Markup] = []
    left = 0.0
    for index, (name, seconds) in enumerate(stages):
        width = 100 * seconds / total
        parts.append(
            Markup(
                '<rect class="s{}" x="{:.3f}%" y="0" width="{:.3f}%" height="22">'
                "<title>{}: {:.1f} %</title></rect>"
            ).format(index % 6, left, width, name, width)
        )
        left += width
    return _svg(label, 22, parts)
