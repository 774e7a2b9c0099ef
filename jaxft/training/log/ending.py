"""Writes the summary and the last lines of a run: its scores, where they come from, and what to do next."""

import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxft.config.sections import Settings
from jaxft.io.files import read_json, write_json
from jaxft.io.stores import address_of_copy
from jaxft.parallel import processes
from jaxft.tasks.base import AnyEvaluator, Log
from jaxft.tasks.reading import cache_folder
from jaxft.tasks.registry import generates_text, make_data
from jaxft.training.prepare import PreparedRun
from jaxft.training.run_folder.best import BestTracker
from jaxft.training.run_folder.finished import UNSAVED, describe_disk_use, keep_best_only


def report_ending(
    run: PreparedRun,
    evaluator: AnyEvaluator,
    best: BestTracker,
    summary: dict[str, Any],
    results: dict[str, dict[str, float]],
    workdir: Path,
    log: Log,
) -> None:
    """Writes the summary of a run that has ended, and logs what it was, what it has found and what to do next.

    Args:
      run: the run.
      evaluator: the evaluator that has measured `results`.
      best: the tracker of the best weights.
      summary: the content of summary.json.
      results: the metrics of dev and perhaps test, by name of the split.
      workdir: the run's folder.
      log: prints a line.
    """
    config, unit, is_saved = run.config, run.data.task.batch_spec.unit, best.is_saved()
    if not is_saved:
        summary[UNSAVED] = True
    if processes.is_main_process():
        write_json(workdir / "summary.json", summary)
    if config.checkpoint.best_only and is_saved:
        keep_best_only(workdir)
    log(
        f"{summary['steps']:,} steps in {summary['train_s']:.1f} s: {summary[f'real_{unit}s_per_s']:,.0f} {unit}s/s, "
        f"padding {summary['padding_fraction']:.1%}, input stall {summary['input_stall_fraction']:.2%}; "
        f"peak memory {summary['peak_rss_bytes'] / 2**20:,.0f} MiB; everything is in {workdir}"
    )
    log(describe_disk_use(workdir, cache_folder(config.data.cache_dir)))
    if processes.is_main_process():
        for line in ending_lines(
            config,
            workdir,
            evaluator,
            results,
            selection_metric=summary["selected_by"],
            steps=summary["steps"],
            best_step=summary["best_step"],
            is_best=not best.is_replaced,
        ):
            log(line)
    if not is_saved:
        log(
            f"warning: {workdir / 'best'} does not hold the weights of step {best.step}, for which there was no room; "
            "make room, and start the same command again"
        )


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
