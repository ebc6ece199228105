"""Makes docs/degradations.png: what chance does to a photograph, and one crop worn eight times.

.venv/bin/python docs/degradations.py
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from resnet_core import decode
from resnet_core.degradation import Degradation, degrade
from resnet_core.degradation_steps import (
    Blur,
    GaussianNoise,
    Jpeg,
    OneOf,
    PoissonNoise,
    RandomResize,
    Sometimes,
    Step,
)
from resnet_core.levels import Levels
from resnet_core.standard_degradations import standard_degradation

ROOT = Path(__file__).resolve().parent.parent
TASKS = {
    "restore": "restore: the same size, an ordinary worn photograph",
    "photo-x2": "photo-x2: half the size, a worn photograph",
}
NUM_DRAWS = 2000
PHOTOGRAPH = "osprey.jpg"
CROPS_PX = {"restore": (160, 24, 64), "photo-x2": (152, 24, 128)}
TIMES = 8
TILE_PX, GAP_PX, MARGIN_PX = 128, 6, 16
PANEL_PX, PANEL_HEIGHT_PX = 282, 130
HEADING_PX, TITLE_PX, AXIS_PX, SPACE_PX = 34, 24, 26, 18
INK, FAINT, PAPER = "#24292f", "#8c959f", "white"
FIRST, SECOND = "#2f6f9f", "#e39a3b"


@dataclass(frozen=True)
class Panel:
    """A histogram: values of the first and of the second order between two ends."""

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    bins: int = 30
    values: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))


def that_happen(steps: Sequence[Step], rng: np.random.Generator) -> Iterator[Step]:
    """The steps that happen in one draw, without those that hold others."""
    for step in steps:
        if isinstance(step, Sometimes | OneOf):
            yield from that_happen(step.draw(rng), rng)
        else:
            yield step


def panels(degradation: Degradation) -> list[Panel]:
    """What `NUM_DRAWS` draws with seed 0 give."""
    rng = np.random.default_rng(0)
    blur = Panel("blur, sigma in px", 0, 3, (0, 1, 2, 3))
    size = Panel("side, as a share of the target's", 0, 1.5, (0, 0.5, 1, 1.5))
    noise = Panel("noise at mid-gray, sigma in levels", 0, 36, (0, 10, 20, 30))
    jpeg = Panel("JPEG quality", 20, 100, (20, 40, 60, 80, 100), bins=16)
    for _ in range(NUM_DRAWS):
        order = 0
        for step in that_happen(degradation.steps, rng):
            match step:
                case Blur():
                    blur.values[order].append(math.sqrt(math.prod(step.draw(rng).sigma_px)))
                case RandomResize():
                    whole = degradation.scale if step.reference == "result" else 1
                    size.values[order].append(step.draw(rng)[0] / whole)
                case GaussianNoise():
                    noise.values[order].append(step.draw(rng)[0])
                case PoissonNoise():
                    noise.values[order].append(step.draw(rng)[0] * 16 * math.sqrt(0.5))
                case Jpeg():
                    jpeg.values[order].append(step.draw(rng)[0])
                    order = 1
                case _:
                    pass
    return [blur, size, noise, jpeg]


def draw_panel(draw: ImageDraw.ImageDraw, panel: Panel, left: int, top: int) -> None:
    """Columns of the second order on those of the first, the axis with its ticks below."""
    edges = np.linspace(panel.low, panel.high, panel.bins + 1)
    counts = [np.histogram(values, edges)[0] for values in panel.values]
    highest = int((counts[0] + counts[1]).max())
    base = top + TITLE_PX + PANEL_HEIGHT_PX
    blank = 1 - sum(map(len, panel.values)) / (2 * NUM_DRAWS)
    title = f"{panel.title}; none in {blank:.0%}" if blank else panel.title
    draw.text((left, top), title, fill=INK, font=ImageFont.load_default(15))
    for index in range(panel.bins):
        x = left + PANEL_PX * index // panel.bins
        right = left + PANEL_PX * (index + 1) // panel.bins - 2
        foot = base
        for count, colour in zip(
            (counts[0][index], counts[1][index]), (FIRST, SECOND), strict=True
        ):
            head = foot - round(PANEL_HEIGHT_PX * int(count) / highest)
            if head < foot:
                draw.rectangle((x, head, right, foot - 1), fill=colour)
            foot = head
    draw.line((left, base, left + PANEL_PX - 2, base), fill=FAINT)
    for tick in panel.ticks:
        x = left + round((PANEL_PX - 2) * (tick - panel.low) / (panel.high - panel.low))
        draw.line((x, base, x, base + 4), fill=FAINT)
        draw.text(
            (x, base + 6), f"{tick:g}", fill=INK, font=ImageFont.load_default(13), anchor="ma"
        )


def tiles(photograph: Levels, task: str) -> list[Image.Image]:
    """The crop, then what the seeds from 0 up make of it, each pixel a square."""
    x, y, side = CROPS_PX[task]
    crop = np.ascontiguousarray(photograph[y : y + side, x : x + side])
    degradation = standard_degradation(task)
    worn = [degrade(crop, degradation, np.random.default_rng(seed)) for seed in range(TIMES)]
    return [
        Image.fromarray(each).resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)
        for each in (crop, *worn)
    ]


def draw_legend(draw: ImageDraw.ImageDraw, right: int, top: int) -> None:
    """Which colour is which order."""
    font = ImageFont.load_default(15)
    for colour, text in ((SECOND, "second order"), (FIRST, "first order")):
        right -= round(font.getlength(text))
        draw.text((right, top), text, fill=INK, font=font)
        draw.rectangle((right - 20, top + 3, right - 8, top + 15), fill=colour)
        right -= 40


def sheet(photograph: Levels) -> Image.Image:
    """A heading, four histograms and a strip of pictures for each task."""
    width = 2 * MARGIN_PX + (TIMES + 1) * (TILE_PX + GAP_PX) - GAP_PX
    panel_height = TITLE_PX + PANEL_HEIGHT_PX + AXIS_PX
    section = HEADING_PX + panel_height + SPACE_PX + TILE_PX + AXIS_PX
    page = Image.new("RGB", (width, len(TASKS) * (section + SPACE_PX) + MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(page)
    draw_legend(draw, width - MARGIN_PX, MARGIN_PX + 2)
    step = (width - 2 * MARGIN_PX - PANEL_PX) // 3
    for row, (task, heading) in enumerate(TASKS.items()):
        top = MARGIN_PX + row * (section + SPACE_PX)
        draw.text((MARGIN_PX, top), heading, fill=INK, font=ImageFont.load_default(19))
        top += HEADING_PX
        for column, panel in enumerate(panels(standard_degradation(task))):
            draw_panel(draw, panel, MARGIN_PX + column * step, top)
        top += panel_height + SPACE_PX
        for column, tile in enumerate(tiles(photograph, task)):
            left = MARGIN_PX + column * (TILE_PX + GAP_PX)
            page.paste(tile, (left, top))
            caption = "the target" if column == 0 else f"seed {column - 1}"
            draw.text((left, top + TILE_PX + 4), caption, fill=INK, font=ImageFont.load_default(13))
    return page


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    photograph = decode((ROOT / "examples" / PHOTOGRAPH).read_bytes()).pixels
    path = ROOT / "docs" / "degradations.png"
    sheet(photograph).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
