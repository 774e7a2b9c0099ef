"""Reads texts to classify, and renders them with their predictions in the format of the input.

- JSON lines, CSV and TSV with the columns of the training data: all keys and columns stay. Single labels add
  `predicted_label` and its probability `score`; several labels add `predicted_labels` and `scores` by label; numbers
  add `predicted_value`. In tables, several labels are separated as in training, and their scores by spaces.
- Plain text, for models of single texts: `{"text", ...}`, one JSON object per line.
"""

import argparse
import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from jaxft.data.sources.formats import TEXTS
from jaxft.data.sources.labelled_texts import (
    LabelledText,
    TextColumns,
    read_labelled_texts,
)
from jaxft.data.sources.records.tables import make_dialect
from jaxft.tasks.lines import (
    InputLines,
    extend_json_line,
    format_of_lines,
    free_key,
    make_json_line,
    resolve_input,
)
from jaxft.tasks.run_facts import RunFacts

FORMATS = ("jsonl", "csv", "tsv", "text")


class SequenceClassificationOutput:
    """The texts of an input, and the lines of that input with predictions."""

    def __init__(self, run: RunFacts, flags: argparse.Namespace):
        """Opens the input.

        Raises:
          UserError: the input cannot be read, or its format is not one of `FORMATS`.
        """
        data = run.config.data
        keys = [key for key in (data.text, data.text_pair) if key]
        resolved = resolve_input(flags, TEXTS, FORMATS, keys=keys)
        self._format = format_of_lines(resolved.format)
        self._columns = TextColumns(data.text, data.text_pair, None)
        self._separator = data.label_separator
        self._header: list[str] = []  # the header of a table, once it is written
        self.lines = InputLines(resolved)

    def examples(self) -> Iterator[LabelledText]:
        """Yields the texts without labels, including empty lines of plain text."""
        try:
            yield from read_labelled_texts(self.lines, columns=self._columns, format=self._format)
        finally:
            self.lines.close()

    def render(self, example: LabelledText, answer: dict[str, Any]) -> list[bytes]:
        """Returns the lines of the input before a text, then the lines of the text with its answer."""
        before = self.lines.take_until(example.origin)
        if self._format.name == "text":
            self.lines.take(1)
            return [*before, make_json_line({"text": example.text} | answer)]
        if self._format.name == "jsonl":
            return [*before, extend_json_line(self.lines.take(1)[0], answer)]
        if not self._header:
            before = self._extend_header(before, list(answer))
        return before + self._extend(self._take_row(), map(self._format_cell, answer.values()))

    def _extend_header(self, lines: list[bytes], names: list[str]) -> list[bytes]:
        """Returns the lines before the first record, with column names added to the header."""
        filled = [index for index, line in enumerate(lines) if line.strip(b"\xef\xbb\xbf \t\r\n")]
        first, end = filled[0], filled[-1] + 1
        text = b"".join(lines[first:end]).decode("utf-8-sig")
        [self._header] = csv.reader(
            io.StringIO(text, newline=""), **make_dialect(self._format.name, self._format.delimiter)
        )
        names = [free_key(name, self._header) for name in names]
        return lines[:first] + self._extend(lines[first:end], names) + lines[end:]

    def _take_row(self) -> list[bytes]:
        """Takes the lines of a table's next record, which are several if a quoted cell has line ends."""
        lines: list[bytes] = []

        def take_lines() -> Iterator[str]:
            while True:
                lines.extend(self.lines.take(1))
                yield lines[-1].decode()

        next(csv.reader(take_lines(), **make_dialect(self._format.name, self._format.delimiter)))
        return lines

    def _extend(self, lines: list[bytes], cells: Iterable[str]) -> list[bytes]:
        """Returns the lines of a record with cells added."""
        record = b"".join(lines)
        text = record.rstrip(b"\r\n")
        line_end = record[len(text) :] or b"\n"
        additions = io.StringIO()
        if self._format.name == "csv":
            csv.writer(additions, delimiter=self._format.delimiter, lineterminator="").writerow(cells)
        else:
            additions.write(self._format.delimiter.join(" ".join(cell.split()) for cell in cells))
        divider = self._format.delimiter.encode()
        return [text + divider + additions.getvalue().encode() + line_end]

    def _format_cell(self, value: Any) -> str:
        """Returns the text of a cell for a label or a number, for several labels, or for their scores."""
        if isinstance(value, list):
            return self._separator.join(value)
        return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
