"""Reads texts to be classified and writes them with what was predicted.

- JSON lines, CSV and TSV with the columns of the training data: all keys and columns stay, and are followed by
  `predicted_label` and `score`, its probability; where texts have several labels by `predicted_labels` and `scores`,
  by label; or by `predicted_value`. In tables several labels are divided as in training, their scores by spaces.
- Plain text, for models of single texts: `{"text", ...}`, one JSON object a line.
"""

import argparse
import csv
import io
from collections.abc import Iterator
from typing import Any

from jaxft.data.sources.labelled_texts import (
    LabelledText,
    TextColumns,
    guess_text_format,
    read_labelled_texts,
)
from jaxft.data.sources.records import DIALECTS
from jaxft.data.sources.sentences import check_readable
from jaxft.tasks.lines import InputLines, choose_format, extend_json_line, free_key, make_json_line
from jaxft.tasks.run_facts import RunFacts

FORMATS = ("jsonl", "csv", "tsv", "text")


class SequenceClassificationOutput:
    """Texts of an input, and the input with what was predicted."""

    def __init__(self, run: RunFacts, flags: argparse.Namespace):
        """Opens the input. Raises `UserError` for one that cannot be read or is in no format that fits."""
        source, guessed, data = flags.input, flags.format, run.config.data
        if not source.startswith(("demo:", "hub:")):
            check_readable(source, "- for stdin")
            guessed = guess_text_format(source) if flags.format == "auto" else flags.format
        self._format = choose_format(source, flags.format, guessed, FORMATS)
        self._columns = TextColumns(data.text, data.text_pair, None)
        self._separator = data.label_separator
        self._header: list[str] = []  # of a table, once it is written
        self.lines = InputLines(source)

    def examples(self) -> Iterator[LabelledText]:
        """The texts, without labels; empty lines of plain text too."""
        try:
            yield from read_labelled_texts(self.lines, columns=self._columns, format=self._format)
        finally:
            self.lines.close()

    def render(self, example: LabelledText, answer: dict[str, Any]) -> list[bytes]:
        """What is written for a text, with the lines before it."""
        before = self.lines.take_until(example.origin)
        if self._format == "text":
            self.lines.take(1)
            return [*before, make_json_line({"text": example.text} | answer)]
        if self._format == "jsonl":
            return [*before, extend_json_line(self.lines.take(1)[0], answer)]
        if not self._header:
            before = self._head(before, list(answer))
        _, lines = self._row()
        return before + self._extended(lines, map(self._cell, answer.values()))

    def _head(self, lines: list[bytes], names: list[str]) -> list[bytes]:
        """The lines up to the first record, names of columns added to the header."""
        header = [index for index, line in enumerate(lines) if line.strip(b"\xef\xbb\xbf \t\r\n")]
        first, last = header[0], header[-1] + 1
        text = b"".join(lines[first:last]).decode("utf-8-sig")
        [self._header] = csv.reader(io.StringIO(text, newline=""), **DIALECTS[self._format])
        names = [free_key(name, self._header) for name in names]
        return lines[:first] + self._extended(lines[first:last], names) + lines[last:]

    def _row(self) -> tuple[list[str], list[bytes]]:
        """The next record of a table, and the lines that it takes."""
        lines: list[bytes] = []

        def read() -> Iterator[str]:
            while True:
                lines.extend(self.lines.take(1))
                yield lines[-1].decode()

        return next(csv.reader(read(), **DIALECTS[self._format])), lines

    def _extended(self, lines: list[bytes], cells) -> list[bytes]:
        """The lines of a record with cells added."""
        whole = b"".join(lines)
        body = whole.rstrip(b"\r\n")
        end = whole[len(body) :] or b"\n"
        out = io.StringIO()
        if self._format == "csv":
            csv.writer(out, lineterminator="").writerow(cells)
        else:
            out.write("\t".join(" ".join(cell.split()) for cell in cells))
        divider = DIALECTS[self._format]["delimiter"].encode()
        return [body + divider + out.getvalue().encode() + end]

    def _cell(self, value: Any) -> str:
        if isinstance(value, list):
            return self._separator.join(value)
        return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
