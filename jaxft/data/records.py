"""Reads sentences from records: JSON lines, CSV, Parquet and datasets of the Hugging Face hub."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxft.data import conll
from jaxft.data.sentence import Sentence, from_spans, split_words
from jaxft.errors import UserError

# What a record may hold, and the keys it is looked for under, in this order.
KEYS = {"tokens": ("tokens",), "tags": ("tags", "ner_tags"), "text": ("text",), "spans": ("spans",)}

_SPLIT = re.compile(r"(train|validation|valid|dev|test)(\[[^/]*\])?")


def read_jsonl(source: str | conll.Stream, *, tagged: bool, columns: Mapping[str, str]) -> Iterator[Sentence]:
    """One JSON object a line. Raises `UserError` with the line for what is not one."""
    name = conll.name_of(source)

    def records() -> Iterator[tuple[str, str, dict]]:
        for number, line in conll.lines(source):
            if not line.strip():
                continue
            where = f"{name}, line {number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                # A JSON document over several lines is the usual reason.
                hint = (
                    "; if the file is one JSON array, `jq -c '.[]'` makes lines of it" if number == 1 else ""
                )
                raise UserError(
                    f"{where}, column {error.colno}: not valid JSON ({error.msg}); "
                    f"JSON lines hold one object a line{hint}"
                ) from None
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: JSON that cannot be read ({error})") from None
            if not isinstance(record, dict):
                raise UserError(
                    f"{where}: a JSON {_kind(record)} where an object was expected; "
                    "write one object a line (for one JSON array: `jq -c '.[]'`)"
                )
            yield where, f"{name}:{number}", record

    return _sentences(records(), tagged=tagged, columns=columns, names=None)


def read_csv(source: str, *, tagged: bool, columns: Mapping[str, str]) -> Iterator[Sentence]:
    """Comma-separated, with a header; lists are JSON lists or divided by spaces, spans are JSON.

    Read with the `csv` module, not pandas, which would turn the word "NA" into a missing value.
    """
    name = conll.name_of(source)
    lists = {columns.get(role, key) for role in ("tokens", "tags", "spans") for key in KEYS[role]}

    def records() -> Iterator[tuple[str, str, dict]]:
        csv.field_size_limit(1 << 30)  # the default refuses texts over 131,072 characters
        reader = csv.reader((line for _, line in conll.lines(source)), strict=True)
        header, first = None, 1
        try:
            for row in reader:
                where, origin = f"{name}, line {first}", f"{name}:{first}"
                first = reader.line_num + 1
                if not row:
                    continue
                if header is None:
                    header = row
                    continue
                if len(row) != len(header):
                    raise UserError(
                        f"{where}: {len(row)} fields where the header has {len(header)}; "
                        'put a field that holds commas between double quotes ("...")'
                    )
                record = dict(zip(header, row, strict=True))
                for key in lists & record.keys():
                    record[key] = _csv_list(record[key], where, key)
                yield where, origin, record
        except csv.Error as error:
            raise UserError(f"{name}, line {first}: not valid CSV ({error}); check its quotes") from None

    return _sentences(records(), tagged=tagged, columns=columns, names=None)


def _csv_list(cell: str, where: str, key: str) -> list:
    cell = cell.strip()
    if cell.startswith("[") and cell.endswith("]"):
        try:
            return json.loads(cell)
        except ValueError:
            if re.match(r"\[\s*(['\"{]|\d+\s*[,\]])", cell):
                raise UserError(
                    f"{where}, key {key!r}: a list that is not JSON, {cell[:60]!r}; "
                    "write it with json.dumps, or as words divided by spaces"
                ) from None
    return [item for item in cell.split(" ") if item]


def read_parquet(source: str, *, tagged: bool, columns: Mapping[str, str]) -> Iterator[Sentence]:
    """Rows of a Parquet file, read by batches; class names come from the schema that `datasets` writes."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(source)
        features = datasets.Features.from_arrow_schema(file.schema_arrow)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{source}: not a Parquet file that can be read ({_first_line(error)})") from None

    def records() -> Iterator[tuple[str, str, dict]]:
        row = 0
        for batch in file.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                row += 1
                yield f"{source}, row {row}", f"{source}:{row}", record

    return _sentences(records(), tagged=tagged, columns=columns, names=_class_names(features, columns))


def read_hub(
    address: str, *, split: str | None, tagged: bool, columns: Mapping[str, str]
) -> Iterator[Sentence]:
    """A dataset of the Hugging Face hub: `hub:NAME[:CONFIGURATION][@REVISION][/SPLIT]`.

    Raises `UserError` if it cannot be loaded; without a network the message says how to go on offline.
    """
    import datasets

    name, configuration, revision, split = parse_hub(address, split)
    try:
        dataset = datasets.load_dataset(name, configuration, revision=revision, split=split)
    except ConnectionError as error:
        raise UserError(
            f"{address}: the hub cannot be reached ({_first_line(error)}); to go on offline, use the "
            "synthetic corpus demo:ner/train, or a file (.conll, .jsonl, .csv, .parquet) saved where the hub "
            "can be reached, or load it once there and copy the cache folder (HF_HOME) here"
        ) from None
    except Exception as error:  # `datasets` documents no common class for what it raises
        raise UserError(
            f"{address}: the dataset cannot be loaded ({_first_line(error)}); the address is "
            "hub:NAME[:CONFIGURATION][@REVISION][/SPLIT], and for a dataset that is a script, "
            "@refs/convert/parquet often holds its data"
        ) from None

    def records() -> Iterator[tuple[str, str, dict]]:
        for row, record in enumerate(dataset, 1):
            yield f"{address}, row {row}", f"{address}:{row}", record

    return _sentences(
        records(), tagged=tagged, columns=columns, names=_class_names(dataset.features, columns)
    )


def parse_hub(address: str, split: str | None) -> tuple[str, str | None, str | None, str]:
    """Returns name, configuration, revision and split of `hub:NAME[:CONFIGURATION][@REVISION][/SPLIT]`.

    Names and revisions may hold a slash, so a last part of two is a split only if it is a usual name of one;
    another is given by `split`.
    """
    path, _, revision = address.removeprefix("hub:").partition("@")
    head, _, last = (revision or path).rpartition("/")
    if head and (_SPLIT.fullmatch(last) or (not revision and "/" in head)):
        if split is not None and split != last:
            raise UserError(
                f"{address}: the address names the split {last!r}, the settings {split!r}; name one"
            )
        split = last
        path, revision = (path, head) if revision else (head, "")
    name, _, configuration = path.partition(":")
    if not name:
        raise UserError(f"{address}: a hub address is hub:NAME[:CONFIGURATION][@REVISION][/SPLIT]")
    if split is None:
        raise UserError(f"{address}: no split is named; add one, for example {address}/train")
    return name, configuration or None, revision or None, split


def _class_names(features: Mapping[str, Any], columns: Mapping[str, str]) -> list[str] | None:
    """Names of the integer tags, if the schema has them."""
    for key in [columns["tags"]] if "tags" in columns else KEYS["tags"]:
        names = getattr(getattr(features.get(key), "feature", None), "names", None)
        if names:
            return list(names)
    return None


def _sentences(
    records: Iterator[tuple[str, str, dict]],
    *,
    tagged: bool,
    columns: Mapping[str, str],
    names: list[str] | None,
) -> Iterator[Sentence]:
    """Turns `(where, origin, record)` into sentences, each its own document.

    An empty record is dropped if tags are asked for, and otherwise kept, so that predictions stay aligned.
    """
    document = 0
    for where, origin, record in records:
        sentence = _sentence(record, where, origin, document, tagged=tagged, columns=columns, names=names)
        if sentence.words or not tagged:
            yield sentence
            document += 1


def _sentence(
    record: dict, where: str, origin: str, document: int, *, tagged: bool, columns: Mapping[str, str], names
) -> Sentence:
    keys = {}
    for role, usual in KEYS.items():
        candidates = [columns[role]] if role in columns else usual
        keys[role] = next((key for key in candidates if record.get(key) is not None), None)

    # Tokens go first if a record has both, as tags then are for tokens, unless only spans are there.
    if keys["tokens"] and (not tagged or keys["tags"] or not keys["spans"]):
        words = _strings(record[keys["tokens"]], where, keys["tokens"])
        if not tagged:
            return Sentence(words, None, document, origin)
        if not keys["tags"]:
            raise UserError(_missing(record, where, "tags", columns))
        tags = _tags(record[keys["tags"]], where, keys["tags"], names)
        if len(tags) != len(words):
            raise UserError(
                f"{where}: {len(words)} items in {keys['tokens']!r} but {len(tags)} in {keys['tags']!r}; "
                "give each token one tag"
            )
        return Sentence(words, tags, document, origin)

    if not keys["text"]:
        raise UserError(_missing(record, where, "tokens (or text)", columns))
    text = record[keys["text"]]
    _check_string(text, where, keys["text"])
    if not tagged:
        offsets, tags = split_words(text), None
    elif keys["spans"]:
        offsets, tags = from_spans(text, _spans(record[keys["spans"]], where, keys["spans"]), where)
    else:
        raise UserError(_missing(record, where, "spans", columns))
    return Sentence([text[start:end] for start, end in offsets], tags, document, origin, text, offsets)


def _missing(record: dict, where: str, role: str, columns: Mapping[str, str]) -> str:
    renamed = f" (with columns {dict(columns)})" if columns else ""
    return (
        f"{where}: no {role} in keys {sorted(map(str, record))}{renamed}; expected `tokens` and `tags`, "
        "or `text` and `spans`, or name the keys in config.data.columns"
    )


def _strings(value: Any, where: str, key: str) -> list[str]:
    if not isinstance(value, list):
        raise UserError(f"{where}, key {key!r}: a {_kind(value)} where a list of strings was expected")
    for index, item in enumerate(value):
        _check_string(item, where, key, index)
    return value


def _check_string(value: Any, where: str, key: str, index: int | None = None) -> None:
    place = f"{where}, key {key!r}" + ("" if index is None else f", item {index}")
    if not isinstance(value, str):
        raise UserError(f"{place}: a {_kind(value)} where a string was expected")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"{place}: half a surrogate pair at character {error.start}, which is no text; remove it"
            ) from None


def _tags(value: Any, where: str, key: str, names: list[str] | None) -> list[str]:
    numbers = isinstance(value, list) and value and all(type(item) is int for item in value)
    if not numbers:
        return _strings(value, where, key)
    if names is None:
        raise UserError(
            f"{where}, key {key!r}: tags are numbers and their names are not in the data; "
            'write the names ("O", "B-PER", ...)'
        )
    if not all(0 <= item < len(names) for item in value):
        raise UserError(
            f"{where}, key {key!r}: a tag number is outside 0..{len(names) - 1} ({', '.join(names)})"
        )
    return [names[item] for item in value]


def _spans(value: Any, where: str, key: str) -> list[tuple[int, int, str]]:
    if not isinstance(value, list):
        raise UserError(f"{where}, key {key!r}: a {_kind(value)} where a list of spans was expected")
    spans = []
    for index, span in enumerate(value):
        fields = [span.get(field) for field in ("start", "end", "label")] if isinstance(span, dict) else []
        if [type(field) for field in fields] != [int, int, str] or not fields[2]:
            raise UserError(
                f"{where}, key {key!r}, item {index}: {json.dumps(span, default=str)[:80]} is not a span; "
                'expected {"start": 0, "end": 5, "label": "PER"}'
            )
        spans.append(tuple(fields))
    return spans


def _kind(value: Any) -> str:
    kinds = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    return kinds.get(type(value), "object" if isinstance(value, dict) else type(value).__name__)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
