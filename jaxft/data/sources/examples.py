"""Checks the examples of every reader: the way out, which all of them pass.

Readers check the types of values where they know the keys. What no example may hold, from whichever format, is refused
here: half a surrogate pair, a text beyond `config.data.max_text`, a number that is not finite, a label that no report
could show.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from jaxft.data.sources import files
from jaxft.data.sources.records import record_values
from jaxft.errors import UserError

Example = TypeVar("Example")

_NAME_FIELDS = ("tags", "label", "label_names")  # of examples; the other fields are texts and places
_MAX_NAME = record_values.MAX_NAME + len("B-")  # a tag is the name of a label with two characters before it
_BYTES_PER_CHARACTER = 4  # at most, in UTF-8


def admit_examples(
    examples: Iterable[Example], source: str | files.Stream, noun: str, max_text: int = files.MAX_TEXT
) -> Iterator[Example]:
    """Yields the examples of a reader unchanged.

    Args:
      examples: the examples, dataclasses with a field `origin`.
      source: the source, for messages.
      noun: the name of an example in messages.
      max_text: the most bytes of a text, in UTF-8.

    Raises:
      UserError: an example cannot be used (see `check_example`), or there were none (raised at the end).
    """
    for example in require_examples(examples, source, noun):
        check_example(example, max_text)
        yield example


def require_examples(examples: Iterable[Example], source: str | files.Stream, noun: str) -> Iterator[Example]:
    """Yields the examples unchanged. Raises `UserError` at the end if there were none; `noun` names them there."""
    empty = True
    for example in examples:
        empty = False
        yield example
    if empty:
        raise UserError(
            f"{files.source_name(source)}: empty, it holds no {noun}; name a source that has some"
        )


def check_example(example: Any, max_text: int) -> None:
    """Raises `UserError`, with origin and field, for a value that no example may hold.

    Args:
      example: a dataclass with a field `origin`.
      max_text: the most bytes of a text, and of the words of a sentence together, in UTF-8.
    """
    example_type: type = type(example)
    for name, are_names in _list_fields(example_type):
        value = getattr(example, name)
        if value is not None and (are_names or value.__class__ is not int):
            check_value(value, f"{example.origin}, {name}", max_text, are_names=are_names)


@functools.cache
def _list_fields(example_type: type) -> list[tuple[str, bool]]:
    """Returns the names of the fields to check, each with whether it holds names of labels."""
    names = [field.name for field in dataclasses.fields(example_type)]
    return [(name, name in _NAME_FIELDS) for name in names if name != "origin"]


def check_value(value: Any, place: str, max_text: int, *, are_names: bool = False) -> None:
    """Raises `UserError`, with the place, for a number or a text that no example may hold.

    Args:
      value: a number, a text, another example, or a list or an object of them.
      place: its place, for messages.
      max_text: the most bytes of a text, and of the texts of a list together, in UTF-8.
      are_names: True if texts are labels.
    """
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, str):
        _check_text(value, place, max_text, are_names)
    elif are_names and (value is None or isinstance(value, int)):  # from a schema whose names are none
        raise UserError(f"{place}: {value!r} where the name of a label was expected")
    elif isinstance(value, float):
        record_values.check_finite(value, place)
    elif isinstance(value, list | tuple):
        types = set(map(type, value))
        if types == {str} and are_names:
            if not _are_names(tuple(value)):
                for name in value:
                    record_values.check_name(name, place, _MAX_NAME)
        elif types == {str}:
            _check_text("".join(value), place, max_text, are_names)
        elif types and types <= {list, tuple}:  # such as the places of words
            check_value(tuple(itertools.chain.from_iterable(value)), place, max_text, are_names=are_names)
        elif are_names or not types <= {int}:
            for item in value:
                check_value(item, place, max_text, are_names=are_names)
    elif dataclasses.is_dataclass(value):
        check_example(value, max_text)


@functools.lru_cache(maxsize=1024)
def _are_names(names: tuple[str, ...]) -> bool:
    """Returns whether all are names of labels. Examples often have the same ones."""
    try:
        for name in names:
            record_values.check_name(name, "", _MAX_NAME)
    except UserError:
        return False
    return True


def _check_text(text: str, place: str, max_text: int, is_name: bool) -> None:
    if is_name:
        record_values.check_name(text, place, _MAX_NAME)
    elif not text.isascii():
        record_values.check_surrogates(text, place)
    if len(text) * _BYTES_PER_CHARACTER > max_text and len(text.encode()) > max_text:
        raise files.too_long_error(f"{place}: the text is", max_text)
