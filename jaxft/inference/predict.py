"""Answers the records of a file or a pipe with a run's best weights, for `jaxft predict`.

The output is the input, record by record, with the answer added: a table for a table, columns for CoNLL columns, and
JSON lines for every other format. `answers.py` in a task's folder defines what a task reads and adds.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxft.data.encoding.encoded import Encoded
from jaxft.data.sources import encodings, files, formats
from jaxft.data.sources.files import Log, log_nothing
from jaxft.data.sources.formats import FileFormat, ResolvedSource
from jaxft.data.sources.tagged_sentences.column_layout import ColumnSettings
from jaxft.data.sources.tagged_sentences.conll import read_layout
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.errors import UserError
from jaxft.inference.adapters.sources import NO_ADAPTERS, AdapterChoice
from jaxft.inference.answering import open_answering, without_context
from jaxft.inference.answers import AnswerWriter, answer_items, log_counts
from jaxft.inference.input_records import Input, InputLines, Item, open_input
from jaxft.inference.model import Model, Predictor
from jaxft.inference.output_file import open_output
from jaxft.inference.output_formats import ColumnWriter, RecordWriter, TableWriter, choose_names
from jaxft.tasks.base import AnyAnswers, Example, Json, Split, TaskData

COLUMNS = ("conll", "conllu")
# Formats whose lines get the answer. For all others it is a JSON line.
LINES_THAT_GROW = (*COLUMNS, "csv", "tsv")
# A chunk has as many words as this many batches have slots. At 1.5 subwords per word it fills six batches.
CHUNK_BATCHES = 4


def predict_stream(
    model: Model,
    data: TaskData[Example, Encoded, Any],
    outputs: Predictor,
    examples: Iterable[Example | None],
    *,
    max_words: int,
) -> Iterator[list[tuple[Example, Any]]]:
    """Predicts examples while they arrive; yields chunks of (example, prediction) in order.

    Args:
      model: the model.
      data: encodes the examples.
      outputs: returns the model's outputs for windows, such as `model.make_predictor()`.
      examples: the examples; None where the next one may take long to arrive.
      max_words: the most words in a chunk, unless a single example has more. Only one chunk is in memory at a time.
    """
    labels, processor = model.run.labels, model.run.checkpoint.processor
    for chunk in data.chunk(examples, max_words):
        windows = data.encode(chunk.examples, labels, processor, only=chunk.predicted, cached=False)
        predicted = chunk.examples[chunk.predicted.start : chunk.predicted.stop]
        predictions = model.evaluator.collect(Split("input", "input", predicted, windows), outputs(windows))
        yield list(zip(predicted, predictions, strict=True))


def predict_file(
    run_folder: Path | None,
    source: str = "-",
    output: str = "-",
    *,
    adapters: AdapterChoice = NO_ADAPTERS,
    format: FileFormat = formats.UNSET,
    word_column: int | None = None,
    on_error: str = "stop",
    log: Log = log_nothing,
) -> None:
    """Streams an input through the model of a run, or of adapters, to an output.

    Args:
      run_folder: the folder of the run; None for adapters alone.
      source: a file, or "-" for stdin.
      output: a file, or "-" for stdout.
      adapters: the adapters that answer records; none for the run alone.
      format: how the input is read.
      word_column: the column of the words in CoNLL columns; by default the run's.
      on_error: see `answer_items`.
      log: prints a line.

    Raises:
      UserError: the run, the input or the output is unusable. Mistakes in the run and in names are reported first.
    """
    answering = open_answering(run_folder, adapters, log)
    answers = answering.answers
    model = (
        answering.open_model() if source == "-" else None
    )  # while the first line of stdin is still to come
    if (listed := answers.list_records(source, log)) is None:
        records = open_input(source, answers.kind, format, log, keys=answers.input_keys)
    else:
        of_files = ResolvedSource(source, dataclasses.replace(format, name="files"))
        records = Input(of_files, answers.kind, None, log, listed)
    name = records.source.format.name
    if name not in answers.formats:
        raise UserError(
            f"{records.name}: predictions are for {', '.join(answers.formats)}, not {name}; give the text in one of "
            "these"
        )
    if on_error == "record" and name in COLUMNS:
        raise UserError(
            f"--on_error=record: {records.name} is in CoNLL columns, which have no place for an error; "
            "mend the file, or give JSON lines with `tokens`"
        )
    _check_output_name(output, records)
    config = answering.config if name in COLUMNS else without_context(answering.config)

    log_once = files.log_once(log)

    def parse(item: Item) -> Any:
        if name in COLUMNS:
            return item.value
        example = answers.parse(item.where, item.origin, item.value)
        records.check(example, item.where)
        if name != "squad":  # whose output has no other keys
            for key, new_name in choose_names(answers.keys(example), item.value, item.where).items():
                if key != new_name:
                    log_once(
                        f"{item.where}: the key {key!r} is there already; the answer is under {new_name!r}"
                    )
        return example

    def read_columns(lines: InputLines) -> Iterable[Any]:
        column = answers.word_column if word_column is None else word_column
        columns = dataclasses.replace(records.source.format, encoding=encodings.UTF8)
        settings = ColumnSettings(column, None, columns.delimiter, name == "conllu")
        layout = read_layout(records.source, settings)  # None for a pipe, which shows its first sentence
        return read_sentences(
            lines, format=columns, word_column=column, layout=layout, tagged=False, log=records.log
        )

    with open_output(output, log) as put:
        model = model or answering.open_model()
        data, predictor = answering.make_data(config), model.make_predictor()
        max_words = CHUNK_BATCHES * model.rows * config.data.max_length

        def answer(examples: Iterator[Any]) -> Iterator[list[tuple[Any, Any]]]:
            for chunk in predict_stream(model, data, predictor, examples, max_words=max_words):
                yield [(example, answers.render(example, prediction)) for example, prediction in chunk]

        began = time.perf_counter()
        counts = answer_items(
            records.read(answers.text_key, read_columns),
            parse,
            answer,
            _make_writer(answers, records, on_error),
            put,
            on_error=on_error,
            log=log,
        )
    log_counts(counts, answers.kind.noun, time.perf_counter() - began, log)


def _check_output_name(output: str, records: Input) -> None:
    """Raises `UserError` if the suffix of the output's name tells another format than the answers will have."""
    format, told = records.source.format, formats.format_of_suffix(output)
    if format.name not in LINES_THAT_GROW:
        written, words = "jsonl", "JSON lines"
    elif Path(output).suffix == Path(records.name).suffix:
        return  # the format is the input's, which may have an unusual suffix, such as columns in a file.tsv
    else:
        written, words = format.name, formats.describe_format(format)
    if told not in (None, written):
        raise UserError(
            f"--output {output}: the answers to {records.name} are written as {words}; expected a name that ends in "
            f".{written}"
        )


def _make_writer(answers: AnyAnswers, records: Input, on_error: str) -> AnswerWriter:
    """Returns the writer for the format of the input."""
    format = records.source.format
    if format.name in COLUMNS:
        return ColumnWriter(records.require_lines(), format.delimiter)
    if format.name in ("csv", "tsv"):
        return TableWriter(
            records.require_lines(),
            format,
            answers.keys(None),
            format_cell=answers.format_cell,
            has_errors=on_error == "record",
        )

    def extend(item: Item, example: Any, answer: dict[str, Json]) -> dict[str, Any]:
        if format.name == "squad":
            return {"id": example.id} | answer
        names = choose_names(answer, item.value, item.where)
        return item.value | {names[key]: value for key, value in answer.items()}

    return RecordWriter(records.lines, extend=extend, keeps_blank_lines=format.name == "jsonl")
