"""Draws stay in their ranges and come as often as told; what can't be drawn from is named."""

from collections import Counter
from typing import Any

import pytest
from pixels_for_tests import generator

from resnet_core.chance import (
    check_choices,
    check_odd_range,
    check_probabilities,
    check_probability,
    check_range,
    check_range_around_one,
    draw_choice,
    draw_odd,
    draw_weighted,
)
from resnet_core.errors import ConfigError

MANY = 6000


def shares(draws: list[Any]) -> dict[Any, float]:
    return {key: count / len(draws) for key, count in Counter(draws).items()}


def test_choices_are_alike() -> None:
    rng = generator()
    found = shares([draw_choice(rng, "abc") for _ in range(MANY)])
    assert found == pytest.approx(dict.fromkeys("abc", 1 / 3), abs=0.02)


def test_a_single_choice_takes_no_chance() -> None:
    rng = generator()
    assert draw_choice(rng, ("only",)) == "only"
    assert rng.random() == generator().random()


def test_weighted_choices_come_as_often_as_told() -> None:
    rng = generator()
    found = shares([draw_weighted(rng, "abcd", (0.1, 0.0, 0.65, 0.25)) for _ in range(MANY)])
    assert found == pytest.approx({"a": 0.1, "c": 0.65, "d": 0.25}, abs=0.02)


@pytest.mark.parametrize("odd_range", [(7, 21), (3, 5), (9, 9)])
def test_odd_numbers_are_alike_with_both_ends(odd_range: tuple[int, int]) -> None:
    rng = generator()
    found = shares([draw_odd(rng, odd_range) for _ in range(MANY)])
    expected = range(odd_range[0], odd_range[1] + 1, 2)
    assert found == pytest.approx(dict.fromkeys(expected, 1 / len(expected)), abs=0.02)


def test_what_can_be_drawn_from_passes() -> None:
    check_range("a", (0.0, 0.0), low=0.0, high=1.0)
    check_range_around_one("a", (1.0, 2.0), low=0.0, high=2.0)
    check_odd_range("a", (3, 3), low=3, high=5)
    check_probability("a", 1.0)
    check_probabilities("a", (0.1, 0.2, 0.7), 3)
    check_choices("a", ("x",), ("x", "y"))


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_range("a", (2, 1), low=0, high=5), r"a: expected a range within 0..5, fo"),
        (lambda: check_range("a", (1, 6), low=0, high=5), r"found \(1, 6\)"),
        (lambda: check_range("a", (1, float("nan")), low=0, high=5), "found"),
        (lambda: check_range("a", (), low=0, high=5), "found"),
        (lambda: check_range_around_one("a", (2, 3), low=0, high=5), "a: expected 1 within it"),
        (lambda: check_odd_range("a", (3, 6), low=3, high=9), r"a: expected odd numbers, found"),
        (lambda: check_probability("a", 1.1), "a: expected 0..1, found 1.1"),
        (lambda: check_probabilities("a", (0.5, 0.4), 2), r"a: expected 2 of sum 1, found"),
        (lambda: check_probabilities("a", (1.5, -0.5), 2), "expected 2 of sum 1"),
        (lambda: check_probabilities("a", (), 0), "expected 0 of sum 1"),
        (lambda: check_choices("a", (), ("x", "y")), r"a: expected one or more of x, y, found"),
        (lambda: check_choices("a", ("x", "z"), ("x", "y")), r"found \('x', 'z'\)"),
    ],
)
def test_what_cant_be_drawn_from_is_named(check: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check()
