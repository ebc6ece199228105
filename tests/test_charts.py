"""Charts hold every value, stay inside their frame and escape their names."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.charts import (
    Mark,
    Point,
    Reference,
    bars,
    bin_label,
    columns,
    compact,
    curve,
    ridge,
    ruler,
    scatter,
    shares,
    steps,
)

EVIL = "<script>&\"'"
finite = st.floats(0.01, 1e5)


def parsed(drawing: str) -> ET.Element:
    return ET.fromstring(drawing)


def percents(element: ET.Element, *names: str) -> list[float]:
    found = [node.get(name) for node in element.iter() for name in names]
    return [float(value[:-1]) for value in found if value and value.endswith("%")]


@given(st.lists(st.tuples(finite, st.floats(0, 60)), min_size=1, max_size=12))
def test_scatter_draws_every_point_inside_and_labels_apart(
    found: list[tuple[float, float]],
) -> None:
    points = [Point(label=f"m{i}", x=x, y=y) for i, (x, y) in enumerate(found)]
    root = parsed(scatter(points, x_label="x", y_label="y", label="l", height_px=300))
    circles = list(root.iter("circle"))
    assert len(circles) == len(points)
    assert all(0 <= value <= 100 for value in percents(root, "cx"))
    assert all(0 <= float(circle.get("cy", "")) <= 300 for circle in circles)
    heights = sorted(float(t.get("y", "")) for t in root.iter("text") if t.get("class") == "name")
    gaps = [b - a for a, b in pairwise(heights)]
    assert all(gap >= 14.8 for gap in gaps)


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=12))
def test_columns_stand_for_every_bin(counts: list[int]) -> None:
    edges = [float(i) for i in range(len(counts))] + [math.inf]
    root = parsed(columns(counts, edges, unit="MP", label="sizes"))
    rects = list(root.iter("rect"))
    heights = [float(rect.get("height", "")) for rect in rects]
    assert len(rects) == len(counts)
    assert [count == 0 for count in counts] == [height == 0 for height in heights]
    assert heights[counts.index(max(counts))] == max(heights)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60))
def test_bars_stay_inside_and_tell_losses(values: list[float]) -> None:
    root = parsed(bars([(f"image {i}", v) for i, v in enumerate(values)], unit="dB", label="g"))
    rects = list(root.iter("rect"))
    assert len(rects) == len(values)
    for rect in rects:
        left, width = (float(str(rect.get(name))[:-1]) for name in ("x", "width"))
        assert -0.01 <= left <= left + width <= 100.01
    losses = sum("loss" in str(rect.get("class")) for rect in rects)
    assert losses == sum(value < 0 for value in values)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8))
def test_shares_fill_the_bar(seconds: list[float]) -> None:
    root = parsed(shares([(f"s{i}", value) for i, value in enumerate(seconds)], label="stages"))
    total = sum(percents(root, "width")) - 100  # without the drawing's own
    assert total == pytest.approx(100 if sum(seconds) > 0 else 0, abs=0.1)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=128))
def test_steps_stand_for_every_span_and_stay_inside(values: list[float]) -> None:
    edges = [index / len(values) for index in range(len(values) + 1)]
    drawing = steps(edges, values, names=["n"] * len(values), label="l", ticks=[(0.0, "start")])
    root = parsed(drawing)
    assert len([r for r in root.iter("rect") if r.get("class") == "hit"]) == len(values)
    (line,) = root.iter("polyline")
    corners = [tuple(map(float, pair.split(","))) for pair in str(line.get("points")).split()]
    assert len(corners) == 2 * len(values)
    assert all(0 <= x <= 1000 and 0 <= y <= 100 for x, y in corners)
    if max(values) > 0:
        heights = [100 - y for _, y in corners[::2]]
        assert heights == pytest.approx([100 * v / max(values) for v in values], abs=0.01)


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=40))
def test_a_ridge_has_a_point_for_every_bin_and_ends_on_the_ground(counts: list[int]) -> None:
    root = parsed(ridge(counts, marks=(0.25, 0.5), color="s0", label="l"))
    (hill,) = root.iter("polygon")
    points = [tuple(map(float, pair.split(","))) for pair in str(hill.get("points")).split()]
    assert len(points) == len(counts) + 2
    assert points[0] == (0, 100)
    assert points[-1] == (1000, 100)
    assert all(0 <= x <= 1000 and 0 <= y <= 100 for x, y in points)
    assert len([line for line in root.iter("line") if line.get("class") == "mark"]) == 2


@given(
    st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=100),
    st.floats(-1e4, 1e4),
    st.booleans(),
)
def test_a_curve_joins_every_point_inside_its_axes(
    values: list[float], level: float, from_zero: bool
) -> None:
    points = [(10.0 * (index + 1), value) for index, value in enumerate(values)]
    drawing = curve(
        points,
        names=["n"] * len(points),
        label="l",
        reference=Reference(y=level, label="base"),
        mark=Mark(x=points[0][0], y=points[0][1], label="best"),
        from_zero=from_zero,
        height_px=200,
    )
    root = parsed(drawing)
    (line,) = root.iter("polyline")
    corners = [tuple(map(float, pair.split(","))) for pair in str(line.get("points")).split()]
    assert len(corners) == (len(points) if len(points) > 1 else 0)
    assert all(0 <= x <= 1000 and 20 <= y <= 180 for x, y in corners)
    assert all(-0.01 <= value <= 100.01 for value in percents(root, "x1", "x2", "cx"))
    assert len([r for r in root.iter("rect") if r.get("class") == "hit"]) == len(points)
    assert len(list(root.iter("circle"))) == 1
    ticks = [t for t in root.iter("text") if t.get("dx")]
    assert 2 <= len(ticks) <= 8
    assert len({t.text for t in ticks}) == len(ticks)


def test_areas_of_a_curve_are_piled_up_to_it() -> None:
    drawing = curve(
        [(1, 4.0), (2, 4.0)],
        names=["a", "b"],
        label="l",
        areas=[("s2", [3.0, 3.0]), ("s3", [1.0, 1.0])],
    )
    lower, upper = ET.fromstring(drawing).iter("polygon")
    (line,) = ET.fromstring(drawing).iter("polyline")
    corners = str(upper.get("points")).split()
    assert corners[:2] == str(line.get("points")).split()
    assert corners[:1:-1] == str(lower.get("points")).split()[:2]


def test_names_are_escaped() -> None:
    drawings = (
        scatter([Point(label=EVIL, x=1, y=1)], x_label=EVIL, y_label=EVIL, label=EVIL),
        columns([1], [0, 1], unit=EVIL, label=EVIL),
        bars([(EVIL, 1.0)], unit=EVIL, label=EVIL),
        shares([(EVIL, 1.0)], label=EVIL),
        steps([0, 1], [1], names=[EVIL], label=EVIL, ticks=[(0, EVIL)]),
        ridge([1], marks=(), color="s0", label=EVIL),
        ruler([(0.5, EVIL)], label=EVIL),
        curve(
            [(1, 1)],
            names=[EVIL],
            label=EVIL,
            x_label=EVIL,
            reference=Reference(y=0, label=EVIL),
            mark=Mark(x=1, y=1, label=EVIL),
        ),
    )
    for drawing in drawings:
        assert not re.search("<script", drawing)
        assert parsed(drawing).get("aria-label") == EVIL


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (34_400, "34k"), (999_600, "1.0M"), (5e7, "50M")],
)
def test_compact_counts(count: int, shown: str) -> None:
    assert compact(count) == shown


def test_bins_read_as_ranges() -> None:
    assert bin_label(0, 0.5) == "under 0.5"
    assert bin_label(0.5, 1) == "0.5 to 1"
    assert bin_label(64, math.inf) == "64 and more"
