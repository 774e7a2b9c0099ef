"""Chooses records by conditions in the address of their source."""

import json
import os
import re
from collections.abc import Iterator

from jaxft.data.sources import files
from jaxft.data.sources.records.record_values import Record
from jaxft.errors import UserError

_CONDITION = re.compile(r"(?P<key>[^=!]+)(?P<not>!?)=(?P<values>.+)")


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
