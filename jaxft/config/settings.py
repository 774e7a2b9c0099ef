"""Declares settings once: sections are frozen dataclasses, and everything else follows from their fields.

`setting` makes a field of a section. A root class holds the sections of a run. It determines the `ConfigDict` that
recipes change, the checks and their messages, the help texts, and the frozen instances that functions receive.
"""

import ast
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxft.errors import UserError

BOOLEANS: dict[str, bool | None] = {"true": True, "yes": True, "false": False, "no": False}
WORDS: dict[type, dict[str, bool | None]] = {
    bool: BOOLEANS | {"1": True, "0": False},
    object: BOOLEANS | {"none": None},
}  # the values of words, by type
MAX_COUNT = 2**31 - 1  # devices count steps and slots in 32 bits
MAX_ROWS = 2**20  # of a batch; more are a slip of a key, and take all memory before anything else is said
MAX_FLOAT32 = 3.4e38
TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "True or False", tuple: "a tuple"}


@dataclasses.dataclass(frozen=True)
class Check:
    """A condition on one value, and the text that says what is `expected` if `accepts` is False."""

    accepts: Callable[[Any], bool]
    expected: str


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    check: Check | None = None,
    pairs: Any = None,
    example: str = "",
    hf: str = "",
) -> Any:
    """Declares one setting. The annotation of the field is its type, with `| None` if it may be unset.

    Args:
      default: the value if a run does not set it.
      help: a phrase that says what the setting does.
      choices: the allowed texts.
      check: a condition on the value, in addition to its type.
      pairs: for a tuple of (name, value) pairs, the type of the values. Users may then write `name=value,name=value`.
      example: an example of a tuple, for messages.
      hf: the name in `TrainingArguments` or the `run_*.py` scripts of transformers.
    """
    details = {"help": help, "choices": choices, "check": check, "pairs": pairs, "hf": hf, "example": example}
    return dataclasses.field(default=default, metadata=details)


@dataclasses.dataclass(frozen=True)
class Declaration:
    """The declaration of a setting, with its full `key` such as "optim.lr"."""

    key: str
    kind: type
    is_optional: bool
    default: Any
    help: str
    choices: tuple[str, ...]
    check: Check | None
    pairs: Any
    hf: str
    example: str


@functools.cache
def declarations(root: type) -> dict[str, Declaration]:
    """Returns the declarations of a root class by key, in the order of its sections."""
    return {declaration.key: declaration for declaration in _declarations(root, "")}


def _declarations(cls: Any, prefix: str) -> Iterator[Declaration]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _declarations(kind, f"{prefix}{field.name}.")
            continue
        options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        is_optional = types.NoneType in options or kind is Any
        plain = object if kind is Any else next(option for option in options if option is not types.NoneType)
        plain = typing.get_origin(plain) or plain  # tuple of tuple[str, ...]
        yield Declaration(f"{prefix}{field.name}", plain, is_optional, field.default, **field.metadata)


def defaults(root: type) -> dict[str, Any]:
    """Returns the default of every setting of a root class, by key."""
    return {key: declaration.default for key, declaration in declarations(root).items()}


def flatten(settings: Any) -> dict[str, Any]:
    """Returns the values of a root instance by key: {"optim.lr": 5e-05, ...}."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            values |= {f"{field.name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            values[field.name] = value
    return values


def to_dict(settings: Any) -> dict[str, Any]:
    """Returns the values of a root instance as nested dicts, as `config.json` holds them."""
    return dataclasses.asdict(settings)


def replace(settings: Any, changes: Mapping[str, Any]) -> Any:
    """Returns a copy of a root instance with some values changed, by key. Checks nothing."""
    sections: dict[str, dict[str, Any]] = {}
    values = {}
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        if section:
            sections.setdefault(section, {})[name] = value
        else:
            values[name] = value
    for section, inner in sections.items():
        values[section] = dataclasses.replace(getattr(settings, section), **inner)
    return dataclasses.replace(settings, **values)


@dataclasses.dataclass(frozen=True)
class Schema:
    """The settings that a run may have.

    Attributes:
      root: the frozen dataclass that holds their sections and has a method `check`.
      task: the name of the run's task, for messages.
      owners: for each key that only other tasks have, the names of these tasks.
      extends: the tasks whose settings this task also has.
    """

    root: type
    task: str
    owners: Mapping[str, tuple[str, ...]]
    extends: tuple[str, ...] = ()

    @property
    def declarations(self) -> dict[str, Declaration]:
        """The settings by key."""
        return declarations(self.root)

    def build(self, values: Mapping[str, Any], where: str) -> Any:
        """Returns the checked root instance for `values`.

        Args:
          values: values by key. Missing keys have their defaults.
          where: the source of the values, for messages.

        Raises:
          UserError: a key is unknown, a value has the wrong type, or no run can have a value or a combination.
        """
        converted = {key: self.convert(key, value, where) for key, value in values.items()}
        for key, declaration in self.declarations.items():
            _check_value(declaration, converted.get(key, declaration.default))
        settings = replace(self.root(), converted)
        settings.check()
        return settings

    def parse(self, key: str, text: str, where: str) -> Any:
        """Returns the value of setting `key` for the text that a user typed."""
        declaration = self.declaration(key, where)
        if text.lower() == "none" and declaration.is_optional:
            return None
        if declaration.kind is str:
            return text
        value = _parse_value(text, declaration.kind)
        if declaration.pairs is not None and isinstance(value, str):
            return _parse_pairs(value, declaration.pairs)
        return value

    def convert(self, key: str, value: Any, where: str) -> Any:
        """Converts `value` to the type of setting `key`. Raises `UserError` if that is not possible."""
        declaration = self.declaration(key, where)
        kind = declaration.kind
        if isinstance(value, str):  # YAML reads 3e-5 and `none` as text
            value = self.parse(key, value, where)
        if isinstance(value, int) and not isinstance(value, bool) and kind is float:
            value = _as_float(value)
        if kind is tuple:
            value = _as_tuple(value)
        if declaration.pairs is not None and isinstance(value, tuple):
            value = tuple(_convert_pair(item, declaration.pairs) for item in value)
        fits = value is None and declaration.is_optional
        fits |= kind is object or (isinstance(value, kind) and isinstance(value, bool) == (kind is bool))
        if not fits:
            hint = f"; write it as {declaration.example}" if declaration.example else ""
            if value and isinstance(value, str) and declaration.example.startswith("('"):
                names = tuple(name.strip(" '\"") for name in value.strip("()[] ,").split(","))
                hint = f'; write it as "{names}"'  # a shell needs the quotes
            if kind is tuple and value == "":
                hint += "; () empties it"
            if kind is str and not isinstance(value, list | Mapping | None):
                hint = "; put it in quotes"
            raise UserError(
                f"{where}: config.{key} takes {type_name(kind)}, found {value!r} ({type_name(type(value))}){hint}"
            )
        if kind is tuple and not _is_plain(value):
            raise UserError(
                f"{where}: config.{key}={value!r}: expected texts, numbers, True, False or None in it"
            )
        return value

    def declaration(self, key: str, where: str) -> Declaration:
        """Returns the setting `key`; else raises `UserError` that names the nearest key, or the tasks that have it."""
        if key in self.declarations:
            return self.declarations[key]
        if key in self.owners:
            raise UserError(
                f"{where}: config.{key} is a setting of {' and '.join(self.owners[key])}; this run's config.task is "
                f"{self.task!r}: leave the setting out, or change config.task"
            )
        known = list(self.declarations)
        by_leaf = {name.rsplit(".", 1)[-1]: name for name in known}
        if members := [name for name in known if name.startswith(f"{key}.")]:
            hint = f"; did you mean config.{by_leaf[key]}?" if key in by_leaf else ""
            raise UserError(
                f"{where}: there is no setting config.{key}, it is a section: {', '.join(members)}{hint}"
            )
        near = find_near(key, self.declarations)
        section = [name for name in known if name.startswith(key.rpartition(".")[0] + ".")]
        hint = (
            f"did you mean {' or '.join(f'config.{name}' for name in near)}?"
            if near
            else "known: " + ", ".join(section or known)
        )
        raise UserError(f"{where}: there is no setting config.{key}; {hint}")

    def config_dict(self) -> ConfigDict:
        """Returns every setting with its default, for recipes. An unset setting accepts values of its type."""
        nested: dict[str, Any] = {}
        for key, declaration in self.declarations.items():
            section, _, name = key.rpartition(".")
            unset = declaration.default is None and declaration.is_optional
            value = placeholder(declaration.kind) if unset else declaration.default
            (nested.setdefault(section, {}) if section else nested)[name] = value
        return ConfigDict(nested)


def find_near(name: str, known: Mapping[str, Declaration]) -> list[str]:
    """Returns the settings among the `known` that a user may mean by `name`.

    These are the setting of that name, else those with its last component, else those that transformers calls by it,
    else the one that is spelt most like it or like its last component.
    """
    leaf = name.rsplit(".", 1)[-1]
    if name in known:
        return [name]
    if same := [key for key in known if key.rsplit(".", 1)[-1] == leaf]:
        return same
    if same := [key for key in known if leaf in _hf_names(known[key])]:
        return same
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in known}
    near = difflib.get_close_matches(name, known, 1, 0.6)
    return near or [by_leaf[close] for close in difflib.get_close_matches(leaf, by_leaf, 1, 0.6)]


def _hf_names(declaration: Declaration) -> list[str]:
    """Returns the names by which transformers knows a setting, without the factors of a product."""
    return re.findall(r"(?:^|, )(\w+)", declaration.hf)


def refuse(key: str, value: Any, expected: str) -> UserError:
    """Returns the error for a setting whose value no run can have."""
    return UserError(f"config.{key}={value!r}: expected {expected}")


def require(condition: bool, key: str, value: Any, expected: str) -> None:
    """Raises the error of `refuse` if the condition is False."""
    if not condition:
        raise refuse(key, value, expected)


def type_name(kind: type) -> str:
    """Returns a type's name for users."""
    return TYPE_NAMES.get(kind, kind.__name__)


def at_least(least: int, most: int = MAX_COUNT) -> Check:
    """Returns a check that a count is `least` or more and at most `most`, or unset."""
    limit = "below 2^31" if most == MAX_COUNT else f"at most {most:,}"
    return Check(lambda value: value is None or least <= value <= most, f"{least} or more, {limit}")


def optional_at_least(least: int, most: int = MAX_COUNT) -> Check:
    """Returns the same check as `at_least`, with a message that the setting may be unset."""
    check = at_least(least, most)
    return dataclasses.replace(check, expected=f"{check.expected}, or none")


def below_one() -> Check:
    """Returns a check that a number is in [0, 1), or unset."""
    return Check(lambda value: value is None or 0 <= value < 1, "0 or more and below 1")


def positive(expected: str = "more than 0") -> Check:
    """Returns a check that a number is above 0 and finite, also as a float32."""
    return Check(lambda value: 0 < value <= MAX_FLOAT32, expected)


def not_negative() -> Check:
    """Returns a check that a number is 0 or more and finite, also as a float32."""
    return Check(lambda value: 0 <= value <= MAX_FLOAT32, "0 or more")


def is_finite(value: float) -> bool:
    """Returns whether a number is finite, also as a float32."""
    return abs(value) <= MAX_FLOAT32


def texts(expected: str) -> Check:
    """Returns a check that a tuple holds only texts that are not empty."""
    return Check(lambda value: all(isinstance(item, str) and item for item in value), expected)


def _check_value(declaration: Declaration, value: Any) -> None:
    key = declaration.key
    if declaration.choices and value not in declaration.choices:
        near = difflib.get_close_matches(str(value), declaration.choices, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise refuse(key, value, f"one of {', '.join(declaration.choices)}{hint}")
    if declaration.pairs is not None:
        require(
            all(is_pair(item, declaration.pairs) for item in value),
            key,
            value,
            f"pairs such as {declaration.example}",
        )
    if declaration.check is not None:
        require(declaration.check.accepts(value), key, value, declaration.check.expected)


def is_pair(item: Any, kind: Any) -> bool:
    """Returns whether `item` is a (name, value) pair with a value of `kind`."""
    if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
        return False
    is_misread = isinstance(item[1], bool) and kind not in (bool, object)  # True is an int
    return isinstance(item[1], kind) and not is_misread


def _parse_pairs(text: str, kind: Any) -> Any:
    """Parses `O=0.5,B-PER=2` as (("O", 0.5), ("B-PER", 2)). Returns `text` if it does not have this form.

    A name may contain "=" and ",", as patterns do; a value may not.
    """
    pairs, pieces = [], []
    for piece in text.split(","):
        pieces.append(piece)
        if "=" in piece:
            name, _, value = ",".join(pieces).rpartition("=")
            pairs.append((name.strip(), _parse_value(value.strip(), kind)))
            pieces = []
    return text if pieces else tuple(pairs)


def _parse_value(text: str, kind: Any) -> Any:
    """Returns the value of type `kind` for the text that a user typed, or `text` if it is not such a value."""
    if text.lower() in (words := WORDS.get(kind, {})):
        return words[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # {[]: 1}, "(" * 10_000
        return text
    return text if kind is str and not isinstance(value, str) else value


def _convert_pair(item: Any, kind: Any) -> Any:
    """Returns a pair, with its value converted to `kind` if that is text, as YAML reads 3e-5.

    Whole numbers that devices cannot count become floats if the kind allows them.
    """
    if (
        is_pair(item, int)
        and not isinstance(item[1], bool)
        and abs(item[1]) > MAX_COUNT
        and kind == int | float
    ):
        return item[0], _as_float(item[1])
    if not is_pair(item, str) or kind is str:
        return item
    value = _parse_value(item[1], kind)
    return item if isinstance(value, str) else _convert_pair((item[0], value), kind)


def _as_float(value: int) -> float:
    """Returns a number as a float; infinity if it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_plain(value: Any) -> bool:
    """Returns whether JSON can represent a value, with tuples as lists."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | bool | int | float)


def _as_tuple(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((name, _as_tuple(inner)) for name, inner in value.items())
    return tuple(_as_tuple(inner) for inner in value) if isinstance(value, list | tuple) else value
