"""Trains three networks of equal size alike, and writes docs/ablation.md with their curves.

.venv/bin/python docs/ablation.py PHOTOGRAPHS [--validation DIR] [--steps N] [--test DIR ...]

`residual` is what resray ships; `residual-bn` has batch normalisation in its blocks; `plain` is the
same stack of convolutions without the blocks' skips. All three predict the residual over the
bicubic base. A run that was stopped goes on.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipelines.cli import main as resray
from pipelines.evaluate import evaluate_folder
from pipelines.machine import machine_name
from resnet_core.enhancer import EnhanceSettings
from resnet_core.weights import Weights, load_weights

DOCS = Path(__file__).resolve().parent
KINDS = {"residual": "#2f6f9f", "residual-bn": "#e39a3b", "plain": "#b3403a"}
WIDTH_PX, HEIGHT_PX, LEFT_PX, BELOW_PX, MARGIN_PX = 1000, 420, 60, 44, 24
INK, FAINT, PAPER = "#24292f", "#d0d7de", "white"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one of the networks came to."""

    weights: Weights
    tests: Sequence[float]
    """PSNR-Y in dB on each test set."""

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Step and validation PSNR-Y in dB."""
        return [(int(row[0]), row[2]) for row in self.weights.metadata.training["curve"]]


def train(kind: str, args: argparse.Namespace) -> Weights:
    """By the command itself; finished runs are found again."""
    output = args.output / kind
    sets = {
        "network.kind": kind,
        "steps": args.steps,
        "validate_every": max(1, args.steps // 20),
        "warmup_steps": min(200, args.steps // 10),
    }
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    validation = ["--validation", str(args.validation)] if args.validation else []
    data = ["--data", str(args.photographs), "--output", str(output)]
    if resray(["train", "sr-x2", *data, *validation, *words]):
        raise SystemExit(1)
    return load_weights(str(output / "sr-x2.safetensors"))


def test_psnr_y_db(weights: Weights, folder: Path) -> float:
    (condition,) = evaluate_folder(folder, [weights], EnhanceSettings()).conditions
    return next(method.psnr_db for method in condition.methods if method.is_weights)


def draw(outcomes: dict[str, Outcome], path: Path) -> None:
    """The validation curves."""
    image = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), PAPER)
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(size=15)
    points = [point for outcome in outcomes.values() for point in outcome.curve]
    last = max(step for step, _ in points)
    low, high = min(db for _, db in points), max(db for _, db in points)
    low, high = int(low * 2) / 2, -(-high * 2 // 1) / 2

    def place(step: float, db: float) -> tuple[float, float]:
        across = (WIDTH_PX - LEFT_PX - 130) * step / last
        down = (HEIGHT_PX - BELOW_PX - MARGIN_PX) * (high - db) / (high - low)
        return LEFT_PX + across, MARGIN_PX + down

    db = low
    while db <= high:
        _, y = place(0, db)
        canvas.line([(LEFT_PX, y), place(last, db)], fill=FAINT)
        canvas.text((LEFT_PX - 8, y), f"{db:g}", fill=INK, font=font, anchor="rm")
        db += 0.5
    for quarter in range(5):
        x, y = place(last * quarter / 4, low)
        canvas.text((x, y + 10), f"{last * quarter // 4:,}", fill=INK, font=font, anchor="mt")
    caption = "steps; validation PSNR-Y in dB"
    canvas.text((LEFT_PX, HEIGHT_PX - 4), caption, fill=INK, font=font, anchor="lb")
    for kind, outcome in outcomes.items():
        line = [place(*point) for point in outcome.curve]
        canvas.line(line, fill=KINDS[kind], width=3, joint="curve")
        x, y = line[-1]
        canvas.text((x + 8, y), kind, fill=KINDS[kind], font=font, anchor="lm")
    image.save(path, optimize=True)


def page(outcomes: dict[str, Outcome], args: argparse.Namespace) -> str:
    sets = [folder.name for folder in args.test]
    header = ["network", "weights", "validation PSNR-Y", *(f"{n} PSNR-Y" for n in sets)]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for kind, outcome in outcomes.items():
        figures = outcome.weights.metadata.figures
        cells = [
            f"`{kind}`",
            f"{outcome.weights.network.num_parameters:,}",
            f"{figures['validation psnr_y_db']:.2f} dB",
            *(f"{value:.2f} dB" for value in outcome.tests),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    training = outcomes["residual"].weights.metadata.training
    options = "--validation VALIDATION " if args.validation else ""
    options += " ".join(f"--test {Path(folder).name}" for folder in args.test)
    return f"""# Why there are skips: three networks of equal size

The same recipe (`sr-x2`), photographs, seed and {args.steps:,} steps for each, in batches of
{training["batch_size"]} with inputs of {training["input_px"]} px. They differ in their blocks
alone: `residual` adds what two convolutions make to what came in, `residual-bn` does so with batch
normalisation behind each convolution, `plain` has the same convolutions without the addition. All
three give the difference to the bicubic base.

{chr(10).join(lines)}

![Validation PSNR-Y over the steps of the three networks](ablation.png)

Made on {machine_name()}, with {outcomes["residual"].weights.metadata.data}, by

```sh
.venv/bin/python docs/ablation.py PHOTOGRAPHS --steps {args.steps} {options}
```
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--test", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    args = parser.parse_args()
    outcomes = dict[str, Outcome]()
    for kind in KINDS:
        weights = train(kind, args)
        tests = [test_psnr_y_db(weights, folder) for folder in args.test]
        outcomes[kind] = Outcome(weights=weights, tests=tests)
    draw(outcomes, DOCS / "ablation.png")
    (DOCS / "ablation.md").write_text(page(outcomes, args))


if __name__ == "__main__":
    main()
