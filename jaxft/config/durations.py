"""Converts durations in steps, epochs, examples or shares of the run into steps."""

import math
import re
from typing import Any, TypedDict

from jaxft.config.settings import MAX_COUNT, Check
from jaxft.errors import UserError

_DURATION = re.compile(r"\s*([\d.eE+-]+)\s*(%|steps?|epochs?|examples?)\s*")


class EpochScale(TypedDict):
    """The steps of one pass over the training data, and the mean number of examples in a step."""

    steps_per_epoch: int
    examples_per_step: float


def duration_steps(
    value: Any, key: str, *, total: int, steps_per_epoch: int, examples_per_step: float
) -> int:
    """Converts a duration setting into steps.

    Args:
      value: None (0 steps), a share of the run in [0, 1) such as 0.1, a number of steps, or text: "10%",
        "100 steps", "0.5 epochs", "1000 examples".
      key: the setting's name, for the error.
      total: the run's steps.
      steps_per_epoch: the steps of one pass over the training data.
      examples_per_step: the mean number of examples in a step.

    Raises:
      UserError: the value is not a duration.
    """
    if value is None:
        return 0
    if isinstance(value, float) and 0 <= value < 1:
        return round(value * total)
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value < math.inf
        and value % 1 == 0
    ):
        return min(int(value), MAX_COUNT)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    try:
        if match is None:
            raise ValueError
        amount, unit = float(match[1]), match[2].rstrip("s")
        if not 0 <= amount < math.inf:
            raise ValueError
        scale = {"%": total / 100, "step": 1, "epoch": steps_per_epoch, "example": 1 / examples_per_step}
        return min(round(amount * scale[unit]), MAX_COUNT)
    except (ValueError, OverflowError):
        raise UserError(
            f"config.{key}={value!r}: expected a share of the run (0.1), a number of steps (100), or text "
            "such as '10%', '100 steps', '0.5 epochs', '1000 examples'"
        ) from None


def duration(key: str) -> Check:
    """Returns a check that a setting is a duration."""

    def accepts(value: Any) -> bool:
        duration_steps(value, key, total=1, steps_per_epoch=1, examples_per_step=1)  # raises for others
        return True

    return Check(accepts, "a duration")


def total_steps(
    *, steps: int | None, examples: int | None, epochs: float, steps_per_epoch: int, examples_per_step: float
) -> int:
    """Returns the run's optimizer steps: `train.steps`, or else from `train.examples`, or else from `train.epochs`.

    Raises:
      UserError: the epochs are more steps than a run can count.
    """
    if steps is not None:
        return steps
    if examples is not None:
        return max(1, math.ceil(examples / examples_per_step))
    total = max(1, round(epochs * steps_per_epoch))
    if total > MAX_COUNT:
        raise UserError(
            f"config.train.epochs={epochs}: {total:.1e} steps of {steps_per_epoch:,} an epoch; expected fewer than 2^31"
        )
    return total
