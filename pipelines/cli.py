"""The `resray` command. Each subcommand's module is imported only when it is asked for.

A module supplies `add_arguments(parser)` and `run(args) -> int`, the exit status. Errors that a
user can mend end as one line and status 1, a Ctrl-C as status 130.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from cluster.connect import set_environment
from resnet_core.errors import ResrayError

COMMANDS = {
    "enhance": ("pipelines.enhance", "make all images in a folder better, into another folder"),
    "estimate": (
        "pipelines.estimate",
        "how many machines a bulk run needs by when, and what it costs",
    ),
    "evaluate": ("pipelines.evaluate", "measure weights on a folder of images, beside old methods"),
    "serve": ("pipelines.serve", "serve weights over HTTP, with a page to try them"),
    "submit": ("pipelines.submit", "run a command as a job on a Ray cluster, and follow it"),
    "train": ("pipelines.train", "train weights on the photographs of a folder or bucket"),
    "weights": ("pipelines.weights_command", "list the weights there are, or show the card of one"),
}

DESCRIPTION = """\
Makes images sharper, cleaner and larger with residual networks.

  resray enhance photos better              every image in photos/, into better/
  resray enhance photos better --sample 8   eight of them first, with an estimate
  resray weights list                       the networks there are
"""


class Parser(argparse.ArgumentParser):
    """Wrong usage is one line and status 1: 2 says that some objects failed."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    set_environment()
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("resray: stopped", file=sys.stderr)
        return 130


def build_parser(chosen: str | None = None) -> Parser:
    """The parser; only the chosen subcommand has its options, the others their names."""
    parser = Parser(
        prog="resray", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", required=True
    )
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        if name == chosen:
            importlib.import_module(module).add_arguments(command)
    return parser


def _run(arguments: list[str]) -> int:
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    if chosen not in COMMANDS:
        build_parser().parse_args(arguments)
    try:
        args = build_parser(chosen).parse_args(arguments)
        return importlib.import_module(COMMANDS[args.command][0]).run(args)
    except ResrayError as error:
        print(f"resray: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
