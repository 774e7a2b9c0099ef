"""Defines the verb `evaluate`: measures a run's best weights on any data."""

import argparse
import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxft.cli.command import command
from jaxft.config.sections import Data, Settings
from jaxft.config.settings import declarations, flatten
from jaxft.data.encoding.documents import LAYOUTS
from jaxft.errors import UserError
from jaxft.inference.model import make_run_task, open_model
from jaxft.io import read_json
from jaxft.parallel import processes
from jaxft.parallel.mesh import describe_local_devices
from jaxft.tasks.base import Split
from jaxft.tasks.registry import task_class
from jaxft.training.evaluation import write_evaluation
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import settings_from_config
from jaxft.training.splits import read_splits


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and evaluates."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft evaluate",
        description="Measures a run's best weights on data of the kind that it was trained on.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, help="the --workdir of a run")
    parser.add_argument(
        "--data", required=True, help="file, pattern of files, -, demo:NAME/SPLIT or hub:NAME/SPLIT"
    )
    parser.add_argument("--output", help="folder of what is found; default RUN/evaluations/NAME_OF_THE_DATA")
    parser.add_argument(
        "--format", choices=declarations(Data)["format"].choices, help="of the data; default the run's"
    )
    parser.add_argument("--word-column", type=int, help="of CoNLL data, from 0; default the run's")
    parser.add_argument("--tag-column", type=int, help="of CoNLL data, from 0; default the run's")
    parser.add_argument("--layout", choices=LAYOUTS, help="of a language model's text; default the run's")
    parser.add_argument("--stride", type=int, help="tokens of context that windows share; default the run's")
    with command(parser, argv) as flags:
        run_evaluate(flags)


def run_evaluate(flags: argparse.Namespace) -> dict[str, float]:
    """Evaluates the run that the flags name. Writes metrics, predictions and errors, and prints the report.

    Returns:
      The metrics by name.

    Raises:
      UserError: the run, the data or the output folder is unusable.
    """
    run = open_run(Path(flags.run))
    original, changes = run.config, {}
    for name in ("format", "word_column", "tag_column", "layout", "stride"):
        if getattr(flags, name) is None:
            continue
        if f"data.{name}" not in declarations(type(original)):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}: a {original.task} run has no config.data.{name}; leave the flag out")
        changes[f"data.{name}"] = getattr(flags, name)
    if flags.layout == "blocks":  # blocks have no stride, even if the run has one
        changes.setdefault("data.stride", None)
    config = settings_from_config(flatten(original) | changes, f"--run {flags.run}")
    address = flags.data.rstrip("/").removeprefix("./")
    if ":" not in address:
        address = re.sub(r"[^;=]*/", "", address)  # drops the folder of each address
    file = re.sub(r"[^\w.-]+", "-", address).strip("-") or "stdin"
    if not set(":?;=*#") & set(flags.data) and flags.data != "-":
        file = Path(flags.data).name
    name = Path(file).stem
    folder = Path(flags.output) if flags.output else run.workdir / "evaluations" / file
    _check_folder(folder, name, flags.data)

    run = dataclasses.replace(run, config=config)
    task = make_run_task(run)
    examples = task.read(config, name, flags.data, processes.log)
    train = _training_examples(original) if task.compares_with_train else []
    split = Split(name, flags.data, examples, task.encode(examples, run.checkpoint.tokenizer, config))
    processes.assert_same({"data": split.windows.fingerprint} | describe_local_devices())
    task.check(split, train, processes.log)
    with _report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)  # early, so that an error comes before the work
    model = open_model(run, processes.log)
    loader = model.loader(split.windows, pack=config.data.pack)
    compiled = model.compile(loader.shapes)
    with _report_write_errors(folder):
        metrics = write_evaluation(
            model.net,
            compiled,
            model.parameters,
            split,
            loader,
            folder=folder,
            train=train,
            tokenizer=run.checkpoint.tokenizer,
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
        raise UserError(f"--output {folder}: cannot be written: {error}") from None


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
        return read_splits(task_class(config), config, processes.log, ["train"])["train"].examples
    except UserError as error:
        processes.log(f"warning: without the training data every entity counts as unseen ({error})")
        return []
