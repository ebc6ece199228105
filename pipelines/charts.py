"""Inline SVG charts that stretch with the page: positions across in percent, down in pixels.

Text keeps its size at every width, since nothing is scaled; colours come from the page's classes,
so that one drawing serves the light and the dark scheme. Every text is escaped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape


@dataclass(frozen=True, kw_only=True)
class Point:
    """One mark of a scatter plot; `emphasis` draws it in the accent colour."""

    label: str
    x: float
    y: float
    emphasis: bool = False


def _svg(label: str, height_px: int, parts: Sequence[Markup], *, kind: str = "chart") -> Markup:
    body = Markup("").join(parts)
    return Markup(
        '<svg class="{}" role="img" aria-label="{}" width="100%" height="{}">{}</svg>'
    ).format(kind, label, height_px, body)


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
        x, y, width = index * step + step * 0.08, base - bar_px, step * 0.84
        parts.append(
            Markup(
                '<rect class="bar" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}" rx="3">'
                "<title>{} {}: {:,}</title></rect>"
            ).format(x, y, width, bar_px, span, unit, count)
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
    if count < 1000:
        return str(count)
    scaled, suffix = (count / 1000, "k") if count < 999_500 else (count / 1_000_000, "M")
    return f"{scaled:.1f}{suffix}" if scaled < 9.95 else f"{scaled:.0f}{suffix}"


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


def steps(
    edges: Sequence[float],
    values: Sequence[float],
    *,
    names: Sequence[str],
    label: str,
    ticks: Sequence[tuple[float, str]] = (),
    kind: str = "steps",
    height_px: int = 96,
) -> Markup:
    """Values that hold from edge to edge, as a filled stair.

    `edges` and the positions of `ticks` are shares of the width, 0 to 1;
    `names[i]` tells where step i lies, for who points at it.
    """
    top, base = 16.0, float(height_px)
    highest = max(values) or 1.0
    corners = " ".join(
        f"{1000 * edge:.1f},{100 - 100 * value / highest:.2f}"
        for value, *ends in zip(values, edges, edges[1:], strict=False)
        for edge in ends
    )
    parts = [
        Markup(
            '<svg class="{}" aria-hidden="true" y="{}" width="100%" height="{}" '
            'viewBox="0 0 1000 100" preserveAspectRatio="none">'
            '<polygon class="area" points="0,100 {} 1000,100"/><polyline points="{}"/></svg>'
        ).format(kind, top, base - top, corners, corners)
    ]
    for level in _levels(highest):
        y = base - (base - top) * level / highest
        parts.append(_line("grid-line", 0, y, 100, y))
        parts.append(_text(0, y - 4, f"{level:,g}", anchor="start", kind="tick over"))
    parts.append(_line("axis", 0, base, 100, base))
    for value, begin, end, name in zip(values, edges, edges[1:], names, strict=False):
        parts.append(
            Markup(
                '<rect class="hit" x="{:.2f}%" y="0" width="{:.2f}%" height="{}">'
                "<title>{}: {:.3g}</title></rect>"
            ).format(100 * begin, 100 * (end - begin), base, name, value)
        )
    parts.extend(_ruled(ticks, base))
    return _svg(label, height_px + (22 if ticks else 2), parts)


def _levels(highest: float) -> list[float]:
    """One or two round values up to `highest`, to read a height by."""
    unit = 10.0 ** math.floor(math.log10(highest))
    step = next(unit * factor for factor in (5, 2, 1, 0.5) if unit * factor <= highest / 1.5)
    return [step * count for count in (1, 2) if step * count <= highest]


def ruler(ticks: Sequence[tuple[float, str]], *, label: str) -> Markup:
    """An axis alone, for drawings that stand above it; positions are shares, 0 to 1."""
    return _svg(label, 24, [_line("axis", 0, 0.5, 100, 0.5), *_ruled(ticks, 0.5)])


def _ruled(ticks: Sequence[tuple[float, str]], base: float) -> list[Markup]:
    parts: list[Markup] = []
    for share, text in ticks:
        anchor = "start" if share == 0 else "end" if share > 0.95 else "middle"
        parts.append(_line("axis", 100 * share, base, 100 * share, base + 4))
        parts.append(_text(100 * share, base + 17, text, anchor=anchor))
    return parts


def ridge(
    counts: Sequence[int], *, marks: Sequence[float], color: str, label: str, height_px: int = 34
) -> Markup:
    """How counts are spread over equal bins, as one hill; `marks` are lines at shares, 0 to 1."""
    highest = max(max(counts, default=0), 1)
    points = " ".join(
        f"{1000 * (index + 0.5) / len(counts):.1f},{100 - 96 * count / highest:.2f}"
        for index, count in enumerate(counts)
    )
    hill = Markup(
        '<svg aria-hidden="true" width="100%" height="{}" viewBox="0 0 1000 100" '
        'preserveAspectRatio="none"><polygon class="hill {}" points="0,100 {} 1000,100"/></svg>'
    ).format(height_px, color, points)
    lines = [_line("mark", 100 * share, 3, 100 * share, height_px) for share in marks]
    return _svg(label, height_px, [hill, _line("axis", 0, height_px, 100, height_px), *lines])


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A horizontal line to compare a curve with."""

    y: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of a curve that is told from the others, with its name beside it."""

    x: float
    y: float
    label: str


def curve(
    points: Sequence[tuple[float, float]],
    *,
    names: Sequence[str],
    label: str,
    x_label: str = "",
    reference: Reference | None = None,
    mark: Mark | None = None,
    areas: Sequence[tuple[str, Sequence[float]]] = (),
    from_zero: bool = False,
    height_px: int = 190,
) -> Markup:
    """Finite points (x from 0 up, ascending; one or more) joined by a line; one alone is a dot.

    `names[i]` is for who points at point i. `areas` are a colour's class and a height at each
    point, stacked from the ground up; they start from zero. The y axis stands at the left, in the
    drawing's padding; it may begin anywhere unless `from_zero`.
    """
    top, base = 24.0, height_px - (42.0 if x_label else 24.0)
    shown = [y for _, y in points]
    shown += [reference.y] if reference is not None else []
    shown += [0.0] if from_zero or areas else []
    ticks = _round_ticks(min(shown), max(shown))
    high_x = max(points[-1][0], 1e-9)

    def across(x: float) -> float:
        return 100 * x / high_x

    def down(y: float) -> float:
        return base - (base - top) * (y - ticks[0]) / (ticks[-1] - ticks[0])

    texts = _tick_texts(ticks)
    parts: list[Markup] = []
    for tick, text in zip(ticks, texts, strict=True):
        kind = "axis" if tick == ticks[0] else "grid-line"
        parts += [_line(kind, 0, down(tick), 100, down(tick)), _outside(down(tick) + 4, text)]
    corners = [(across(x), down(y)) for x, y in points]
    parts.append(_joined(corners, _piled(areas, points, down), base))
    if reference is not None:
        parts += _compared(reference, down(reference.y), [down(mark.y)] if mark else [])
    if mark is not None or len(points) == 1:
        dot = mark or Mark(x=points[0][0], y=points[0][1], label="")
        parts += _pointed(dot, across(dot.x), down(dot.y))
    parts += _hits([(across(x), y) for x, y in points], names, base)
    x_ticks = [tick for tick in _round_ticks(0.0, high_x, most=4) if tick <= high_x]
    parts += _ruled([(tick / high_x, f"{tick:,g}") for tick in x_ticks], base)
    if x_label:
        parts.append(_text(100, base + 35, x_label, anchor="end"))
    wide = " wide" if max(map(len, texts)) > 5 else ""
    return _svg(label, height_px, parts, kind=f"chart curve{wide}")


def _outside(y: float, text: str) -> Markup:
    """A label of the y axis, in the padding."""
    return Markup('<text class="tick" x="0" dx="-9" y="{:.1f}" text-anchor="end">{}</text>').format(
        y, escape(text)
    )


def _joined(
    corners: Sequence[tuple[float, float]], areas: Sequence[Markup], height: float
) -> Markup:
    """The line through `corners` (percent, pixels) over `areas`, scaled across alone."""
    line = " ".join(f"{10 * x:.1f},{y:.2f}" for x, y in corners)
    return Markup(
        '<svg class="steps" aria-hidden="true" width="100%" height="{0}" '
        'viewBox="0 0 1000 {0}" preserveAspectRatio="none">{1}<polyline points="{2}"/></svg>'
    ).format(height, Markup("").join(areas), line if len(corners) > 1 else "")


def _piled(
    areas: Sequence[tuple[str, Sequence[float]]],
    points: Sequence[tuple[float, float]],
    down: Callable[[float], float],
) -> list[Markup]:
    drawn: list[Markup] = []
    floor = [0.0] * len(points)
    high_x = max(points[-1][0], 1e-9)
    for color, heights in areas:
        roof = [low + height for low, height in zip(floor, heights, strict=True)]
        edge = [*zip(points, roof, strict=True), *reversed(list(zip(points, floor, strict=True)))]
        corners = " ".join(f"{1000 * x / high_x:.1f},{down(y):.2f}" for (x, _), y in edge)
        drawn.append(Markup('<polygon class="band {}" points="{}"/>').format(color, corners))
        floor = roof
    return drawn


def _compared(reference: Reference, y: float, taken: Sequence[float]) -> list[Markup]:
    """The line and its label: above it, or below where the label of a mark would be in the way."""
    is_taken = any(-6 < y - other < 34 for other in taken)
    text_y = y + 15 if is_taken else y - 6
    return [
        _line("reference", 0, y, 100, y),
        _text(100, text_y, reference.label, anchor="end", kind="tick over"),
    ]


def _pointed(mark: Mark, x: float, y: float) -> list[Markup]:
    anchor = "start" if x < 25 else "end" if x > 75 else "middle"
    dot = Markup('<circle class="dot strong" cx="{:.2f}%" cy="{:.1f}" r="4.5"/>').format(x, y)
    return [dot, _text(x, y - 11, mark.label, anchor=anchor, kind="strong over")]


def _hits(points: Sequence[tuple[float, float]], names: Sequence[str], base: float) -> list[Markup]:
    """What can be pointed at: each point's share of the width, up to half-way to its neighbours."""
    xs = [x for x, _ in points]
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(xs)), 100.0]
    hit = Markup(
        '<rect class="hit" x="{:.2f}%" y="0" width="{:.2f}%" height="{}"><title>{}</title></rect>'
    )
    spans = zip(pairwise(edges), names, strict=True)
    return [hit.format(begin, end - begin, base, name) for (begin, end), name in spans]


def _round_ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Two or more round values, of which the ends hold `low` and `high`."""
    least = max(0.02 * max(abs(low), abs(high)), 1e-9) if low or high else 1.0
    spread = max(high - low, least)
    unit = 10.0 ** math.floor(math.log10(spread / most))
    factors = (1, 2, 5, 10, 20)
    step = next(unit * factor for factor in factors if spread / (unit * factor) <= most)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _tick_texts(ticks: Sequence[float]) -> list[str]:
    """All with as many decimals as their distance needs."""
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    if decimals > 6:
        return [f"{tick:.5g}" for tick in ticks]
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def scatter(
    points: Sequence[Point], *, x_label: str, y_label: str, label: str, height_px: int = 330
) -> Markup:
    """Marks over a logarithmic x axis (x > 0), each with its name; y ticks lie inside."""
    top, base = 42.0, height_px - 44.0
    low_x, high_x = _log_range([point.x for point in points])
    low_y, high_y, ticks = _linear_range([point.y for point in points])

    def across(x: float) -> float:
        return 13 + 74 * (math.log10(x) - low_x) / (high_x - low_x)

    def down(y: float) -> float:
        return base - (base - top) * (y - low_y) / (high_y - low_y)

    parts: list[Markup] = []
    for tick in ticks:
        parts.append(_line("grid-line", 0, down(tick), 100, down(tick)))
        parts.append(_text(0, down(tick) - 4, f"{tick:g}", anchor="start"))
    for tick in _log_ticks(low_x, high_x):
        parts.append(_line("axis", across(tick), base, across(tick), base + 5))
        parts.append(_text(across(tick), base + 19, f"{tick:,g}"))
    parts.append(_line("axis", 0, base, 100, base))
    parts.append(_text(100, base + 39, x_label, anchor="end"))
    parts.append(_text(0, 12, y_label, anchor="start"))
    for point, label_y in zip(points, _apart([down(point.y) for point in points]), strict=True):
        parts.extend(_marked(point, across(point.x), down(point.y), label_y))
    return _svg(label, height_px, parts)


def _marked(point: Point, x: float, y: float, label_y: float) -> list[Markup]:
    strong = " strong" if point.emphasis else ""
    dot = Markup('<circle class="dot{}" cx="{:.2f}%" cy="{:.1f}" r="{}"><title>{}</title></circle>')
    title = f"{point.label}: {point.y:.2f} at {point.x:.3g}"
    name = Markup('<text class="{}" x="{:.2f}%" dx="{}" y="{:.1f}" text-anchor="{}">{}</text>')
    dx, anchor = (12, "start") if x < 58 else (-12, "end")
    kind = "strong" if point.emphasis else "name"
    return [
        dot.format(strong, x, y, 6.5 if point.emphasis else 5, title),
        name.format(kind, x, dx, label_y + 4, anchor, point.label),
    ]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>').format(
        kind, x1, y1, x2, y2
    )


def _log_range(values: Sequence[float]) -> tuple[float, float]:
    low, high = math.log10(min(values)), math.log10(max(values))
    return (low, high) if high - low > 0.3 else (low - 0.15, high + 0.15)


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in the range; 2 and 5 times them too where that is fewer than three."""
    decades = range(math.floor(low) - 1, math.ceil(high) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) >= 3:
            return ticks
    return [float(f"{10**low:.2g}"), float(f"{10**high:.2g}")]


def _linear_range(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Low, high and three to six round ticks that hold all values."""
    low, high = min(values), max(values)
    spread = max(high - low, 0.05)
    step = 10 ** math.floor(math.log10(spread / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if spread / (step * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    ticks = [round(index * step, 10) for index in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _apart(positions: Sequence[float], gap_px: float = 15.0) -> list[float]:
    """Positions moved down so that labels sorted by height do not overlap."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    moved = list(positions)
    previous = -math.inf
    for index in order:
        previous = moved[index] = max(positions[index], previous + gap_px)
    return moved


def bars(values: Sequence[tuple[str, float]], *, unit: str, label: str) -> Markup:
    """One bar for each named value, from zero; named rows up to 24 of them, else thin columns."""
    low = min(0.0, min((value for _, value in values), default=0.0))
    high = max(0.0, max((value for _, value in values), default=0.0))
    span = (high - low) or 1.0
    ranked = sorted(values, key=lambda item: -item[1])
    draw = _bar_rows if len(ranked) <= 24 else _bar_columns
    return draw(ranked, low, span, unit, label)


def _bar_rows(
    ranked: Sequence[tuple[str, float]], low: float, span: float, unit: str, label: str
) -> Markup:
    start, reach, row_px = 36.0, 46.0, 26
    zero = start - reach * low / span
    parts: list[Markup] = []
    for index, (name, value) in enumerate(ranked):
        y = index * row_px
        left, width = zero + reach * min(value, 0) / span, reach * abs(value) / span
        parts.append(_bar(name, value, unit, f"{left:.2f}%", y + 4, f"{width:.2f}%", row_px - 9))
        short = name if len(name) <= 16 else f"…{name[-15:]}"
        parts.append(_text(start - 2, y + 18, short, anchor="end", kind="name"))
        end = zero + reach * max(value, 0) / span + 1.5
        parts.append(_text(end, y + 18, f"{value:+.2f}", anchor="start", kind="value"))
    parts.append(_line("axis", zero, 0, zero, len(ranked) * row_px))
    return _svg(label, len(ranked) * row_px + 2, parts)


def _bar_columns(
    ranked: Sequence[tuple[str, float]], low: float, span: float, unit: str, label: str
) -> Markup:
    top, base = 18.0, 202.0
    step = 100 / len(ranked)
    zero = base + (base - top) * low / span
    parts: list[Markup] = []
    for index, (name, value) in enumerate(ranked):
        height = (base - top) * abs(value) / span
        y = zero - height if value >= 0 else zero
        x = f"{index * step + step * 0.1:.3f}%"
        parts.append(_bar(name, value, unit, x, y, f"{step * 0.8:.3f}%", height))
    parts.append(_line("axis", 0, zero, 100, zero))
    parts.append(_text(0, 12, f"{ranked[0][1]:+.2f} {unit}", anchor="start", kind="value"))
    parts.append(_text(100, 12, f"{ranked[-1][1]:+.2f} {unit}", anchor="end", kind="value"))
    return _svg(label, 206, parts)


def _bar(name: str, value: float, unit: str, x: str, y: float, width: str, height: float) -> Markup:
    return Markup(
        '<rect class="bar{}" x="{}" y="{:.1f}" width="{}" height="{:.1f}" rx="2">'
        "<title>{}: {:+.2f} {}</title></rect>"
    ).format(" loss" if value < 0 else "", x, y, width, height, name, value, unit)
