"""The page of `make bench`: the figures of all benchmarks, how they were made, and their output.

python -m parts.page FOLDER

FOLDER holds what each benchmark printed, `NAME.txt`, with its command on the first line, and the
pages that `resray evaluate` wrote; `index.html` is written beside them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from parts.figures import parse_aims, parse_figures
from pipelines import report

PAGES = Path(report.__file__).parent / "pages"


@dataclass(frozen=True, kw_only=True)
class ShownFigure:
    name: str
    value: float
    aim: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What one benchmark printed."""

    name: str
    command: str
    output: str

    @classmethod
    def read(cls, path: Path) -> "Benchmark":
        command, _, output = path.read_text(encoding="utf-8").partition("\n")
        return cls(name=path.stem, command=command.removeprefix("$ "), output=output.strip())

    @property
    def figures(self) -> list[ShownFigure]:
        aims = parse_aims(self.output)
        return [
            ShownFigure(name=name, value=value, aim=aims[name][0], verdict=aims[name][1])
            if name in aims
            else ShownFigure(name=name, value=value, aim="", verdict="")
            for name, value in parse_figures(self.output).items()
        ]


def render(benchmarks: Sequence[Benchmark], pages: Sequence[str]) -> str:
    """The page; `pages` are names of the files beside it that it leads to."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, PAGES]),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = {
        "title": "Benchmarks",
        "style": Markup((PAGES / "style.css").read_text(encoding="utf-8")),  # noqa: S704
        "script": "",
        "policy": "default-src 'none'; style-src 'unsafe-inline'",
    }
    template = environment.get_template("page.html")
    return template.render(page=page, benchmarks=benchmarks, pages=pages)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    benchmarks = [Benchmark.read(path) for path in sorted(folder.glob("*.txt"))]
    pages = sorted(path.name for path in folder.glob("*.html") if path.name != "index.html")
    path = folder / "index.html"
    path.write_text(render(benchmarks, pages), encoding="utf-8")
    print(f"== Figures and commands: {path.resolve()}")


if __name__ == "__main__":
    main()
