"""What serving costs beside the network alone and a plain server, and how it bears too much.

.venv/bin/python benchmarks/serve.py [--quick] [--only speed|overload|endurance]

Every ratio is of two things measured in turn in this run, so that machines compare.
"""

# ruff: noqa: INP001  a script

import argparse

from parts import serving
from parts.figures import Figure, figure_lines, figure_table

from pipelines.machine import machine_name

PARTS = ("speed", "overload", "endurance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the same figures from less work")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    args = parser.parse_args()
    chosen = [args.only] if args.only else PARTS
    size = serving.QUICK if args.quick else serving.FULL
    figures: list[Figure] = []
    print(machine_name(), flush=True)
    with serving.resray_server() as server:
        if "speed" in chosen:
            figures += serving.measure_speed(server, size)
        if "overload" in chosen:
            figures += serving.measure_overload(server, size)
        if "endurance" in chosen:
            figures += serving.measure_endurance(server, size)
    print(figure_table(figures))
    print("\n".join(figure_lines(figures)))


if __name__ == "__main__":
    main()
