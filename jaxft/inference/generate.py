"""Continues texts with a language model, for `jaxft generate`: a single prompt, or those of a file or a pipe.

An input has a prompt in each line, or records with a key `prompt`. The output is JSON lines: each record with
`generated`, a text, or a list of texts if there are several samples. A run that was trained on pairs fills its
template: a prompt is then the value of the template's field, and records have a key for each field.
"""

import contextlib
import itertools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxft.data.sources import formats
from jaxft.data.sources.files import Log, log_nothing
from jaxft.data.sources.formats import FileFormat
from jaxft.data.sources.records import record_values
from jaxft.generation.options import PROMPT_ROWS, GenerationOptions
from jaxft.inference.answers import answer_items, log_counts
from jaxft.inference.input_records import Item, open_input
from jaxft.inference.output_file import open_output
from jaxft.inference.output_formats import RecordWriter, choose_names
from jaxft.inference.writer import (
    GeneratedText,
    Prompt,
    Writer,
    make_checkpoint_writer,
    make_run_writer,
)
from jaxft.parallel import processes

PROMPT, GENERATED = "prompt", "generated"  # keys of records
EMPTY = "the generated text is empty: the model ends it at once, or it begins with a --stop text"


def open_writer(run_folder: Path | None, checkpoint: str | None, log: Log) -> Writer:
    """Opens the best weights of a run, or else a checkpoint, for writing."""
    if run_folder:
        return make_run_writer(run_folder, log)
    assert checkpoint is not None
    return make_checkpoint_writer(checkpoint)


def generate_file(
    writer: Writer,
    source: str,
    output: str,
    options: GenerationOptions,
    *,
    format: FileFormat = formats.UNSET,
    stop: Sequence[str] = (),
    rows: int = PROMPT_ROWS,
    on_error: str = "stop",
    log: Log = log_nothing,
) -> None:
    """Writes the texts after the prompts of an input.

    Args:
      writer: the model.
      source: a file, or "-" for stdin.
      output: a file, or "-" for stdout.
      options: the options of generation.
      format: how the input is read.
      stop: texts that end a text.
      rows: the most prompts in a batch.
      on_error: see `answer_items`.
      log: prints a line.

    Raises:
      UserError: the input, the output, a prompt or an option is unusable.
    """
    writer.prompt_room(options)  # raises an error once, and not for each prompt
    keys = [PROMPT] if writer.template is None else writer.template.prompt_keys
    records = open_input(source, formats.DOCUMENTS, format, log, keys=keys)
    is_text = records.source.format.name == "text"
    numbers = itertools.count()

    def read() -> Iterable[Item | None]:
        for item in records.read(PROMPT):
            if not (is_text and item is not None and item.value == {PROMPT: ""}):  # an empty line
                yield item

    def parse(item: Item) -> Prompt:
        number, record = next(numbers), item.value
        for key in keys:
            records.check(record.get(key), f"{item.where}, key {key!r}")
        choose_names([GENERATED], record, item.where, renames=False)
        if is_text:
            prompt = record[PROMPT]
        elif writer.template is not None:
            prompt = record
        else:
            hint = "it holds what is to be continued"
            prompt = record_values.require_value(record, PROMPT, item.where, hint)
            record_values.check_string(prompt, item.where, PROMPT)
        where = item.where if writer.template is not None else f"{item.where}: the prompt"
        return Prompt(number, writer.encode(prompt, options, where=where))

    def extend(item: Item, prompt: Prompt, texts: list[GeneratedText]) -> dict[str, Any]:
        _log_empty(texts, item.where, log)
        samples = [sample.text for sample in texts]
        return item.value | {GENERATED: samples if options.samples > 1 else samples[0]}

    began = time.perf_counter()
    with open_output(output, log) as put:
        counts = answer_items(
            read(),
            parse,
            lambda prompts: writer.generate_batches(prompts, options, stop=stop, rows=rows),
            RecordWriter(records.lines, extend=extend),
            put,
            on_error=on_error,
            log=log,
        )
    log_counts(counts, "prompt", time.perf_counter() - began, log)


def print_continuation(
    writer: Writer,
    prompt: str,
    options: GenerationOptions,
    *,
    stop: Sequence[str] = (),
    log: Log = log_nothing,
) -> None:
    """Prints the text after a prompt: a single text while it is generated, or several with a line between."""
    if options.samples == 1 and not processes.is_main_process():
        return
    if options.samples == 1:
        is_empty = True
        with contextlib.closing(writer.stream(prompt, options, stop=stop)) as pieces:
            for piece in pieces:
                print(piece, end="", flush=True)
                is_empty = is_empty and not piece.strip()
        print()
        if is_empty:
            log(EMPTY)
        return
    for texts in writer.generate([prompt], options, stop=stop):
        if processes.is_main_process():
            print("\n----\n".join(sample.text for sample in texts), flush=True)
        _log_empty(texts, "the prompt", log)


def _log_empty(texts: Sequence[GeneratedText], where: str, log: Log) -> None:
    """Logs that texts are empty, so that nobody searches for them."""
    if empty := sum(not sample.text.strip() for sample in texts):
        log(
            f"{where}: {EMPTY}"
            if len(texts) == 1
            else f"{where}: {empty} of {len(texts)} generated texts are empty"
        )
