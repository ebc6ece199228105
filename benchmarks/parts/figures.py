"""What a benchmark prints: tables for people, and one line `FIGURE name=value` for each figure."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_AIM = re.compile(r"^ +([a-z]\w*) +\S+ +(at (?:least|most) \S+) +(met|missed)$", re.MULTILINE)
_LINE = re.compile(r"^FIGURE ([a-z][a-z0-9_]*)=(-?[0-9.]+(?:e[+-]?[0-9]+)?)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One ratio, and what it should be."""

    name: str
    value: float
    aim: float
    at_least: bool = True
    """Else at most."""

    @property
    def is_met(self) -> bool:
        return self.value >= self.aim if self.at_least else self.value <= self.aim

    @property
    def told_aim(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.aim:g}"


def median_ratio(values: Sequence[float], rivals: Sequence[float]) -> float:
    """The median of the ratios pair by pair: what slows both of a pair down cancels out."""
    return statistics.median(
        value / rival for value, rival in zip(values, rivals, strict=True) if rival
    )


def figure_lines(figures: Iterable[Figure]) -> list[str]:
    return [f"FIGURE {figure.name}={figure.value:.4g}" for figure in figures]


def parse_figures(output: str) -> dict[str, float]:
    """The figures in what a benchmark printed."""
    return {name: float(value) for name, value in _LINE.findall(output)}


def parse_aims(output: str) -> dict[str, tuple[str, str]]:
    """The aim of each figure in the table of figures, and whether it was met or missed."""
    return {name: (aim, verdict) for name, aim, verdict in _AIM.findall(output)}


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of text under a title; the first is flush left, the others flush right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    shown = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([title, *(f"  {line}" for line in shown), ""])


def figure_table(figures: Iterable[Figure]) -> str:
    rows = [
        (figure.name, f"{figure.value:.3g}", figure.told_aim, "met" if figure.is_met else "missed")
        for figure in figures
    ]
    return table("Figures", ("figure", "value", "aim", ""), rows)
