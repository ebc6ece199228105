"""`resray estimate`: the formula, and figures that can't be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cli import main
from pipelines.estimate import Sizing

COUNTS = st.integers(1, 10**9)
AMOUNTS = st.floats(0.01, 1e4)


@given(images=COUNTS, megapixels=AMOUNTS, rate=AMOUNTS, within_s=st.floats(1, 1e7))
def test_so_many_workers_are_in_time_and_one_less_is_not(
    images: int, megapixels: float, rate: float, within_s: float
) -> None:
    sizing = Sizing(images=images, megapixels=megapixels, rate=rate, within_s=within_s)
    takes_s = images * megapixels * 1.25 / rate
    assert takes_s <= sizing.workers * within_s * (1 + 1e-9)
    assert takes_s >= (sizing.workers - 1) * within_s * (1 - 1e-9)


def test_it_prints_workers_hours_and_costs(capsys: pytest.CaptureFixture[str]) -> None:
    given = "--images 5M --megapixels 2 --rate 30 --within 10h --price 0.5"
    assert main(["estimate", *given.split()]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "5,000,000 images of 2 megapixels, 10,000,000 megapixels, and 25% in reserve",
        "12 workers of 30 megapixels/s end within 10 h; all take 116 worker-hours",
        "at 0.5 an hour for each: 57.9",
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("--rate 0", "--rate: expected more than 0, found 0"),
        ("--rate nan", "--rate: expected more than 0, found nan"),
        ("--megapixels -1", "--megapixels: expected more than 0, found -1"),
        ("--reserve -0.1", "--reserve: expected 0 or more, found -0.1"),
        ("--price -1", "--price: expected 0 or more, found -1"),
    ],
)
def test_a_figure_that_cannot_be_is_one_line(
    changed: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "--images 5M --megapixels 2 --rate 30 --within 10h"
    assert main(["estimate", *given.split(), *changed.split()]) == 1
    assert capsys.readouterr() == ("", f"resray: {message}\n")
