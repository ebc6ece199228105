"""What options take, numbers with bounds and units; and those that several commands have."""

import argparse
import math
import re
from typing import Any

SMALLEST_TILE_PX = 32
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_COUNTS = {"k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30, "": 1}


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not re.fullmatch(r"[+-]?\d+", text.strip()):
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return value


def side_px(text: str) -> int:
    """A tile's side: a smaller one would be lost in its halo."""
    value = positive(text)
    if value < SMALLEST_TILE_PX:
        raise argparse.ArgumentTypeError(f"expected {SMALLEST_TILE_PX} px or more, found {text}")
    return value


def seconds(text: str) -> float:
    """A number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, found {text!r}")
    return value


def worker_range(text: str) -> tuple[int, int]:
    """ "4" or "4..32": at least and at most."""
    least, dots, most = text.partition("..")
    smallest = positive(least)
    largest = positive(most) if dots else smallest
    if largest < smallest:
        raise argparse.ArgumentTypeError(f"expected MIN..MAX with MIN up to MAX, found {text}")
    return smallest, largest


def replica_range(text: str) -> tuple[int, int]:
    """ "2" or "0..4": at least, which may be none, and at most."""
    if text.startswith("0.."):
        return 0, positive(text.removeprefix("0.."))
    return worker_range(text)


def amount(text: str) -> int:
    """ "100M", "2.5G", "256Mi", "1000": a count with an optional unit."""
    number = text.rstrip("kKmMgGiI")
    try:
        value = float(number) * _COUNTS[text[len(number) :].lower()]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(
            f"expected a number with k, M, G, Ki, Mi or Gi behind it or not, found {text!r}"
        ) from None
    if not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return int(value)


def duration_s(text: str) -> float:
    """ "90min", "8h", "2.5d", "30s": seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h|d)", text)
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"expected a time as 30s, 90min, 8h or 2d, found {text!r}")
    return float(found[1]) * _SECONDS[found[2]]


def add_network_arguments(group: Any, *, tile_px: int) -> None:
    """How a network runs, wherever it does."""
    group.add_argument(
        "--tile",
        type=side_px,
        default=tile_px,
        metavar="PX",
        help="side of the pieces a large image is worked in; less takes less memory (default:"
        f" {tile_px})",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto is bfloat16 where the device computes in it (default: auto)",
    )
