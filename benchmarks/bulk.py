"""What a bulk run costs beside the network alone, rivals on the same work, and its own past.

.venv/bin/python benchmarks/bulk.py [--quick] [--only end-to-end|listing|scheduling]

Every figure is a ratio of two things measured in turn in this run, so that machines compare.
"""

# ruff: noqa: INP001  a script

import argparse

from parts import end_to_end, listing, scheduling
from parts.figures import Figure, figure_lines, figure_table
from parts.local_store import local_bucket

from pipelines.machine import machine_name

PARTS = ("end-to-end", "listing", "scheduling")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the same figures from less work")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    args = parser.parse_args()
    chosen = [args.only] if args.only else PARTS
    figures: list[Figure] = []
    print(machine_name(), flush=True)
    if {"end-to-end", "listing"} & set(chosen):
        with local_bucket() as bucket:
            if "end-to-end" in chosen:
                size = end_to_end.QUICK if args.quick else end_to_end.FULL
                figures += end_to_end.measure(bucket, size)
            if "listing" in chosen:
                sizes = listing.QUICK if args.quick else listing.FULL
                figures += listing.measure(bucket, sizes=sizes)
    if "scheduling" in chosen:
        figures += scheduling.measure(steady_s=10 if args.quick else 60)
    print(figure_table(figures))
    print("\n".join(figure_lines(figures)))


if __name__ == "__main__":
    main()
