"""Chooses records by conditions in the address of their source."""

import json
import os
import re
from collections.abc import Iterator

from jaxft.data.sources import files
from jaxft.data.sources.records.record_values import Record, describe_keys
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


def list_keys(record_filter: str) -> frozenset[str]:
    """Returns the keys by which a filter chooses records."""
    matches = map(_CONDITION.fullmatch, record_filter.split("&"))
    return frozenset(match["key"] for match in matches if match)


def filter_records(rows: Iterator[Record], record_filter: str) -> Iterator[Record]:
    """Yields the records that meet all conditions of a filter.

    Args:
      rows: records.
      record_filter: conditions such as "fold=0-3,7" or "fold!=4", joined by "&"; "" accepts all records. Values are
        compared as text; "0-3" stands for the integers 0 to 3.

    Raises:
      UserError: the filter contains text that is not a condition, or a record lacks the key.
    """
    conditions = []  # (key, True if its value must be among the values and False if it must not, values, ranges)
    for condition in record_filter.split("&") if record_filter else []:
        match = _CONDITION.fullmatch(condition)
        if not match:
            raise UserError(
                f"the choice of records ?{record_filter}: {condition!r} is no condition; "
                "expected KEY=VALUES or KEY!=VALUES, values with commas between and 0-3 for whole numbers, "
                "such as ?fold=0-3,7"
            )
        values, ranges = set(), []
        for value in match["values"].split(","):
            if bounds := re.fullmatch(r"([0-9]+)-([0-9]+)", value):
                first, last = (_size(bound.lstrip("0") or "0") for bound in bounds.groups())
                if first > last:
                    raise UserError(
                        f"the choice of records ?{record_filter}: {value} has no number; expected the smaller one first"
                    )
                ranges.append((first, last))
            else:
                values.add(value)
        conditions.append((match["key"], match["not"] == "", values, ranges))
    for where, origin, record in rows:
        for key, is_among, values, ranges in conditions:
            if key not in record:
                raise UserError(
                    f"{where}: no key {key!r} in {describe_keys(record)}; ?{record_filter} chooses by it"
                )
            value = record[key]
            text = json.dumps(value) if isinstance(value, bool) else str(value)
            if (text in values or _is_in(text, ranges)) != is_among:
                break
        else:
            yield where, origin, record


def _size(digits: str) -> tuple[int, str]:
    """Returns a key that sorts whole numbers, written without leading zeros, by size. It takes any number of digits."""
    return len(digits), digits


def _is_in(text: str, ranges: list[tuple[tuple[int, str], tuple[int, str]]]) -> bool:
    """Returns whether `text` is a whole number, without leading zeros, in one of the ranges of keys from `_size`."""
    if not ranges or not re.fullmatch(r"0|[1-9][0-9]*", text):
        return False
    return any(first <= _size(text) <= last for first, last in ranges)
