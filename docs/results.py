"""Makes docs/results.md and docs/results/: the weights of the package beside traditional methods.

.venv/bin/python docs/results.py SETS [--only TASK ...] [--output DIR]

SETS is the folder that holds the standard test sets: set5/, set14/, bsd100/ (super-resolution),
cbsd68/, kodak24/ (noise, worn photographs), live1_gray/ (JPEG). A set that is missing is left out.
The sets have no licence to be shown, so the pictures are of the photographs in examples/. With
--only, the parts of other tasks stay as they are.
"""

import argparse
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from before_after import SHOWN, sheet, zoomed
from markupsafe import Markup

from pipelines import charts
from pipelines.evaluate import (
    Condition,
    baselines,
    conditions_for,
    conventions,
    evaluate_folder,
    make_pair,
    measure,
    read_images,
)
from pipelines.machine import machine_name
from pipelines.report import ConditionResult
from resnet_core.enhancer import Enhancer, EnhanceSettings
from resnet_core.images import Image, decode
from resnet_core.levels import Levels
from resnet_core.weights import Weights, load_weights, packaged_weights

ROOT = Path(__file__).resolve().parent.parent
SETS = {
    "sr": ("set5", "set14", "bsd100"),
    "denoise": ("cbsd68", "kodak24"),
    "dejpeg": ("live1_gray",),
    "restore": ("kodak24",),
    "photo": ("kodak24",),
}
"""By what a task's name begins with; the plots are of the first."""
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
CURVE_IMAGES = 12
"""Of a set, at most, for the curve over strength."""
PLOT_PX, LEFT_PX, MARGIN_PX = 760, 52, 14
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #5a606b } .name, .value { fill: #17191e }
.strong { fill: #0b7a75; font-weight: 650 } .dot { fill: #9aa3a8 } .dot.strong { fill: #0b7a75 }
.axis { stroke: #c9c6be } .grid-line { stroke: #e3e1db; stroke-dasharray: 2 4 }
.reference { stroke: #5a606b; stroke-dasharray: 5 4 } .chart, .steps { overflow: visible }
.over { paint-order: stroke; stroke: white; stroke-width: 4px } .hit { fill: transparent }
polyline { fill: none; stroke: #0b7a75; stroke-width: 1.6; vector-effect: non-scaling-stroke }
"""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One set under one condition."""

    set_name: str
    folder: Path
    condition: Condition
    result: ConditionResult

    @property
    def title(self) -> str:
        return f"{self.set_name}, {self.result.label}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """One task: its weights, and what was measured."""

    task: str
    weights: Sequence[Weights]
    columns: Sequence[Column]

    @property
    def shown(self) -> Column:
        """For plots and pictures: the first set, the condition in the middle."""
        first = [each for each in self.columns if each.set_name == self.columns[0].set_name]
        return first[(len(first) - 1) // 2]


def measured(sets: Path, only: Sequence[str]) -> tuple[list[Section], list[str]]:
    """Every task of which there are weights and a set, and the conventions of the figures.

    only: of these tasks, if any are given.
    """
    sections, notes = list[Section](), dict[str, str]()
    every = [load_weights(name) for name in packaged_weights()]
    for task in dict.fromkeys(each.metadata.task for each in every):
        if only and task not in only:
            continue
        weights = [each for each in every if each.metadata.task == task]
        conditions = conditions_for(task, weights[0].metadata.degradation)
        columns = list[Column]()
        for name in SETS.get(task.partition("-")[0], ()):
            if not (sets / name).is_dir():
                continue
            print(f"{task} on {name}", flush=True)
            found = evaluate_folder(sets / name, weights, EnhanceSettings())
            for note in conventions(found, machine=machine_name(), seed=0)[1:]:
                notes.setdefault(note.partition(":")[0], note)
            columns += [
                Column(set_name=name, folder=sets / name, condition=condition, result=result)
                for condition, result in zip(conditions, found.conditions, strict=True)
            ]
        if columns:
            sections.append(Section(task=task, weights=weights, columns=columns))
    return sections, list(notes.values())


def table(section: Section) -> list[str]:
    """Methods by sets; the best of a column is bold."""
    columns = section.columns
    header = ["PSNR dB / SSIM", *(each.title for each in columns), "ms/MP", "guard"]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    best = [max(row.psnr_db for row in each.result.methods) for each in columns]
    for index, method in enumerate(section.shown.result.methods):
        rows = [each.result.methods[index] for each in columns]
        cells = [f"{row.psnr_db:.2f} / {row.ssim:.4f}" for row in rows]
        bold = [
            f"**{cell}**" if row.psnr_db == top else cell
            for cell, row, top in zip(cells, rows, best, strict=True)
        ]
        cost = "" if method.ms_per_megapixel is None else f"{method.ms_per_megapixel:.0f}"
        guard = f"{max(row.deviation or 0 for row in rows):.2f}" if method.is_weights else ""
        name = f"`{method.name}`" if method.is_weights else method.name
        lines.append(f"| {' | '.join([name, *bold, cost, guard])} |")
    return lines


def strength_curve(weights: Weights, column: Column) -> list[tuple[float, float]]:
    """Strength, and the mean PSNR in dB of the first images of a set."""
    enhancer = Enhancer(weights)
    psnr_db = dict[float, list[float]]()
    for _, (key, truth) in zip(range(CURVE_IMAGES), read_images(column.folder, []), strict=False):
        target, degraded = make_pair(key, truth, column.condition)
        source = Image(pixels=degraded, format="PNG")
        for strength in STRENGTHS:
            better = enhancer.enhance_measured(source, strength=strength).image.pixels
            found, _ = measure(column.condition, better, target)
            psnr_db.setdefault(strength, []).append(found)
    return [(strength, sum(values) / len(values)) for strength, values in psnr_db.items()]


def draw_curve(points: Sequence[tuple[float, float]]) -> Markup:
    best = max(points, key=lambda point: point[1])
    base_db = points[0][1]
    return charts.curve(
        points,
        names=[f"strength {strength:g}: {psnr_db:.2f} dB" for strength, psnr_db in points],
        label="PSNR against strength",
        x_label="strength",
        reference=charts.Reference(y=base_db, label=f"the base {base_db:.2f} dB"),
        mark=charts.Mark(x=best[0], y=best[1], label=f"{best[1]:.2f} dB"),
    )


def draw_pareto(result: ConditionResult) -> Markup:
    points = [
        charts.Point(label=row.name, x=row.ms_per_megapixel, y=row.psnr_db, emphasis=row.is_weights)
        for row in result.methods
        if row.ms_per_megapixel
    ]
    return charts.scatter(
        points,
        x_label="ms for a megapixel of output",
        y_label=f"{result.psnr_name} dB",
        label="Quality against time",
    )


def write_svg(drawing: Markup, path: Path) -> None:
    """A chart of a page as a file of its own, on white."""
    height_px = int(str(drawing).partition('height="')[2].partition('"')[0])
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{PLOT_PX}"'
        f' height="{height_px + 2 * MARGIN_PX}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="white"/><svg x="{LEFT_PX}" y="{MARGIN_PX}"'
        f' width="{PLOT_PX - LEFT_PX - MARGIN_PX}" height="{height_px}" overflow="visible">'
        f"{drawing}</svg></svg>\n",
        encoding="utf-8",
    )


def examples() -> Iterable[tuple[str, Levels, tuple[int, int]]]:
    """Name, pixels, and the corner of what is shown."""
    for name, corner in SHOWN:
        pixels = decode((ROOT / "examples" / name).read_bytes()).pixels
        yield name, np.asarray(pixels, np.uint8), corner


def write_crops(section: Section, path: Path) -> None:
    """The base, the best of the traditional methods, the weights and the original, side by side."""
    condition, rows = section.shown.condition, []
    methods = baselines(condition.degradation.scale)
    for name, photograph, corner in examples():
        target, degraded = make_pair(name, photograph, condition)
        old = [(each.name, each.enhance(degraded)) for each in methods]
        best = max(old[1:], key=lambda each: measure(condition, each[1], target)[0])
        new = [(each.name, Enhancer(each).enhance_pixels(degraded)) for each in section.weights]
        row = [
            (f"{text}  {measure(condition, picture, target)[0]:.2f} dB", zoomed(picture, corner))
            for text, picture in (old[0], best, *new)
        ]
        rows.append([*row, ("the original", zoomed(target, corner))])
    sheet(rows).save(path, lossless=True)


def write_blocks(weights: Weights, condition: Condition, path: Path) -> None:
    """The picture that the first k blocks give, for several k."""
    name, photograph, corner = next(iter(examples()))
    target, degraded = make_pair(name, photograph, condition)
    count = weights.config.num_blocks
    depths = [0, *(count * part // 4 for part in (1, 2, 3, 4))]
    row = []
    for depth in depths:
        enhancer = Enhancer(weights, EnhanceSettings(num_blocks=depth))
        picture = enhancer.enhance_pixels(degraded)
        psnr_db, _ = measure(condition, picture, target)
        row.append((f"{depth} blocks  {psnr_db:.2f} dB", zoomed(picture, corner)))
    sheet([row]).save(path, quality=85, method=6)


def write_section(section: Section, folder: Path) -> list[str]:
    """Its pictures, and its part of the page."""
    task, shown = section.task, section.shown
    write_svg(draw_pareto(shown.result), folder / f"{task}-time.svg")
    write_crops(section, folder / f"{task}-crops.webp")
    lines = [
        f"## {task}",
        *(f"`{each.name}`, {card_link(each)}" for each in section.weights),
        "\n".join(table(section)),
        f"Measured on {machine_name()}.",
        f"![Quality against time]({folder.name}/{task}-time.svg)",
        f"Quality against time: {shown.title}.",
        f"![Crops side by side]({folder.name}/{task}-crops.webp)",
        f"Parts of `examples/` under {shown.result.label}; the figures are of whole photographs.",
    ]
    for weights in section.weights:
        print(f"{weights.name}: strength and blocks", flush=True)
        write_svg(
            draw_curve(strength_curve(weights, shown)), folder / f"{weights.name}-strength.svg"
        )
        write_blocks(weights, shown.condition, folder / f"{weights.name}-blocks.webp")
        images = min(CURVE_IMAGES, len(shown.result.images))
        lines += [
            f"![PSNR against strength]({folder.name}/{weights.name}-strength.svg)",
            f"`{weights.name}`: PSNR against `--strength`, {images} images of {shown.title}.",
            f"![The picture after k blocks]({folder.name}/{weights.name}-blocks.webp)",
            f"`{weights.name}`: the picture that the first k of its blocks give.",
        ]
    return lines


def card_link(weights: Weights) -> str:
    return f"SHA-256 `{weights.sha256[:12]}`: [its card](weights/{weights.name}.md)"


def part(section: Section, folder: Path) -> str:
    """Of the page: one task."""
    return "\n\n".join(write_section(section, folder)) + "\n"


def page(sections: Sequence[Section], notes: Sequence[str], folder: Path) -> str:
    body = "\n".join(part(section, folder) for section in sections)
    return f"""# Results

The weights of the package beside the traditional methods, on the standard test sets, on which
nothing was trained. Made, with its pictures, by

```bash
.venv/bin/python docs/results.py SETS
```

Times are those of the machine below each table; where it is shared with others they are too long.

{body}
## What the figures mean

{chr(10).join(f"- {note}" for note in notes)}
"""


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", type=Path)
    parser.add_argument("--only", nargs="+", default=(), metavar="TASK")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", metavar="DIR")
    args = parser.parse_args(words)
    sections, notes = measured(args.sets, args.only)
    if not sections:
        raise SystemExit(f"{args.sets}: none of the test sets is there; see --help")
    folder, file = args.output / "results", args.output / "results.md"
    if not args.only:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if args.only:
        text = file.read_text(encoding="utf-8")
        for section in sections:
            old = re.compile(
                rf"^## {re.escape(section.task)}\n.*?(?=^## )", re.DOTALL | re.MULTILINE
            )
            new = part(section, folder) + "\n"
            text = old.sub(lambda _, new=new: new, text)
    else:
        text = page(sections, notes, folder)
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
