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
    for field in dataclasses.fields(example):
        value = getattr(example, field.name)
        if value.__class__ is str:  # most values; the others take longer
            _check_text(value, example, field.name, max_text)
        elif value is not None and value.__class__ is not int:
            _check_values(value, example, field.name, max_text)


def _check_values(value: Any, example: Any, field: str, max_text: int) -> None:
    """Checks a number, a text, or the items of a list, an object or another example."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if dataclasses.is_dataclass(value):
        check_example(value, max_text)
    elif isinstance(value, str):
        _check_text(value, example, field, max_text)
    elif isinstance(value, float):
        record_values.check_finite(value, f"{example.origin}, {field}")
    elif isinstance(value, list | tuple):
        types = set(map(type, value))
        if types == {str} and field in _NAME_FIELDS:
            if not _are_names(tuple(value)):
                for name in value:
                    _check_text(name, example, field, max_text)
        elif types == {str}:
            _check_text("".join(value), example, field, max_text)
        elif types and types <= {list, tuple}:  # such as the places of words
            _check_values(tuple(itertools.chain.from_iterable(value)), example, field, max_text)
        elif not types <= {int}:
            for item in value:
                _check_values(item, example, field, max_text)


@functools.lru_cache(maxsize=1024)
def _are_names(names: tuple[str, ...]) -> bool:
    """Returns whether all are names of labels. Examples often have the same ones."""
    try:
        for name in names:
            record_values.check_name(name, "", _MAX_NAME)
    except UserError:
        return False
    return True


def _check_text(text: str, example: Any, field: str, max_text: int) -> None:
    place = f"{example.origin}, {field}"
    if field in _NAME_FIELDS:
        record_values.check_name(text, place, _MAX_NAME)
    elif not text.isascii():
        record_values.check_surrogates(text, place)
    if len(text) * _BYTES_PER_CHARACTER > max_text and len(text.encode()) > max_text:
        raise files.too_long_error(f"{place}: the text is", max_text)
