"""What `resray train` costs beside a plain PyTorch loop, and what its precision brings.

.venv/bin/python benchmarks/train.py [--quick] [--only steps|precision|memory]

Every figure is a ratio of two things measured in turn in this run, so that machines compare.
"""

# ruff: noqa: INP001  a script

import argparse
import tempfile
from pathlib import Path

from parts import training
from parts.figures import Figure, figure_lines, figure_table

from pipelines.machine import machine_name

PARTS = ("steps", "precision", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the same figures from less work")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    args = parser.parse_args()
    chosen = [args.only] if args.only else PARTS
    figures: list[Figure] = []
    print(machine_name(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if "steps" in chosen:
            size = training.QUICK if args.quick else training.FULL
            figures += training.measure_steps(Path(folder), size)
        if "precision" in chosen:
            steps = 40 if args.quick else 2000
            figures += training.measure_precision(Path(folder), steps=steps)
        if "memory" in chosen:
            counts = (4, 40) if args.quick else (10, 500)
            figures += training.measure_memory(Path(folder), counts=counts)
    print(figure_table(figures))
    print("\n".join(figure_lines(figures)))


if __name__ == "__main__":
    main()
