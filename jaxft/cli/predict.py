"""Defines the verb `predict`: reads examples as a stream and writes them back with predictions.

The output is the input, line by line, with predictions added. `answers.py` in a task's folder defines what the task
reads and adds.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from jaxft.cli.command import command, log_to_stderr
from jaxft.data.sources import files
from jaxft.errors import UserError
from jaxft.inference.model import open_model
from jaxft.inference.output_file import open_output
from jaxft.tasks.lines import InputLines
from jaxft.tasks.multi_task.answers import MultiTaskOutput
from jaxft.tasks.question_answering.answers import QuestionAnsweringOutput
from jaxft.tasks.sequence_classification.answers import SequenceClassificationOutput
from jaxft.tasks.token_classification.answers import TokenClassificationOutput
from jaxft.training.run_folder.workdir import Run, open_run

FORMATS = ("auto", "conll", "jsonl", "csv", "tsv", "squad", "text")
# A chunk has as many words as this many batches have slots. At 1.5 subwords per word it fills six batches.
CHUNK_BATCHES = 4


class Output(Protocol):
    """The examples of an input, and its lines with predictions added."""

    lines: InputLines

    def examples(self) -> Iterator[Any]:
        """Yields the examples, and reads the input as it goes."""

    def render(self, example: Any, prediction: Any) -> list[bytes]:
        """Returns the lines to write for the next example, with the lines before it."""


# Makes the output from the run and the flags, by task.
OUTPUTS: dict[str, Callable[[Run, argparse.Namespace], Output]] = {
    "token_classification": TokenClassificationOutput,
    "sequence_classification": SequenceClassificationOutput,
    "question_answering": QuestionAnsweringOutput,
    "multi_task": MultiTaskOutput,
}


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and predicts. Messages go to stderr, because stdout may be the output."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft predict",
        description="Tags or classifies text, or answers questions, with a run's best weights.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, help="the --workdir of a run")
    parser.add_argument("--input", default="-", help="file, or - for stdin (default)")
    parser.add_argument("--output", default="-", help="file, or - for stdout (default)")
    parser.add_argument(
        "--format", default="auto", choices=FORMATS, help="of the input; auto: by its suffix, stdin is text"
    )
    parser.add_argument("--word-column", type=int, help="of CoNLL input, from 0; default the run's")
    with command(parser, argv) as flags:
        run_predict(flags)


def run_predict(flags: argparse.Namespace) -> None:
    """Streams the input through the model to the output.

    Raises:
      UserError: the run, input or output is unusable. Mistakes in the run and in names are reported first.
    """
    run = open_run(Path(flags.run))
    if run.config.task not in OUTPUTS:
        raise UserError(
            f"--run {flags.run}: its task is {run.config.task}, and predictions are for "
            f"{', '.join(OUTPUTS)}; a language model's text is generated with python -m jaxft generate"
        )
    files.check_single_file(flags.input)
    output = OUTPUTS[run.config.task](run, flags)
    with open_output(flags.output) as put:
        model = open_model(run, log_to_stderr)
        chunks = model.task.predict_stream(
            output.examples(),
            run.checkpoint.tokenizer,
            run.config,
            model.make_predictor(),
            max_words=CHUNK_BATCHES * model.rows * run.config.data.max_length,
        )
        examples = 0
        began = time.perf_counter()
        for chunk in chunks:
            put([piece for example, prediction in chunk for piece in output.render(example, prediction)])
            examples += len(chunk)
        put(output.lines.take_rest())
    seconds = time.perf_counter() - began
    log_to_stderr(f"{examples:,} texts in {seconds:.1f} s")
