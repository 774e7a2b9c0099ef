"""Measures a run's best weights on any data, for `jaxft evaluate`."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.config.settings import declarations, flatten
from jaxft.errors import UserError
from jaxft.inference.model import open_model
from jaxft.io.files import describe_unwritable, read_json
from jaxft.io.stores import fetch_source, refuse_address
from jaxft.parallel import processes
from jaxft.parallel.mesh import describe_local_devices
from jaxft.tasks.base import Split
from jaxft.tasks.registry import make_data, make_evaluator
from jaxft.training.evaluation import write_evaluation
from jaxft.training.prepare import make_eval_loader
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import settings_from_config
from jaxft.training.splits import read_splits


def evaluate_run(
    run_folder: Path, data: str, output: Path | None = None, changes: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Evaluates a run's best weights. Writes metrics, predictions and errors, and prints the report.

    Args:
      run_folder: the folder of the run.
      data: the source of the data.
      output: the folder of what is found; by default a folder in `RUN/evaluations` with the name of the data.
      changes: settings of the data that replace the run's, such as `{"format": "jsonl"}`.

    Returns:
      The metrics by name.

    Raises:
      UserError: the run, the data or the output folder is unusable.
    """
    if output is None:
        refuse_address(run_folder, "--run", "with it, name a local folder for the results by --output")
    run = open_run(run_folder)
    original, changes = run.config, dict(changes or {})
    settings_class: type = type(original)
    for name in changes:
        if f"data.{name}" not in declarations(settings_class):
            raise UserError(f"--{name}: a {original.task} run has no config.data.{name}; leave the flag out")
    if changes.get("layout") == "blocks":  # blocks have no stride, even if the run has one
        changes.setdefault("stride", None)
    changed = {f"data.{name}": value for name, value in changes.items()}
    config = settings_from_config(flatten(original) | changed, f"--run {run_folder}")
    address = data.rstrip("/").removeprefix("./")
    if ":" not in address:
        address = re.sub(r"[^;=]*/", "", address)  # drops the folder of each address
    file = re.sub(r"[^\w.-]+", "-", address).strip("-") or "stdin"
    if not set(":?;=*#") & set(data) and data != "-":
        file = Path(data).name
    name = Path(file).stem
    folder = output or run.workdir / "evaluations" / file
    _check_folder(folder, name, data)

    run = dataclasses.replace(run, config=config)
    task_data, evaluator = make_data(config), make_evaluator(run.labels, config)
    examples = task_data.read(name, fetch_source(data), processes.log)
    train = _training_examples(original) if evaluator.compares_with_train else []
    split = Split(name, data, examples, task_data.encode(examples, run.labels, run.checkpoint.processor))
    processes.assert_same({"data": split.windows.fingerprint} | describe_local_devices())
    task_data.check(split, run.labels, train, processes.log)
    with _report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)  # early, so that an error comes before the work
    model = open_model(run, processes.log)
    spec, mesh = model.task.batch_spec, model.net.mesh
    loader = make_eval_loader(split.windows, spec, config, mesh, rows=model.rows)
    compiled = model.compile(loader.shapes)
    with _report_write_errors(folder):
        metrics = write_evaluation(
            model.net,
            model.evaluator,
            compiled,
            model.parameters,
            split,
            loader,
            folder=folder,
            train=train,
            processor=run.checkpoint.processor,
            config=config,
            console=Console(soft_wrap=True, highlight=False, quiet=not processes.is_main_process()),
        )
    processes.log(f"everything is in {folder}")
    return metrics


@contextlib.contextmanager
def _report_write_errors(folder: Path) -> Iterator[None]:
    """Turns an `OSError` in the block into a `UserError` about --output."""
    try:
        yield
    except BrokenPipeError:  # stdout was closed
        raise
    except OSError as error:
        raise UserError(describe_unwritable(f"--output {folder}", error)) from None


def _check_folder(folder: Path, name: str, data: str) -> None:
    """Raises `UserError` if the folder holds an evaluation of other data, which would be overwritten."""
    path = folder / "eval" / f"{name}.json"
    evaluated = read_json(path).get("data") if path.exists() else data
    if os.path.abspath(evaluated) != os.path.abspath(data):
        raise UserError(
            f"{path} is the evaluation of {evaluated}, not of {data}; name another folder with --output"
        )


def _training_examples(config: Settings) -> Sequence[Any]:
    """Returns the run's training examples, which decide whether an entity counts as seen.

    If the data is missing, logs a warning and returns no examples.
    """
    try:
        return read_splits(make_data(config), config, processes.log, ["train"])["train"].examples
    except UserError as error:
        processes.log(f"warning: without the training data every entity counts as unseen ({error})")
        return []
