"""`resray estimate`: how many workers enhance so many images by when, and what that costs."""

import argparse
import math
from dataclasses import dataclass

from pipelines.argument_types import amount, duration_s
from pipelines.quantities import format_count, format_duration, format_figure
from resnet_core.errors import ConfigError

RESERVE = 0.25

DESCRIPTION = f"""\
How many workers a bulk run needs to end in time, from a rate that was measured.

  workers = images x megapixels x (1 + reserve) / (rate x time), rounded up

A worker is what the rate is of: one GPU, or one machine's CPUs. MEGAPIXELS are those of a result,
and the RATE is the one that `resray enhance SRC DST --sample 200` prints at its end ("megapixels/s
once started"), on one worker such as there will be. The reserve is for machines that are taken back
and for the end, where some are idle; {RESERVE:g} is a choice, not a measurement."""

EPILOG = """\
examples
  resray estimate --images 5M --megapixels 2 --rate 30 --within 60h
  resray estimate --images 5M --megapixels 2 --rate 30 --within 60h --price 0.4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `resray estimate`."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", type=amount, required=True, metavar="N", help="as 5M or 20k")
    parser.add_argument(
        "--megapixels", type=float, required=True, metavar="M", help="of one result, on average"
    )
    parser.add_argument(
        "--rate", type=float, required=True, metavar="R", help="megapixels/s of one worker"
    )
    parser.add_argument(
        "--within", type=duration_s, required=True, metavar="TIME", help="as 8h or 2.5d"
    )
    parser.add_argument(
        "--reserve",
        type=float,
        default=RESERVE,
        metavar="SHARE",
        help=f"more than the work itself takes (default: {RESERVE:g})",
    )
    parser.add_argument(
        "--price", type=float, default=0.0, metavar="P", help="of one worker for an hour"
    )


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """A bulk run, before it. Raises ConfigError for a figure that can't be."""

    images: int
    megapixels: float
    """Of one result."""
    rate: float
    """Megapixels per second of one worker."""
    within_s: float
    reserve: float = RESERVE
    price: float = 0.0
    """Of one worker for an hour."""

    def __post_init__(self) -> None:
        for name in ("megapixels", "rate"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"--{name}: expected more than 0, found {value:g}")
        for name in ("reserve", "price"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"--{name}: expected 0 or more, found {value:g}")

    @property
    def work_s(self) -> float:
        """Of one worker, reserve included."""
        return self.images * self.megapixels * (1 + self.reserve) / self.rate

    @property
    def workers(self) -> int:
        return math.ceil(self.work_s / self.within_s)


def run(args: argparse.Namespace) -> int:
    """Print the estimate; the exit status. ConfigError for figures that can't be."""
    sizing = Sizing(
        images=args.images,
        megapixels=args.megapixels,
        rate=args.rate,
        within_s=args.within,
        reserve=args.reserve,
        price=args.price,
    )
    hours = sizing.work_s / 3600
    total = sizing.images * sizing.megapixels
    print(
        f"{format_count(sizing.images)} images of {sizing.megapixels:g} megapixels,"
        f" {format_count(round(total))} megapixels, and {sizing.reserve:.0%} in reserve"
    )
    print(
        f"{format_count(sizing.workers)} workers of {sizing.rate:g} megapixels/s end within"
        f" {format_duration(sizing.within_s)}; all take {format_figure(hours, 3)} worker-hours"
    )
    if sizing.price:
        print(f"at {sizing.price:g} an hour for each: {format_figure(hours * sizing.price, 3)}")
    return 0
