"""What a submitted job runs on the cluster: see that it can, wait for machines, run the command.

    python -m pipelines.submitted [--cpus N] [--gpus N] [--within SECONDS] -- COMMAND...

A Python that is too old must get as far as the check, so nothing newer stands before it.
"""

import argparse
import sys
from collections.abc import Sequence

PYTHONS = ((3, 11), (3, 14))
"""From the first on, before the second."""
CPUS = 1
WITHIN_S = 900.0


def main(arguments: Sequence[str]) -> int:
    """The exit status of the command, or 1 with one line that says why it doesn't begin."""
    if not PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        least, below = (".".join(map(str, each)) for each in PYTHONS)
        return _refuse(f"expected Python {least} or newer, below {below}", sys.version.split()[0])
    args = _parser().parse_args(arguments)
    try:
        return _run(args)
    except ImportError as error:
        return _refuse("expected what cluster/Dockerfile installs", f"no {error.name}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.submitted")
    parser.add_argument("--cpus", type=int, default=CPUS)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--within", type=float, default=WITHIN_S, metavar="SECONDS")
    parser.add_argument("command", nargs="+")
    return parser


def _run(args: argparse.Namespace) -> int:
    from cluster.connect import ray_session  # noqa: PLC0415
    from cluster.waiting import wait_for_resources  # noqa: PLC0415
    from pipelines.cli import main as run  # noqa: PLC0415
    from resnet_core.errors import ResrayError  # noqa: PLC0415

    try:
        with ray_session():
            wait_for_resources(
                cpus=args.cpus,
                gpus=args.gpus,
                within_s=args.within,
                tell=lambda line: print(line, flush=True),
            )
    except ResrayError as error:
        print(f"resray: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return run(args.command)


def _refuse(expected: str, found: str) -> int:
    print(f"resray: can't run on this cluster: {expected}; found {found}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
