"""When a training run ends before its schedule does."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.checkpoints import Row
from pipelines.quantities import format_duration
from resnet_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StopRules:
    """Whichever comes first ends the run. Raises ConfigError."""

    steps: int
    """Of the schedule."""
    patience: int = 0
    """Validations in a row without a better PSNR-Y; 0: none."""
    target_psnr_db: float | None = None
    """PSNR-Y of the validation that is enough."""
    target_loss: float | None = None
    """Mean loss between two validations that is enough."""
    max_steps: int | None = None
    max_time_s: float | None = None
    """Since the command began, whatever starts again meanwhile."""

    def __post_init__(self) -> None:
        for name in ("target_psnr_db", "target_loss", "max_steps", "max_time_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                option = "--" + name.removesuffix("_db").removesuffix("_s").replace("_", "-")
                raise ConfigError(f"{option} is {value}, expected more than 0")

    @property
    def last_step(self) -> int:
        return min(self.steps, self.max_steps or self.steps)

    def reason(self, history: Sequence[Row], *, time_is_up: bool = False) -> str | None:
        """Why the run ends with the last validation of `history`; None if it goes on."""
        if not history:
            return None
        return next(self._reasons(history, time_is_up=time_is_up), None)

    def _reasons(self, history: Sequence[Row], *, time_is_up: bool) -> Iterator[str]:
        row = history[-1]
        if self.target_psnr_db is not None and row["psnr_y_db"] >= self.target_psnr_db:
            yield f"--target-psnr {self.target_psnr_db:g} is reached: {row['psnr_y_db']:.3f} dB"
        if self.target_loss is not None and row["loss"] <= self.target_loss:
            yield f"--target-loss {self.target_loss:g} is reached: {row['loss']:.6f}"
        if row["step"] >= self.steps:
            yield f"all {self.steps} steps of the schedule are done"
        if row["step"] >= self.last_step:
            yield f"--max-steps {self.max_steps} are done"
        stalled = _validations_since_best(history)
        if self.patience and stalled >= self.patience:
            yield f"no better validation for {stalled} of them (patience={self.patience})"
        if time_is_up and self.max_time_s is not None:
            yield f"--max-time is over: {format_duration(self.max_time_s)}"


def _validations_since_best(history: Sequence[Row]) -> int:
    scores = [row["psnr_y_db"] for row in history]
    return len(scores) - 1 - scores.index(max(scores))
