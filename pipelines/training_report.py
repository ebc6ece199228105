"""The page that ends a training run: what came out, how it went, and pictures before and after.

    TrainingReport -> render_training_report    after `resray train`

A figure that is no finite number is left out of its curve and told as "n/a" or "∞".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from pipelines import charts
from pipelines.html_page import render_page
from pipelines.quantities import format_count, format_duration, format_figure
from pipelines.report import ReportPair, WeightsCard

PARTS_OF_A_STEP = (
    ("s2", "computing"),
    ("s3", "waiting for data"),
    ("s4", "saving checkpoints"),
)
"""Colour and name, from the ground up."""


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """Everything that the page after `resray train` shows.

    Raises ValueError for a history without rows or without `best_step`.
    """

    card: WeightsCard
    recipe: Sequence[tuple[str, str]]
    """Field and value, as shown."""
    data: str
    """What was trained on, in words."""
    ended: str
    """Why the run ended, in words."""
    steps: int
    """Of the schedule."""
    history: Sequence[Mapping[str, float]]
    """One row for each validation, by step: step, loss, psnr_y_db, ssim_y, learning_rate, step_s,
    data_wait_share, checkpoint_stall_share (both from 0 to 1), starts."""
    base_psnr_y_db: float
    """Of bicubic enlargement, or of the input where the size stays, on the same pictures."""
    base_ssim_y: float
    pairs: Sequence[ReportPair]
    """Base and output of held-out photographs."""
    best_step: int
    """The validation whose weights came out."""
    started_at: datetime
    finished_at: datetime
    machine: str
    revision: str

    def __post_init__(self) -> None:
        found = [row["step"] for row in self.history]
        if self.best_step not in found:
            raise ValueError(
                f"no validation of step {self.best_step} in a history of {len(found)} rows"
            )

    @property
    def base_name(self) -> str:
        return "bicubic" if self.card.scale > 1 else "the input"

    @property
    def best(self) -> Mapping[str, float]:
        return next(row for row in self.history if row["step"] == self.best_step)

    @property
    def steps_done(self) -> int:
        return int(self.history[-1]["step"])

    @property
    def resumes(self) -> int:
        """How often the run went on from a checkpoint."""
        return int(self.history[-1].get("starts", 1)) - 1


def render_training_report(report: TrainingReport) -> str:
    """The page as text."""
    return render_page(
        "training.html",
        title=f"Trained {report.card.name}",
        report=report,
        came_out=_came_out(report),
        quality=_quality(report),
        plots=_plots(report),
        pace=_pace(report),
        rows=_table_rows(report),
    )


@dataclass(frozen=True, kw_only=True)
class _CameOut:
    """Figures of the best validation, as shown."""

    psnr: str
    gain: str
    is_better: bool
    base_psnr: str
    ssim: str
    base_ssim: str
    steps_s: float


@dataclass(frozen=True, kw_only=True)
class _Plot:
    """`drawing`: None where no figure is finite."""

    title: str
    note: str
    drawing: Markup | None


@dataclass(frozen=True, kw_only=True)
class _Pace:
    """Seconds a step. `parts`: colour, name and share of the run of each part, as shown."""

    plot: _Plot
    parts: tuple[tuple[str, str, str], ...]


def _came_out(report: TrainingReport) -> _CameOut:
    psnr_y_db = _value(report.best, "psnr_y_db")
    gain_db = psnr_y_db - report.base_psnr_y_db
    return _CameOut(
        psnr=_decibels(psnr_y_db),
        gain=_gain(gain_db),
        is_better=gain_db > 0,
        base_psnr=_decibels(report.base_psnr_y_db),
        ssim=_ssim(_value(report.best, "ssim_y")),
        base_ssim=_ssim(report.base_ssim_y),
        steps_s=sum(step_s * count for step_s, count in _paces(report)),
    )


def _quality(report: TrainingReport) -> _Plot:
    """Validation PSNR beside that of the base, with the best marked."""
    best_db, base_db = _value(report.best, "psnr_y_db"), report.base_psnr_y_db
    at_best = f"{_decibels(best_db)} at step {format_count(report.best_step)}"
    return _Plot(
        title="Validation PSNR-Y, dB",
        note=f"best {at_best}, {_gain(best_db - base_db)} over {report.base_name}",
        drawing=_curve(
            report,
            "psnr_y_db",
            "Validation PSNR-Y over steps",
            _decibels,
            reference=_reference(report, base_db, _decibels),
            mark=_mark(report, "psnr_y_db", at_best),
            height_px=280,
        ),
    )


def _plots(report: TrainingReport) -> list[_Plot]:
    best_ssim = _value(report.best, "ssim_y")
    losses, rates = _finite(report, "loss"), _finite(report, "learning_rate")
    return [
        _Plot(
            title="Training loss",
            note=_last_of(losses, _small),
            drawing=_curve(report, "loss", "Training loss over steps", _small, from_zero=True),
        ),
        _Plot(
            title="Validation SSIM-Y",
            note=f"{_ssim(best_ssim)} at step {format_count(report.best_step)}",
            drawing=_curve(
                report,
                "ssim_y",
                "Validation SSIM-Y over steps",
                _ssim,
                reference=_reference(report, report.base_ssim_y, _ssim),
                mark=_mark(report, "ssim_y", _ssim(best_ssim)),
            ),
        ),
        _Plot(
            title="Learning rate",
            note=_last_of(rates, _small),
            drawing=_curve(
                report, "learning_rate", "Learning rate over steps", _small, from_zero=True
            ),
        ),
    ]


def _pace(report: TrainingReport) -> _Pace:
    """Seconds a step between validations, and what they were spent on."""
    points = _finite(report, "step_s")
    by_step = {row["step"]: row for row in report.history}
    waits = [_share(by_step[step], "data_wait_share") for step, _ in points]
    stalls = [_share(by_step[step], "checkpoint_stall_share") for step, _ in points]
    shares = [(max(1 - w - s, 0.0), w, s) for w, s in zip(waits, stalls, strict=True)]
    heights = [
        [step_s * share for share in row] for (_, step_s), row in zip(points, shares, strict=True)
    ]
    lasted = [count for _, count in _paces(report)]
    spent_s = [
        sum(height * steps for height, steps in zip(column, lasted, strict=True))
        for column in zip(*heights, strict=True)
    ]
    whole_s = sum(spent_s) or 1.0
    mean_s = whole_s / (sum(lasted) or 1.0)
    colors = [color for color, _ in PARTS_OF_A_STEP]
    names = [
        f"step {format_count(int(step))}: {format_duration(step_s)}, "
        f"{row[1]:.1%} waiting for data, {row[2]:.1%} saving checkpoints"
        for (step, step_s), row in zip(points, shares, strict=True)
    ]
    drawing = alone = None
    if len(points) == 1:
        ((step, step_s),) = points
        alone = charts.Mark(x=step, y=step_s, label=format_duration(step_s))
    if points:
        drawing = charts.curve(
            points,
            names=names,
            label="Seconds a step over steps",
            x_label="steps",
            mark=alone,
            areas=list(zip(colors, zip(*heights, strict=True), strict=True)),
        )
    return _Pace(
        plot=_Plot(
            title="Seconds a step",
            note=f"mean {format_duration(mean_s)}" if points else "",
            drawing=drawing,
        ),
        parts=tuple(
            (color, name, f"{100 * seconds / whole_s:.1f} %")
            for (color, name), seconds in zip(PARTS_OF_A_STEP, spent_s, strict=False)
        ),
    )


def _paces(report: TrainingReport) -> list[tuple[float, float]]:
    """Seconds a step before each validation, and the number of these steps."""
    points = _finite(report, "step_s")
    begins = [0.0, *(step for step, _ in points)]
    return [
        (step_s, max(step - begin, 0.0))
        for (step, step_s), begin in zip(points, begins, strict=False)
    ]


def _table_rows(report: TrainingReport) -> list[tuple[str, ...]]:
    """Every validation, as shown."""
    return [
        (
            format_count(int(row["step"])),
            _small(_value(row, "loss")),
            _decibels(_value(row, "psnr_y_db")).removesuffix(" dB"),
            _gain(_value(row, "psnr_y_db") - report.base_psnr_y_db).removesuffix(" dB"),
            _ssim(_value(row, "ssim_y")),
            _small(_value(row, "learning_rate")),
            _small(_value(row, "step_s")),
        )
        for row in report.history
    ]


def _curve(
    report: TrainingReport,
    name: str,
    label: str,
    shown: Callable[[float], str],
    *,
    reference: charts.Reference | None = None,
    mark: charts.Mark | None = None,
    from_zero: bool = False,
    height_px: int = 190,
) -> Markup | None:
    """One column of the history over steps; None where none of it is finite."""
    points = _finite(report, name)
    if not points:
        return None
    if len(points) == 1 and mark is None:
        ((step, value),) = points
        mark = charts.Mark(x=step, y=value, label=shown(value))
    return charts.curve(
        points,
        names=[f"step {format_count(int(step))}: {shown(value)}" for step, value in points],
        label=label,
        x_label="steps",
        reference=reference,
        mark=mark,
        from_zero=from_zero,
        height_px=height_px,
    )


def _reference(
    report: TrainingReport, value: float, shown: Callable[[float], str]
) -> charts.Reference | None:
    if not math.isfinite(value):
        return None
    return charts.Reference(y=value, label=f"{report.base_name} {shown(value)}")


def _mark(report: TrainingReport, name: str, label: str) -> charts.Mark | None:
    value = _value(report.best, name)
    return charts.Mark(x=report.best_step, y=value, label=label) if math.isfinite(value) else None


def _finite(report: TrainingReport, name: str) -> list[tuple[float, float]]:
    """Step and value wherever the value is a finite number."""
    found = [(row["step"], _value(row, name)) for row in report.history]
    return [(step, value) for step, value in found if math.isfinite(value)]


def _value(row: Mapping[str, float], name: str) -> float:
    """NaN for what a run of an earlier release did not record."""
    return row.get(name, math.nan)


def _share(row: Mapping[str, float], name: str) -> float:
    value = _value(row, name)
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0


def _last_of(points: Sequence[tuple[float, float]], shown: Callable[[float], str]) -> str:
    return f"{shown(points[-1][1])} at the end" if points else ""


def _decibels(value: float) -> str:
    return f"{value:.2f} dB" if math.isfinite(value) else _not_finite(value)


def _gain(value: float) -> str:
    return f"{value:+.2f} dB" if math.isfinite(value) else _not_finite(value)


def _ssim(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else _not_finite(value)


def _small(value: float) -> str:
    return format_figure(value) if math.isfinite(value) else _not_finite(value)


def _not_finite(value: float) -> str:
    return "∞" if value == math.inf else "n/a"
