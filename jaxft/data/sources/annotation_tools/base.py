"""Defines an annotation tool: how its records are recognised, and what they become."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxft.data.sources import files
from jaxft.data.sources.records.record_values import JsonObject
from jaxft.errors import UserError

Item = tuple[str, str, Any]  # a record's place, its origin, and any JSON value


@dataclass(frozen=True)
class Reading:
    """Describes what is read from the records of a source.

    Attributes:
      noun: the noun of the examples: "sentence", "text", "question", "document".
      name: the name of the source, for the log.
      log: prints a line about the source.
      labelled: True if labels are read. If False, no record is dropped.
      filter_keys: the keys of the records by which the user chooses some.
    """

    noun: str
    name: str
    log: files.Log
    labelled: bool = True
    filter_keys: frozenset[str] = frozenset()

    def log_line(self, text: str) -> None:
        """Logs a line about the source."""
        self.log(f"{self.name}: {text}")


@dataclass(frozen=True)
class AnnotationTool:
    """A tool: how its records are recognised and what they become.

    Attributes:
      name: what the records are, for the log: "doccano's JSON lines".
      recognizes: returns True if the first records of a source are of this tool. Its arguments are the records, at
        least one, and the noun of the examples that are read.
      convert: turns the items of a source into items whose values have our keys: `text` and `spans`, `tokens` and
        `tags`, or `text` and `label`. It keeps the other keys. It may drop items (answers that were not accepted), make
        several of one, and log.
    """

    name: str
    recognizes: Callable[[Sequence[Any], str], bool]
    convert: Callable[[Iterator[Item], Reading], Iterator[Item]]


def is_span(value: Any) -> bool:
    """Returns True for `[start, end, label]`."""
    return isinstance(value, list | tuple) and [type(field) for field in value] == [int, int, str]


def is_list_of_spans(value: Any) -> bool:
    """Returns True for a list of `[start, end, label]`, which may be empty."""
    return isinstance(value, list) and all(map(is_span, value))


def list_objects(value: Any, where: str, key: str) -> list[JsonObject]:
    """Returns a list of objects unchanged, and an empty one for null. Raises `UserError` for other values."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UserError(
            f"{where}, key {key!r}: {json.dumps(value)[:60]} where a list of objects was expected"
        )
    return value


def count_items(value: Any) -> int:
    """Returns the length of a list, and 0 for other values."""
    return len(value) if isinstance(value, list) else 0
