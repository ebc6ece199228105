"""The page of a training run: all its figures in words, and none that is no number drawn."""

import math
import re
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages_for_tests import Page, training_report

from pipelines.training_report import TrainingReport, render_training_report

COLUMNS = (
    "loss",
    "psnr_y_db",
    "ssim_y",
    "learning_rate",
    "step_s",
    "data_wait_share",
    "checkpoint_stall_share",
)
DRAWN = 5
"""Curves on the page."""


def shown(report: TrainingReport) -> str:
    return " ".join(Page(render_training_report(report)).text.replace("\xa0", " ").split())


def lines(report: TrainingReport) -> list[str]:
    return re.findall(r'<polyline points="([^"]*)"', render_training_report(report))


def test_the_page_tells_what_came_out_and_how() -> None:
    text = shown(training_report())
    for told in (
        "Trained cat.jpg",
        "+3.00 dB",
        "over bicubic, 33.70 dB",
        "36.70 dB",
        "best, at step 20,000",
        "0.9220",
        "of 60,000",
        "Time of the steps2 h",
        "Resumed2 times",
        "ab" * 32,
        "36.70 dB at step 20,000",
        "bicubic 33.70 dB",
        "computing 97.5 %",
        "waiting for data 2.0 %",
        "saving checkpoints 0.5 %",
        "mean 360 ms",
        "step 1,000: 34.80 dB",
        "the best of 20 validations",
        "batch_size",
        "-0.50 dB",
        "2026-05-04 12:35 UTC",
    ):
        assert told in text


def test_pauses_are_no_time_of_the_steps() -> None:
    report = training_report(rows=2)
    week_later = replace(report, finished_at=report.finished_at + timedelta(days=7))
    assert "Time of the steps12 min" in shown(week_later)
    assert "Resumednever" in shown(week_later)


def test_the_best_is_told_from_the_last() -> None:
    text = shown(replace(training_report(), best_step=7000))
    assert "best 35.40 dB at step 7,000, +1.70 dB over bicubic" in text


def test_at_the_same_size_the_base_is_the_input() -> None:
    report = training_report()
    text = shown(replace(report, card=replace(report.card, scale=1, task="denoise")))
    assert "over the input, 33.70 dB" in text
    assert "bicubic" not in text


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_any_number_of_validations_is_drawn(rows: int) -> None:
    report = training_report(rows=rows)
    drawn = lines(report)
    assert len(drawn) == DRAWN
    assert all(len(line.split()) == (rows if rows > 1 else 0) for line in drawn)
    assert len(re.findall("<tr", render_training_report(report))) == 2 + rows + len(report.recipe)


def test_a_single_validation_is_a_dot_and_its_figure() -> None:
    html = render_training_report(training_report(rows=1))
    assert html.count("<circle") == DRAWN
    text = shown(training_report(rows=1))
    for told in (
        "34.80 dB at step 1,000",
        "0.9201",
        "0.0200",
        "360 ms",
        "the best of 1 validation",
    ):
        assert told in text
    assert ">360 ms</text>" in html


@given(
    st.lists(st.sampled_from(COLUMNS), unique=True),
    st.sampled_from([math.nan, math.inf, -math.inf, None]),
    st.sampled_from([1, 2, 3]),
)
def test_what_is_no_finite_number_is_left_out_of_the_curves(
    names: list[str], value: float | None, rows: int
) -> None:
    report = training_report(rows=rows)
    history = [dict(row) for row in report.history]
    for name in names:
        if value is None:
            del history[-1][name]
        else:
            history[-1][name] = value
    html = render_training_report(replace(report, history=history, pairs=()))
    assert not re.search(r"\b(nan|inf)\b", html)
    for line in re.findall(r'points="([^"]*)"', html):
        assert all(math.isfinite(float(number)) for number in re.split("[ ,]", line) if number)


def test_bases_without_end_render() -> None:
    text = shown(replace(training_report(), base_psnr_y_db=math.inf, base_ssim_y=math.nan))
    assert "over bicubic, ∞" in text
    assert "bicubic n/a" in text


def test_a_history_without_the_best_step_is_refused() -> None:
    with pytest.raises(ValueError, match="no validation of step 5 in a history of 20 rows"):
        replace(training_report(), best_step=5)
    with pytest.raises(ValueError, match="history of 0 rows"):
        replace(training_report(), history=())
