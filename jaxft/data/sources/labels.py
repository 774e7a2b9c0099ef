"""Parses the labels of texts: a name, several names, 0s and 1s that stand for names, or a number."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

from jaxft.data.sources.records import record_values
from jaxft.errors import UserError, list_names

SINGLE, MULTI, NUMBER = "single_label_classification", "multi_label_classification", "regression"

Label = str | tuple[str, ...] | float  # a name, several names or a number, depending on the problem


class Labelled(Protocol):
    """An example with labels, such as a text or an image."""

    @property
    def label(self) -> Any:
        """The label, a `Label` of one kind for all examples; None if labels are not read."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of labels in the order that the data or the user declares."""

    @property
    def origin(self) -> str:
        """The place of the example, for messages."""


# "0 1 0", "[0. 1. 0.]" (as numpy prints it) or "0,1,0"
_ROW_OF_BITS = re.compile(r"[\[(]?\s*(?:[01](?:\.0*)?[\s,;|]+)+[01](?:\.0*)?\s*[\])]?")
_BIT = re.compile(r"[01](?:\.0*)?")
_BITS_BY_WORD = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
_SHOWN = 12  # the most names in a message


@dataclass(frozen=True, slots=True)
class LabelRules:
    """The meaning of the labels in a data set.

    Attributes:
      problem: the kind of labels. `SINGLE` is a name (integers, true and false become names), `MULTI` is a list of
        names, a string of names joined by `separator`, or a 0 or 1 for each name; `NUMBER` is a number.
      separator: see `problem`.
      names: the names that the user lists. Integers and lists of 0 and 1 stand for them. () if there are none.
      integer_names: the names that the data's schema lists. Integers stand for them. () if there are none.
    """

    problem: str = SINGLE
    separator: str = ","
    names: tuple[str, ...] = ()
    integer_names: tuple[str, ...] = ()


DEFAULT_RULES = LabelRules()


def parse_label(record: Mapping[str, Any], key: str, where: str, rules: LabelRules) -> Label:
    """Returns the label of a record.

    Args:
      record: keys and values.
      key: the key of the label, or several keys with commas between, which hold 0 or 1 each (see `split_keys`). The
        record has these keys.
      where: the place of the record, for messages.
      rules: the meaning of the label.

    Raises:
      UserError: the label does not fit the rules.
    """
    keys = split_keys(record, key)
    if len(keys) > 1:
        if rules.problem == NUMBER:
            raise UserError(
                f"{where}: config.data.label={key!r} names {len(keys)} keys where one number was expected"
            )
        are_set = [_parse_bit(record[name], f"{where}, key {name!r}") for name in keys]
        return _choose_names(are_set, keys, where, rules.problem)
    value, place = record[keys[0]], f"{where}, key {keys[0]!r}"
    if value is None or value != value:  # NaN
        shown = "null" if value is None else "NaN"
        raise UserError(f"{place}: {shown} where a label was expected; leave out what has none")
    if rules.problem == NUMBER:
        return _parse_number(value, place)
    items = _as_items(value, place, rules)
    if items is not None and _are_bits(items, rules.names):
        _check_bits(items, place, rules)
        return _choose_names([bool(item) for item in items], rules.names, place, rules.problem)
    if rules.problem == SINGLE:
        if items is None:
            return _parse_name(value, place, rules)
        if len(items) != 1:
            raise UserError(
                f"{place}: a list of {len(items)} where one label was expected; set "
                f"config.model.problem_type={MULTI!r}"
            )
        return _parse_name(items[0], place, rules)  # as annotation tools write it
    if items is None:
        raise UserError(
            f"{place}: {record_values.describe_type(value)} where a list of labels, or a string of them with "
            f"{rules.separator!r} between, was expected"
        )
    return tuple(dict.fromkeys(_parse_name(item, place, rules) for item in items))


def split_keys(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Returns the keys of a label: `key`, or its pieces between commas if the record does not have it."""
    if key in record or "," not in key:
        return (key,)
    return tuple(dict.fromkeys(piece.strip() for piece in key.split(",") if piece.strip()))


def declared_names(record: Mapping[str, Any], key: str, rules: LabelRules) -> tuple[str, ...]:
    """Returns the names of labels in the order that the keys, the user or the schema declare; () if none does."""
    keys = split_keys(record, key)
    return keys if len(keys) > 1 else rules.names or rules.integer_names


def integer_names(feature: Any) -> tuple[str, ...]:
    """Returns the names of integer labels, or of lists of them, in a schema of `datasets`; () if it has none."""
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return tuple(names or ())


def sort_labels(names: Collection[str]) -> list[str]:
    """Sorts labels by number if all are numbers, else by name."""
    if not are_numbers(names):
        return sorted(names)
    return sorted(names, key=lambda name: (_as_decimal(name), name))


def collect_label_names(examples: Iterable[Labelled]) -> list[str]:
    """Returns the names of all labels, in the order of `sort_labels`."""
    names: set[str] = set()
    for example in examples:
        names.update([example.label] if isinstance(example.label, str) else example.label)
    return sort_labels(names)


def are_numbers(names: Iterable[str]) -> bool:
    """Returns whether all names spell finite numbers."""
    return all(_as_decimal(name) is not None for name in names)


def _as_decimal(name: str) -> Decimal | None:
    """Returns the finite number that a name spells, or None."""
    try:
        number = Decimal(name)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _parse_name(value: Any, place: str, rules: LabelRules) -> str:
    """Returns the name that a value stands for."""
    if isinstance(value, float):
        if not value.is_integer():
            raise UserError(
                f"{place}: the number {value} where the name of a label was expected; write whole numbers or names, "
                f"or set config.model.problem_type={NUMBER!r} to predict numbers"
            )
        value = int(value)  # pandas turns integers to floats where a column has gaps
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, int | str):
        text = str(value).strip()
    else:
        hint = (
            "; for spans [start, end, label] choose a task that tags words (`jaxft recipes` lists recipes of it)"
            if isinstance(value, list)
            else ""
        )
        raise UserError(f"{place}: {record_values.describe_type(value)} where a label was expected{hint}")
    if not text:
        raise UserError(f"{place}: an empty label; name it, or leave the record out")
    record_values.check_name(text, place)
    if rules.integer_names and isinstance(value, int) and not isinstance(value, bool):
        text = _nth_name(value, place, rules.integer_names)
    if not rules.names or text in rules.names:
        return text
    number = Decimal(value) if isinstance(value, bool) else _as_decimal(text)
    if number is None:
        raise UserError(
            f"{place}: the label {text!r} is none of config.data.label_names ({list_names(rules.names)})"
        )
    return _nth_name(number, place, rules.names)


def _nth_name(number: int | Decimal, place: str, names: Sequence[str]) -> str:
    """Returns the name that an integer stands for."""
    if not 0 <= number < len(names) or number != int(number):
        raise UserError(
            f"{place}: label {number} is outside 0..{len(names) - 1} ({list_names(names)}); test sets without "
            "labels often have -1"
        )
    return names[int(number)]


def _as_items(value: Any, place: str, rules: LabelRules) -> list[Any] | None:
    """Returns the items of a list, of a list in a string, or of several names in a string; None for other values."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _ROW_OF_BITS.fullmatch(text):
        bits = [float(bit) for bit in _BIT.findall(text)]
        if len(bits) > 2 or len(bits) == len(rules.names):
            return bits
    if text.startswith("["):
        if isinstance(items := record_values.parse_cell(text), list):
            return items
        if rules.problem == MULTI:
            raise UserError(f"{place}: a list that is not JSON, {text[:60]!r}; write it with json.dumps")
    return [item for item in text.split(rules.separator) if item.strip()] if rules.problem == MULTI else None


def _are_bits(items: Sequence[Any], names: Sequence[str]) -> bool:
    """Returns whether a list has a 0 or 1 for each label, and does not hold the labels' numbers.

    Numbers of labels differ from each other, and with `names` lists of numbers have a 0 or 1 for each name.
    """
    if len(items) < 2 or not all(isinstance(item, int | float) for item in items):
        return False
    if names:
        return True
    is_integer = all(isinstance(item, int) and not isinstance(item, bool) for item in items)
    return all(item in (0, 1) for item in items) and (not is_integer or len(set(items)) < len(items))


def _check_bits(bits: Sequence[Any], place: str, rules: LabelRules) -> None:
    """Raises `UserError` if a list does not hold a 0 or 1 for each name."""
    shown = str([int(bit) if bit in (0, 1) else bit for bit in bits[:_SHOWN]])
    shown = shown if len(bits) <= _SHOWN else shown[:-1] + ", ...]"
    if not rules.names:
        letters = ", ".join(repr(chr(ord("a") + n)) for n in range(min(len(bits), 3)))
        dots = ", ..." if len(bits) > 3 else ""
        several = f", and config.model.problem_type={MULTI!r} if a text may have several"
        raise UserError(
            f"{place}: {shown} has a 0 or 1 for each of {len(bits)} labels, but nothing names the labels; name them in "
            f"this order, config.data.label_names=({letters}{dots})"
            + (several if rules.problem == SINGLE else "")
        )
    if len(bits) != len(rules.names) or any(bit not in (0, 1) for bit in bits):
        raise UserError(
            f"{place}: {shown} where a 0 or 1 for each of the {len(rules.names)} config.data.label_names "
            f"({list_names(rules.names)}) was expected"
        )


def _choose_names(are_set: Sequence[bool], names: Sequence[str], place: str, problem: str) -> Label:
    """Returns the names whose flag is set: a tuple, or a name if each text has a single label."""
    chosen = tuple(name for name, is_set in zip(names, are_set, strict=True) if is_set)
    if problem == MULTI:
        return chosen
    if len(chosen) != 1:
        shown = f"{len(chosen)} of {len(names)} labels are 1" + (f" ({list_names(chosen)})" if chosen else "")
        raise UserError(
            f"{place}: {shown} where exactly 1 was expected; if a text may have none or several, set "
            f"config.model.problem_type={MULTI!r}"
        )
    return chosen[0]


def _parse_bit(value: Any, place: str) -> bool:
    """Returns whether a value is 1. Raises `UserError` if it is neither 0 nor 1."""
    if (bit := as_bit(value)) is None:
        raise UserError(
            f"{place}: {str(value)[:60]!r} where 0 or 1 was expected, because config.data.label names several keys; "
            "leave out what has no labels"
        )
    return bit


def as_bit(value: Any) -> bool | None:
    """Returns a value that means 0 or 1 as a boolean, or None for other values."""
    if isinstance(value, str):
        return _BITS_BY_WORD.get(value.strip().lower())
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _parse_number(value: Any, place: str) -> float:
    """Returns the finite number that a value or its text stands for."""
    try:
        number = (
            float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
        )
    except (ValueError, OverflowError):
        number = None
    if number is None or not math.isfinite(number):
        shown = repr(value) if isinstance(value, str | float) else record_values.describe_type(value)
        raise UserError(
            f"{place}: {shown} is not a finite number; config.model.problem_type={NUMBER!r} learns "
            "numbers, for names choose another"
        )
    return number
