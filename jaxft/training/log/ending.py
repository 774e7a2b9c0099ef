"""Writes the last lines of a run: its scores, where they come from, and what to do next."""

import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxft.config.sections import Settings
from jaxft.io.files import read_json
from jaxft.io.stores import address_of_copy
from jaxft.tasks.base import AnyEvaluator
from jaxft.tasks.registry import generates_text, make_data


def ending_lines(
    config: Settings,
    workdir: Path,
    evaluator: AnyEvaluator,
    results: Mapping[str, Mapping[str, float]],
    *,
    selection_metric: str,
    steps: int,
    best_step: int,
    is_best: bool,
) -> Iterator[str]:
    """Yields the last lines of a finished run.

    Args:
      config: the run's settings.
      workdir: the run's folder, with the evaluations of `results`.
      evaluator: the run's evaluator.
      results: the metrics of dev and perhaps test, by name of the split.
      selection_metric: the metric that has chosen the best weights.
      steps: the steps of the run.
      best_step: the step of the weights with which the splits were measured.
      is_best: False if these are the last weights, because the best could not be read.
    """
    which = f"the best by {selection_metric} on dev" if is_best else "the last, for the best cannot be read"
    yield f"scores, with the weights of step {best_step:,} of {steps:,}, {which}:"
    for name, values in results.items():
        numbers = {key: math.nan if value is None else value for key, value in values.items()}
        line = f"  {name}: {evaluator.summarize(numbers)}"
        yield line + "".join(
            f"; {interval}" for interval in _describe_intervals(workdir, name, selection_metric)
        )
    address = address_of_copy(workdir)
    folder = address or str(workdir)
    run = shlex.quote(folder)
    yield "next:"
    example = shlex.quote(make_data(config).example_input)
    if generates_text(config.task):
        yield f"  jaxft generate --run {run} --prompt {example}"
    else:
        yield f"  echo {example} | jaxft predict --run {run}"
    output = "export" if address else f"{folder}/export"  # exports are local folders
    yield f"  jaxft export --run {run} --output {shlex.quote(output)}"
    if config.log.tensorboard:
        yield f"  tensorboard --logdir {shlex.quote(f'{folder}/tensorboard')}"


def _describe_intervals(workdir: Path, name: str, selection_metric: str) -> Iterator[str]:
    """Yields the interval of each metric that has chosen the best weights, where the evaluation has one.

    With several tasks, the metric `TASK/METRIC` is in the evaluation NAME-TASK.
    """
    for metric in selection_metric.split("+"):
        of_task, _, name_in_task = metric.rpartition("/")
        path = workdir / "eval" / f"{'-'.join(filter(None, (name, of_task)))}.json"
        intervals = read_json(path).get("intervals", {}) if path.exists() else {}
        if bounds := intervals.get(name_in_task):
            low, high = (f"{100 * bound:.2f}" for bound in bounds)
            yield f"{100 * intervals['confidence']:g}% interval of {metric} {low}–{high}"
