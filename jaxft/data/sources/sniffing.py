"""Recognises the format of a file by the text at its beginning, whose last line may be cut."""

import csv
import itertools
import json
import re
from collections.abc import Collection, Sequence

from jaxft.data.sources.records import json_documents
from jaxft.data.sources.records.tables import SEPARATOR_LINE

DELIMITERS = (",", "\t", ";", "|")  # those that are recognised in tables, the most usual first

_TAG = re.compile(r"O|[BIESLUMW]|[BIESLUMW][-_]\S+|\S+[-_][BIESLUMW]")
_SAMPLED = 100  # rows that show the delimiter of a table
_MOST = 0.95  # share of the lines that are as others; a few may be broken, which the reader then reports


def sniff_json(text: str, *, is_complete: bool) -> str:
    """Returns "jsonl" if a file is of JSON lines, "json" if it is one JSON document, else "".

    Args:
      text: the beginning of the file.
      is_complete: True if it is all of the file.
    """
    text = text.lstrip("\ufeff \t\r\n")
    if not re.match(r'\[\s*[{\["\]]|\{\s*["}]', text):
        return ""
    first, line_end, rest = text.partition("\n")
    is_array = first.startswith("[")
    try:
        value = json.loads(first)
    except (ValueError, RecursionError) as error:
        # A word that begins as JSON does, such as [1], in columns.
        if not first.rstrip().endswith("}") and ("\t" in first or (is_array and "Extra data" in str(error))):
            return ""
        if line_end:  # a line of a document of several lines, or a broken record
            return "json" if is_array or not first.rstrip().endswith("}") else "jsonl"
        return "json" if is_array or (not is_complete and _begins_document(first)) else "jsonl"
    is_document = isinstance(value, list) or json_documents.is_document(value)
    return "json" if is_document and not rest.strip() else "jsonl"


def _begins_document(line: str) -> bool:
    """Returns True if a JSON object on one long line begins as a document of records does."""
    text, number = r'"(?:[^"\\]|\\.)*"', r'"-?\d+"'
    scalars = rf"(?:{text}\s*:\s*(?:{text}|[\w.+-]+)\s*,\s*)*"
    lists = r'"(?:data|columns|index|schema)"\s*:\s*[\[{]'
    begin = rf"\{{\s*{scalars}(?:{lists}|{text}\s*:\s*\{{\s*{number}\s*:|{number}\s*:\s*\{{)"
    return re.match(begin, line) is not None


def is_table_with(keys: Collection[str], text: str) -> bool:
    """Returns True if a file is a table with two columns or more, of which one at least has a name of `keys`."""
    return any(
        len(rows := _parse_rows(text, delimiter)) > 1
        and len(rows[0]) > 1
        and not set(keys).isdisjoint(rows[0])
        and not _TAG.fullmatch(rows[0][-1])
        and _is_even(rows)
        for delimiter in DELIMITERS
    )


def sniff_delimiter(text: str, keys: Collection[str], usual: str) -> str:
    """Returns the character between the values of a table.

    Excel's first line `sep=;` names it. Else it is a character that divides the header and nearly all rows into as many
    values, two or more. If several do, one that gives the header a name of `keys` goes first, then `usual`.

    Args:
      text: the beginning of the file.
      keys: names that the header should have.
      usual: the delimiter if none of `DELIMITERS` fits.
    """
    if text.startswith(SEPARATOR_LINE):
        return text.removeprefix(SEPARATOR_LINE)[:1] or usual

    def score(delimiter: str) -> tuple[bool, bool, bool, int]:
        rows = _parse_rows(text, delimiter) or [[]]
        width = len(rows[0])
        names_key = width > 1 and not set(keys).isdisjoint(rows[0])
        return names_key, width > 1 and _is_even(rows), delimiter == usual, width

    best = max((usual, *DELIMITERS), key=score)
    return best if any(score(best)[:2]) else usual


def has_csv_quotes(text: str, delimiter: str) -> bool:
    """Returns True if the quotes of a table are those of CSV, and False if they are part of the values.

    They are CSV's if only then all rows have as many values. If both ways fit, each value that begins with a quote has
    to end with one and to have doubled ones inside, and no other value has quotes. That is so by chance where a text is
    a quotation. So a value must hold a doubled quote, or all of its column be quoted.
    """
    rows = [line.rstrip("\r").split(delimiter) for line in _complete_lines(text) if line.strip()][:_SAMPLED]
    fits_csv = _is_even(_parse_rows(text, delimiter), most=1)
    if '"' not in text or not fits_csv or len(rows) < 2:
        return False
    if not _is_even(rows, most=1):
        return True
    is_quoted = [[re.fullmatch(r'"(?:[^"]|"")*"', value) is not None for value in row] for row in rows]
    values = list(zip(itertools.chain(*rows), itertools.chain(*is_quoted), strict=True))
    if any('"' in value and not quoted for value, quoted in values):
        return False
    has_quoted_column = any(map(all, zip(*is_quoted[1:], strict=True)))
    return has_quoted_column or any('""' in value[1:-1] for value, quoted in values if quoted)


def sniff_columns(text: str) -> str:
    """Returns "conllu" or "conll" if a file has a word a line, with a tag in the last column, else "".

    The words have as many columns, two or more. Tags are of an entity scheme, or few different ones come often.
    CoNLL-U has ten columns with the number of the word in the first.
    """
    words = [
        line
        for line in _complete_lines(text)
        if line.strip() and not re.match(r"#|\s*-DOCSTART-(\s|$)", line)
    ]
    rows = [
        [cell for cell in line.rstrip("\r").split("\t" if "\t" in line else " ") if cell] for line in words
    ]
    widths = [len(row) for row in rows]
    width = max(widths, key=widths.count, default=0)
    rows = [row for row in rows if len(row) == width]
    if width < 2 or len(rows) < _MOST * len(widths):
        return ""
    if width == 10 and all(re.fullmatch(r"\d+([-.]\d+)?", row[0]) for row in rows):
        return "conllu"
    tags = [row[-1].strip() for row in rows]
    if all(_TAG.fullmatch(tag) for tag in tags):
        return "conll"
    few = len(tags) >= 4 and len(set(tags)) <= len(tags) / 2 and not any(" " in tag for tag in tags)
    return "conll" if few else ""


def _complete_lines(text: str) -> list[str]:
    """Returns the lines of the beginning of a file without the last one, unless it is the only one or has an end."""
    lines = text.split("\n")
    return lines[:-1] if len(lines) > 1 else lines


def _parse_rows(text: str, delimiter: str) -> list[list[str]]:
    """Returns the first complete rows of a table, without empty ones."""
    lines = text.splitlines(keepends=True)
    if text.startswith(SEPARATOR_LINE):
        lines.pop(0)
    if len(lines) > 1 and not text.endswith(("\n", "\r")):
        lines.pop()
    rows = []
    try:
        for row in itertools.islice(csv.reader(lines, delimiter=delimiter), _SAMPLED):
            rows.append(row)
    except csv.Error:
        pass  # a quote that the sample does not close
    return [row for row in rows if row]


def _is_even(rows: Sequence[Sequence[str]], most: float = _MOST) -> bool:
    """Returns True if the share `most` of the rows, or more, have as many values as the first."""
    return sum(len(row) == len(rows[0]) for row in rows) >= most * len(rows)
