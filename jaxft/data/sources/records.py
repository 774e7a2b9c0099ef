"""Reads records with any keys from JSON lines, CSV, Parquet and datasets of the Hugging Face hub."""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxft.data.sources import files
from jaxft.errors import UserError

# A record with its place: ("data.jsonl, line 3" for messages, origin "data.jsonl:3", keys and values).
Record = tuple[str, str, dict]

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
    """Splits a source into its address and its filter of records.

    Returns `("data.jsonl", "fold!=3")` for "data.jsonl?fold!=3", and `(source, "")` for a source without a filter.
    Raises `UserError` for a filter of a shard.
    """
    path, mark, record_filter = source.rpartition("?")
    if not mark or os.path.exists(source):
        return source, ""
    if files.split_shard_suffix(source)[1]:
        raise files.filtered_shard_error(source, record_filter.partition("#")[0])
    return path, record_filter


def filter_records(rows: Iterator[Record], record_filter: str) -> Iterator[Record]:
    """Yields the records that meet all conditions of a filter.

    Args:
      rows: records.
      record_filter: conditions such as "fold=0-3,7" or "fold!=4", joined by "&"; "" accepts all records. Values are
        compared as text; "0-3" stands for the integers 0 to 3.

    Raises:
      UserError: the filter contains text that is not a condition, or a record lacks the key.
    """
    conditions = []  # (key, True if its value must be among the values and False if it must not, values)
    for condition in record_filter.split("&") if record_filter else []:
        match = _CONDITION.fullmatch(condition)
        if not match:
            raise UserError(
                f"the choice of records ?{record_filter}: {condition!r} is no condition; "
                "expected KEY=VALUES or KEY!=VALUES, values with commas between and 0-3 for whole numbers, "
                "such as ?fold=0-3,7"
            )
        values: set[str] = set()
        for value in match["values"].split(","):
            bounds = re.fullmatch(r"(\d+)-(\d+)", value)
            values.update(map(str, range(int(bounds[1]), int(bounds[2]) + 1)) if bounds else [value])
        conditions.append((match["key"], match["not"] == "", values))
    for where, origin, record in rows:
        for key, is_among, values in conditions:
            if key not in record:
                raise UserError(
                    f"{where}: no key {key!r} in {sorted(map(str, record))}; ?{record_filter} chooses by it"
                )
            value = record[key]
            text = json.dumps(value) if isinstance(value, bool) else str(value)
            if (text in values) != is_among:
                break
        else:
            yield where, origin, record


def read_jsonl(source: str | files.Stream) -> Iterator[Record]:
    """Yields the JSON objects of a file with one per line. Raises `UserError` with the line for other content."""
    name = files.source_name(source)
    for number, line in files.read_lines(source):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            # The usual reason is a JSON document of several lines.
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


# Format -> arguments of `csv.reader`. Tab-separated values have no quotes, as in IANA's definition and GLUE's files.
DIALECTS: dict[str, dict[str, Any]] = {
    "csv": {"delimiter": ",", "strict": True},
    "tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}


def read_csv(source: str | files.Stream, format: str = "csv") -> Iterator[Record]:
    """Yields the rows of a table with a header; commas ("csv") or tabs ("tsv") separate values, which are strings.

    It does not use pandas, which would turn the word "NA" into a missing value.
    """
    name = files.source_name(source)
    csv.field_size_limit(1 << 30)  # the default limit refuses texts over 131,072 characters
    reader = csv.reader((line for _, line in files.read_lines(source)), **DIALECTS[format])
    header, first_line = None, 1
    try:
        for row in reader:
            where, origin = f"{name}, line {first_line}", f"{name}:{first_line}"
            first_line = reader.line_num + 1
            if not row:
                continue
            if header is None:
                header = row
                continue
            if len(row) != len(header):
                if format == "csv":
                    hint = 'put a field that holds commas between double quotes ("...")'
                else:
                    hint = "fields are divided by single tabs"
                raise UserError(f"{where}: {len(row)} fields where the header has {len(header)}; {hint}")
            yield where, origin, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{name}, line {first_line}: not valid CSV ({error}); check its quotes") from None


def read_parquet(source: str) -> tuple[Iterator[Record], Mapping[str, Any]]:
    """Returns the rows of a Parquet file, read in batches, and the features that `datasets` stored in it."""
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
    """Returns the rows and features of a dataset of the Hugging Face hub.

    Args:
      address: `[hub:]NAME[:CONFIGURATION][@REVISION][/SPLIT]`. With a shard, as in `hub:NAME/train#2/4`, the rows are
        the second quarter of the dataset.
      split: the split, if the address does not name one.

    Raises:
      UserError: the dataset cannot be loaded. Without a network the message says how to work offline.
    """
    address, shard = files.split_shard_suffix(address if address.startswith("hub:") else f"hub:{address}")
    dataset = _load(address, split)
    number, count = shard or (1, 1)
    if shard and len(dataset) < count:
        raise UserError(f"{address}: {len(dataset)} rows for {count} shards; have fewer (config.data.shards)")
    start, end = (number - 1) * len(dataset) // count, number * len(dataset) // count
    numbered = enumerate(dataset.select(range(start, end)), start + 1)  # rows outside the range are not read
    rows = ((f"{address}, row {row}", f"{address}:{row}", record) for row, record in numbered)
    return rows, dataset.features


def read_source_sizes(source: str) -> dict[str, int | None]:
    """Returns the sizes that decide how a source is split into shards, each keyed by a line that names it.

    They are the rows and bytes of a dataset of the hub, or the sizes of a pattern's files.
    """
    if not source.startswith("hub:"):
        return files.read_file_sizes(source)
    dataset = _load(split_filter(source)[0], None)
    return {f"the rows of {source}": len(dataset), f"the bytes of {source}": dataset.info.dataset_size}


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
    except Exception as error:  # `datasets` documents no common class of its errors
        raise UserError(
            f"{address}: the dataset cannot be loaded ({_first_line(error)}); the address is "
            "hub:NAME[:CONFIGURATION][@REVISION][/SPLIT], and for a dataset that is a script, "
            "@refs/convert/parquet often holds its data"
        ) from None


def parse_hub_address(address: str, split: str | None) -> tuple[str, str | None, str | None, str]:
    """Returns name, configuration, revision and split of `hub:NAME[:CONFIGURATION][@REVISION][/SPLIT]`.

    Names and revisions may contain a slash. If the address has only one slash, the text after it is a split only if it
    is a usual split name; the argument `split` can name any other.
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


def require_value(record: Mapping[str, Any], key: str, where: str, hint: str) -> Any:
    """Returns the value under a key. If the record lacks the key, raises `UserError` with `hint` at its end."""
    if key not in record:
        raise UserError(f"{where}: no key {key!r} in {sorted(map(str, record))}; {hint}")
    return record[key]


def check_string(value: Any, where: str, key: str, index: int | None = None) -> None:
    """Raises `UserError` for a value that is not text. `where`, `key` and an item's `index` name its place."""
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
    """Returns the JSON name of a value's type, for messages."""
    kinds = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    return kinds.get(type(value), "object" if isinstance(value, dict) else type(value).__name__)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
