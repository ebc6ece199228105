"""`resray weights`: what the package holds, and the cards of files."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from pipelines.model_card import model_card
from resnet_core.degradation import describe
from resnet_core.errors import DataError
from resnet_core.weights import Weights, load_weights, packaged_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `resray weights`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="names, tasks and sizes of the weights in the package")
    show = actions.add_parser("show", help="the card of one: task, data, licence, figures")
    show.add_argument("name", metavar="NAME|PATH", help="name in the package, or a file")
    cards = actions.add_parser("cards", help="write DIR/NAME.md, a model card, for each")
    cards.add_argument("folder", metavar="DIR", type=Path, help="where the cards go")
    cards.add_argument(
        "names", metavar="NAME|PATH", nargs="*", help="which (default: all of the package)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the list or the card; the exit status."""
    if args.action == "list":
        lines = list_lines([load_weights(name) for name in packaged_weights()])
    elif args.action == "show":
        lines = card_lines(load_weights(args.name))
    else:
        names = args.names or packaged_weights()
        lines = [str(write_card(args.folder, load_weights(name))) for name in names]
    print(*lines, sep="\n")
    return 0


def write_card(folder: Path, weights: Weights) -> Path:
    """Its model card, as a file. DataError where it can't be written."""
    path = folder / f"{weights.name}.md"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(model_card(weights), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: can't be written ({error.strerror})") from error
    return path


def list_lines(weights: list[Weights]) -> Iterator[str]:
    """One line for each file, in columns."""
    if not weights:
        yield "no weights in this package; resray train makes some"
        return
    width = max(len(item.name) for item in weights)
    for item in weights:
        figures = ", ".join(
            f"{name} {value:.2f}" for name, value in list(item.metadata.figures.items())[:2]
        )
        yield (
            f"{item.name:<{width}}  x{item.scale}  {_parameters(item):>6}"
            f"  {item.metadata.task}  {figures}".rstrip()
        )


def card_lines(weights: Weights) -> Iterator[str]:
    """Everything a file says of itself."""
    metadata = weights.metadata
    yield f"{weights.name}: {metadata.task}, x{weights.scale}"
    rows = {
        "network": f"{weights.network.summary}, {_parameters(weights)} parameters",
        "sha256": weights.sha256,
        "degradation": metadata.degradation and _flat(describe(metadata.degradation)),
        "data": metadata.data,
        "licence": metadata.licence,
        "made": metadata.created and f"{metadata.created} from revision {metadata.git_revision}",
        "training": _flat({k: v for k, v in metadata.training.items() if k != "curve"}),
    }
    for name, value in rows.items():
        if value:
            yield f"  {name:<12} {value}"
    for name, value in metadata.figures.items():
        yield f"  {name:<28} {value:.4g}"


def _parameters(weights: Weights) -> str:
    return f"{weights.network.num_parameters / 1000:,.0f}K"


def _flat(value: object) -> str:
    """Nested plain data on one line, for a person."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_flat(item) for item in value)
    return str(value)
