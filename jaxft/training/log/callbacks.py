"""Defines callbacks: what a program does while a run of it trains."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.parallel import processes


class Callback:
    """Hears of a run's progress. Inherit from it, and define the methods that you need.

    A method that returns True asks the run to end: it measures the current weights, keeps the best, and finishes as a
    run does that stops early. With several processes, the methods are called in process 0.

    Example:
      >>> import jaxft
      >>> class StopAt(jaxft.Callback):
      ...     def on_evaluation(self, step, values):
      ...         return values["loss"] < 0.1
    """

    def on_log(self, step: int, values: Mapping[str, float]) -> bool | None:
        """Hears the means since the last line of the log: `loss`, `grad_norm`, `lr`, `epoch` and others."""

    def on_evaluation(self, step: int, values: Mapping[str, float]) -> bool | None:
        """Hears the metrics of the dev set, those of `eval/dev.json`, after an evaluation."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Hears the content of `summary.json`, when the run is finished."""


class Callbacks:
    """The callbacks of a run, and whether one of them has asked to end it."""

    def __init__(self, callbacks: Sequence[Callback]):
        self._callbacks, self._has_asked = callbacks, False

    def hear(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Passes on values that are logged; `kind` is "train", or the name of an evaluated split."""
        for callback in self._callbacks:
            method = callback.on_log if kind == "train" else callback.on_evaluation
            self._has_asked |= bool(method(step, dict(values)))

    def ask_to_end(self) -> bool:
        """Returns whether a callback has asked to end the run. All processes call it equally often."""
        return bool(self._callbacks) and processes.broadcast(self._has_asked)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Passes on the summary of the finished run."""
        if processes.is_main_process():
            for callback in self._callbacks:
                callback.on_end(summary)
