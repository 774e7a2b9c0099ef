"""Reads records of every format: the way in for all readers of examples that are made of records."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxft.data.sources import files
from jaxft.data.sources.annotation_tools.base import Item, Reading
from jaxft.data.sources.annotation_tools.tools import SAMPLED, convert_items
from jaxft.data.sources.formats import ExampleKind, ResolvedSource
from jaxft.data.sources.records import filters, hub, in_memory, json_documents, json_lines, parquet, tables
from jaxft.data.sources.records.record_values import Record, describe_type
from jaxft.errors import UserError


def read_records(
    source: ResolvedSource,
    kind: ExampleKind,
    log: files.Log,
    *,
    split: str | None = None,
    labelled: bool = True,
) -> tuple[Iterator[Record], Mapping[str, Any]]:
    """Returns the records of a source, and its features if it has a schema.

    Records that a filter drops are left out, and those of annotation tools get our keys.

    Args:
      source: a file, stream or dataset, from `formats.resolve_source`. Its format is one of records.
      kind: the kind of the examples that are made of the records.
      log: prints a line about the source.
      split: the split of a dataset of the hub whose address does not name one.
      labelled: True if labels are read. If False, each record of an annotation tool is kept.

    Raises:
      UserError: the data is invalid (some of it is found while reading).
    """
    address, format, record_filter = source
    name = files.source_name(address)
    features: Mapping[str, Any] = {}
    items: Iterator[Item]
    match format.name, address:
        case "hub", str():
            items, features = hub.read_hub(address, split=split)
        case "parquet", str():
            items, features = parquet.read_parquet(address)
        case "records", str():
            records = in_memory.find_records(address)
            items, features = records.read(), records.features
        case "jsonl", _:
            items = json_lines.read_jsonl(address, format.encoding, max_bytes=format.max_text)
        case "json", _:
            items = json_documents.read_json_document(address, format.encoding, log)
        case _:
            items = tables.read_table(
                address,
                format.name,
                delimiter=format.delimiter,
                encoding=format.encoding,
                max_bytes=format.max_text,
                log=log,
            )
    if record_filter:
        items = filters.filter_records(_make_objects(items, name, log), record_filter)
    is_file = isinstance(address, str) and address != "-"
    reading = Reading(kind.noun, name, log, labelled, filters.list_keys(record_filter))
    items = convert_items(items, reading, sampled=SAMPLED if is_file else 1)
    return _make_objects(items, name, log), features


def _make_objects(items: Iterator[Item], name: str, log: files.Log) -> Iterator[Record]:
    """Yields the items. A list of values, as in pandas' orientation 'values', becomes an object with keys 0, 1, 2...

    Raises `UserError` for other values that are no objects.
    """
    log = files.log_once(log)
    for where, origin, value in items:
        if isinstance(value, list) and value and not any(isinstance(cell, list | dict) for cell in value):
            log(f"{name}: records are lists without names; their values have the keys 0, 1, 2 and so on")
            value = {str(index): cell for index, cell in enumerate(value)}
        if not isinstance(value, dict):
            raise UserError(
                f"{where}: {describe_type(value)} where an object was expected; write an object for each "
                "record"
            )
        yield where, origin, value
