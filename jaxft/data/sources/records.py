"""Reads records, whatever they hold: JSON lines, CSV, Parquet and datasets of the Hugging Face hub."""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxft.data.sources import conll, files
from jaxft.errors import UserError

Record = tuple[str, str, dict]  # where it stands, for messages; its origin, "data.jsonl:3"; keys and values

# Formats by suffix.
FORMAT_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}

_CONDITION = re.compile(r"(?P<key>[^=!]+)(?P<not>!?)=(?P<values>.+)")
_SPLIT = re.compile(r"(train|validation|valid|dev|test)(\[[^/]*\])?")


def split_filter(source: str) -> tuple[str, str]:
    """A source and the choice of its records: ("data.jsonl", "fold!=3") of "data.jsonl?fold!=3"; "" for all."""
    path, mark, choice = source.rpartition("?")
    if not mark or os.path.exists(source):
        return source, ""
    if files.split_shard_suffix(source)[1]:
        raise UserError(
            f"{source}: ?{choice.partition('#')[0]} chooses records, which no part is made of; write those to files, "
            "and deal these to parts"
        )
    return path, choice


def filter_records(rows: Iterator[Record], choice: str) -> Iterator[Record]:
    """The records that meet all conditions of `choice`: "fold=0-3,7" or "fold!=4", with "&" between several.

    Values are compared as text; "0-3" stands for whole numbers. Raises `UserError` for what is no condition, and for
    a record without the key.
    """
    conditions = []
    for part in choice.split("&") if choice else []:
        match = _CONDITION.fullmatch(part)
        if not match:
            raise UserError(
                f"the choice of records ?{choice}: {part!r} is no condition; expected KEY=VALUES or KEY!=VALUES, "
                "values with commas between and 0-3 for whole numbers, such as ?fold=0-3,7"
            )
        values: set[str] = set()
        for value in match["values"].split(","):
            bounds = re.fullmatch(r"(\d+)-(\d+)", value)
            values.update(map(str, range(int(bounds[1]), int(bounds[2]) + 1)) if bounds else [value])
        conditions.append((match["key"], match["not"] == "", values))
    for where, origin, record in rows:
        for key, wanted, values in conditions:
            if key not in record:
                raise UserError(
                    f"{where}: no key {key!r} in {sorted(map(str, record))}; ?{choice} chooses by it"
                )
            value = record[key]
            if ((json.dumps(value) if isinstance(value, bool) else str(value)) in values) != wanted:
                break
        else:
            yield where, origin, record


def read_jsonl(source: str | conll.Stream) -> Iterator[Record]:
    """One JSON object a line. Raises `UserError` with the line for what is not one."""
    name = conll.source_name(source)
    for number, line in conll.read_lines(source):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            # A JSON document over several lines is the usual reason.
            hint = "; if the file is one JSON array, `jq -c '.[]'` makes lines of it" if number == 1 else ""
            raise UserError(
                f"{where}, column {error.colno}: not valid JSON ({error.msg}); "
                f"JSON lines hold one object a line{hint}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: JSON that cannot be read ({error})") from None
        if not isinstance(record, dict):
            raise UserError(
                f"{where}: a JSON {json_type_name(record)} where an object was expected; "
                "write one object a line (for one JSON array: `jq -c '.[]'`)"
            )
        yield where, f"{name}:{number}", record


# How tables are cut, by format: tab-separated values have no quotes (as IANA defines them, and as in GLUE's files).
DIALECTS: dict[str, dict[str, Any]] = {
    "csv": {"delimiter": ",", "strict": True},
    "tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}


def read_csv(source: str | conll.Stream, format: str = "csv") -> Iterator[Record]:
    """Separated by commas, or tabs ("tsv"), with a header; every value is a string.

    Read with the `csv` module, not pandas, which would turn the word "NA" into a missing value.
    """
    name = conll.source_name(source)
    csv.field_size_limit(1 << 30)  # the default refuses texts over 131,072 characters
    reader = csv.reader((line for _, line in conll.read_lines(source)), **DIALECTS[format])
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
                    + (
                        'put a field that holds commas between double quotes ("...")'
                        if format == "csv"
                        else "fields are divided by single tabs"
                    )
                )
            yield where, origin, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{name}, line {first}: not valid CSV ({error}); check its quotes") from None


def read_parquet(source: str) -> tuple[Iterator[Record], Mapping[str, Any]]:
    """Rows of a Parquet file, read by batches, and their features, as `datasets` writes them."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    if source == "-":
        raise UserError("<stdin>: Parquet cannot be read from a pipe; name the file")
    try:
        file = pyarrow.parquet.ParquetFile(source)
        features = datasets.Features.from_arrow_schema(file.schema_arrow)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{source}: not a Parquet file that can be read ({_first_line(error)})") from None

    def rows() -> Iterator[Record]:
        row = 0
        for batch in file.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                row += 1
                yield f"{source}, row {row}", f"{source}:{row}", record

    return rows(), features


def read_hub(address: str, *, split: str | None = None) -> tuple[Iterator[Record], Mapping[str, Any]]:
    """Rows and features of a dataset of the Hugging Face hub: `hub:NAME[:CONFIGURATION][@REVISION][/SPLIT]`.

    Of a part, `hub:NAME/train#2/4`, rows that follow each other, of all its rows about a fourth.

    Raises `UserError` if it cannot be loaded; without a network the message says how to go on offline.
    """
    address, part = files.split_shard_suffix(address)
    dataset = _load(address, split)
    number, count = part or (1, 1)
    if part and len(dataset) < count:
        raise UserError(f"{address}: {len(dataset)} rows for {count} parts; have fewer (config.data.shards)")
    first, end = ((one * len(dataset)) // count for one in (number - 1, number))
    numbered = enumerate(dataset.select(range(first, end)), first + 1)  # others are left in their file
    rows = ((f"{address}, row {row}", f"{address}:{row}", record) for row, record in numbered)
    return rows, dataset.features


def read_source_sizes(source: str) -> dict[str, int | None]:
    """What the parts of a source depend on, beside their number: of the hub rows and bytes, else `files.census`."""
    if not source.startswith("hub:"):
        return files.read_file_sizes(source)
    dataset = _load(split_filter(source)[0], None)
    bytes_of_splits = dataset.info.dataset_size
    return {f"the rows of {source}": len(dataset), f"the bytes of {source}": bytes_of_splits}


def _load(address: str, split: str | None) -> Any:
    import datasets

    name, configuration, revision, split = parse_hub_address(address, split)
    try:
        return datasets.load_dataset(name, configuration, revision=revision, split=split)
    except ConnectionError as error:
        raise UserError(
            f"{address}: the hub cannot be reached ({_first_line(error)}); to go on offline, use a "
            "synthetic corpus (demo:ner/train, demo:text/train, ...), or a file (.conll, .jsonl, .csv, .parquet) "
            "saved where the hub can be reached, or load it once there and copy the cache folder (HF_HOME) here"
        ) from None
    except Exception as error:  # `datasets` documents no common class for what it raises
        raise UserError(
            f"{address}: the dataset cannot be loaded ({_first_line(error)}); the address is "
            "hub:NAME[:CONFIGURATION][@REVISION][/SPLIT], and for a dataset that is a script, "
            "@refs/convert/parquet often holds its data"
        ) from None


def parse_hub_address(address: str, split: str | None) -> tuple[str, str | None, str | None, str]:
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


def check_string(value: Any, where: str, key: str, index: int | None = None) -> None:
    """Raises `UserError` for a value that is not text."""
    place = f"{where}, key {key!r}" + ("" if index is None else f", item {index}")
    if not isinstance(value, str):
        raise UserError(f"{place}: a {json_type_name(value)} where a string was expected")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"{place}: half a surrogate pair at character {error.start}, which is no text; remove it"
            ) from None


def json_type_name(value: Any) -> str:
    """What JSON calls a value, for messages."""
    kinds = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    return kinds.get(type(value), "object" if isinstance(value, dict) else type(value).__name__)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
