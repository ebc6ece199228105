"""A run ends by the first rule that holds, and says which."""

import pytest

from pipelines.stopping import StopRules
from resnet_core.errors import ConfigError


def history(*scores: float, loss: float = 0.02) -> list[dict[str, float]]:
    steps = range(100, 100 * len(scores) + 1, 100)
    return [
        {"step": step, "psnr_y_db": score, "loss": loss}
        for step, score in zip(steps, scores, strict=True)
    ]


@pytest.mark.parametrize(
    ("rules", "scores", "reason"),
    [
        ({}, (30.0, 31.0), None),
        ({}, (30.0,) * 5, "all 500 steps of the schedule are done"),
        ({"target_psnr_db": 31.0}, (30.0, 30.9), None),
        ({"target_psnr_db": 31.0}, (30.0, 31.04), "--target-psnr 31 is reached: 31.040 dB"),
        ({"target_loss": 0.03}, (30.0,), "--target-loss 0.03 is reached: 0.020000"),
        ({"target_loss": 0.01}, (30.0,), None),
        ({"max_steps": 300}, (30.0, 31.0), None),
        ({"max_steps": 200}, (30.0, 31.0), "--max-steps 200 are done"),
        ({"patience": 2}, (30.0, 31.0, 30.9), None),
        ({"patience": 2}, (31.0, 30.9, 31.0), "no better validation for 2 of them (patience=2)"),
        ({"patience": 2}, (), None),
    ],
)
def test_the_reason(rules: dict[str, float], scores: tuple[float, ...], reason: str | None) -> None:
    assert StopRules(steps=500, **rules).reason(history(*scores)) == reason  # pyright: ignore[reportArgumentType]


def test_time_counts_where_it_is_limited() -> None:
    assert StopRules(steps=500).reason(history(30.0), time_is_up=True) is None
    limited = StopRules(steps=500, max_time_s=5400.0)
    assert limited.reason(history(30.0)) is None
    assert limited.reason(history(30.0), time_is_up=True) == "--max-time is over: 1 h 30 min"


def test_the_schedule_bounds_the_steps() -> None:
    assert StopRules(steps=500).last_step == 500
    assert StopRules(steps=500, max_steps=200).last_step == 200
    assert StopRules(steps=500, max_steps=900).last_step == 500


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"target_psnr_db": float("nan")}, "--target-psnr is nan, expected more than 0"),
        ({"target_loss": -1.0}, "--target-loss is -1.0, expected more than 0"),
        ({"max_time_s": float("inf")}, "--max-time is inf, expected more than 0"),
    ],
)
def test_a_bad_rule_is_named(rules: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StopRules(steps=500, **rules)  # pyright: ignore[reportArgumentType]
