"""Opens what answers records: a run, or trained adapters."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import cast

from jaxft.config.sections import Settings
from jaxft.config.settings import replace
from jaxft.errors import UserError
from jaxft.inference.adapters.mixture import load_mixture
from jaxft.inference.adapters.records import MixedAnswers, MixedData
from jaxft.inference.adapters.sources import AdapterChoice, errors_name, load_source, open_sources
from jaxft.inference.model import Model, open_model
from jaxft.tasks.base import AnyAnswers, AnyTaskData, Log
from jaxft.tasks.registry import TASKS, make_answers, make_data
from jaxft.training.run_folder.workdir import Run, open_run


@dataclasses.dataclass(frozen=True)
class Answering:
    """A run or adapters that answer records, before their weights are read.

    Attributes:
      answers: reads and writes the records.
      config: the settings.
      open_model: reads the weights.
      make_data: returns what encodes examples, for the settings.
    """

    answers: AnyAnswers
    config: Settings
    open_model: Callable[[], Model]
    make_data: Callable[[Settings], AnyTaskData]


def open_answering(run_folder: Path | None, choice: AdapterChoice, log: Log) -> Answering:
    """Opens a run or adapters to answer records.

    Args:
      run_folder: the folder of a run. If there are adapters, its own answers the records that name none.
      choice: the adapters; none for the run alone.
      log: prints a line.

    Raises:
      UserError: a run, an adapter or a base is unusable, or generates text instead of answering records.
    """
    if not choice.addresses:
        if run_folder is None:
            raise UserError(
                "nothing to predict with; name a run, --run RUN, or adapters, --adapter FOLDER or --adapter NAME=FOLDER"
            )
        if choice.base is not None:
            raise UserError(
                f"--model {choice.base}: names the base of adapters, and there is no --adapter; leave it out"
            )
        run = open_run(run_folder)
        answers = require_answers(run)
        return Answering(answers, run.config, lambda: open_model(run, log), make_data)
    sources = open_sources(run_folder, choice, log)
    runs = [source.run for source in sources]
    answers_of_adapters = []
    for source in sources:
        with errors_name(source.flag):
            answers_of_adapters.append(require_answers(source.run))
    if [source.name for source in sources] == [""]:
        return Answering(
            answers_of_adapters[0], runs[0].config, lambda: load_source(sources[0], log), make_data
        )
    row_length = max(run.config.data.max_length for run in runs)

    def make_mixed_data(config: Settings) -> AnyTaskData:
        data = [make_data(without_context(run.config)) for run in runs]
        return cast(AnyTaskData, MixedData(data, runs))  # it does what predictions need

    return Answering(
        MixedAnswers([source.name for source in sources], answers_of_adapters, choice.field),
        replace(runs[0].config, {"data.max_length": row_length}),
        lambda: load_mixture(sources, log),
        make_mixed_data,
    )


def without_context(config: Settings) -> Settings:
    """Returns settings with which each record is a document of its own."""
    return replace(config, {"data.context": False}) if getattr(config.data, "context", False) else config


def require_answers(run: Run) -> AnyAnswers:
    """Returns what reads and writes the records of a run. Raises `UserError` if its task generates text instead."""
    answers = make_answers(run)
    if answers is None:
        answering = ", ".join(name for name, entry in TASKS.items() if entry.answers)
        raise UserError(
            f"--run {run.workdir}: its task is {run.config.task}, and predictions are for {answering}; a "
            "language model's text is generated with jaxft generate"
        )
    return answers
