"""sr-x4 beside small and large networks of others, by ncnn: time and quality on the same images.

.venv/bin/python benchmarks/peers.py [SET] [--quick]

The networks come from packages that resray doesn't depend on; without them nothing is measured.
"""

# ruff: noqa: INP001  a script

import argparse
from pathlib import Path

from parts import peers
from parts.end_to_end import EXAMPLES
from parts.figures import figure_lines, figure_table

from pipelines.machine import machine_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "set", type=Path, nargs="?", default=EXAMPLES, help="a folder of images (examples/)"
    )
    parser.add_argument("--quick", action="store_true", help="the same figures from less work")
    args = parser.parse_args()
    if missing := peers.missing_packages():
        print(f"not measured: pip install --no-deps {' '.join(missing)}")
        return
    print(machine_name("cpu"), flush=True)
    figures = peers.measure(args.set, peers.QUICK if args.quick else peers.FULL)
    print(figure_table(figures))
    print("\n".join(figure_lines(figures)))


if __name__ == "__main__":
    main()
