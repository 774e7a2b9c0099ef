"""Names parameters by slash-separated paths and matches them against ordered regex rules."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import regex

from jaxft.errors import UserError

Value = TypeVar("Value")

# For all names and rules together. Usual patterns take milliseconds; `(a+)+$` would never end.
PATIENCE_S = 5.0


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Turns nested dicts into one dict with keys such as `"a/b/c"`, in the order of the tree. Drops empty dicts.

    Raises:
      ValueError: a key contains a slash, so that `unflatten` could not restore it.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if "/" in str(key):
            raise ValueError(f"the key {key!r} contains a slash, the separator of paths")
        if isinstance(value, Mapping):
            flat.update({f"{key}/{path}": leaf for path, leaf in flatten(value).items()})
        else:
            flat[str(key)] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turns a dict with keys such as `"a/b/c"` back into nested dicts: the inverse of `flatten`.

    Raises:
      ValueError: a path is a leaf and also a folder of another path.
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise ValueError(f"the path {path!r} passes through a leaf")
        if name in node:
            raise ValueError(f"the path {path!r} is a leaf and also a folder")
        node[name] = leaf
    return tree


def match_first(
    rules: Sequence[tuple[str, Value]],
    names: Iterable[str],
    *,
    what: str,
    require_cover: bool = False,
    allow_unused: bool = False,
) -> dict[str, Value]:
    """Returns for each name the value of the first rule whose regex is found in it, as by `re.search`.

    For example, `"bias$"` matches any path that ends in "bias", and `"^head/"` matches only paths that begin with
    "head/". The result omits names that no rule matches.

    Args:
      rules: pairs of a regex and a value.
      names: parameter paths, or similar names.
      what: the purpose of the rules, for messages.
      require_cover: whether a rule must match each name.
      allow_unused: whether a rule may match no name.

    Raises:
      UserError: a regex does not compile, or takes more than `PATIENCE_S` seconds; a rule matches no name, or no rule
        matches a name.
    """
    names = list(names)
    compiled = [(_compile(pattern, what), value) for pattern, value in rules]
    deadline = time.monotonic() + PATIENCE_S

    def matches(pattern: regex.Pattern, name: str) -> bool:
        try:
            return pattern.search(name, timeout=max(deadline - time.monotonic(), 0.001)) is not None
        except TimeoutError:
            raise UserError(
                f"{what}: the pattern {pattern.pattern!r} takes more than {PATIENCE_S:g} s to search {name!r}; write "
                "it without a repetition inside of a repetition, such as (a+)+"
            ) from None

    if not allow_unused:
        for pattern, _ in compiled:
            if not any(matches(pattern, name) for name in names):
                raise UserError(
                    f"{what}: the pattern {pattern.pattern!r} matches nothing; the names are {_list_names(names)}"
                )

    values: dict[str, Value] = {}
    for name in names:
        for pattern, value in compiled:
            if matches(pattern, name):
                values[name] = value
                break
    uncovered = [name for name in names if name not in values]
    if require_cover and uncovered:
        patterns = [pattern for pattern, _ in rules]
        raise UserError(
            f"{what}: no pattern matches {_list_names(uncovered)}; the patterns are {_list_names(patterns)}"
        )
    return values


def _compile(pattern: str, what: str) -> regex.Pattern:
    """Returns a regex of the syntax of `re`, whose search can be given a time limit."""
    try:
        re.compile(pattern)
        return regex.compile(pattern)
    except (re.error, regex.error, OverflowError, RecursionError) as error:  # a{10**30}, "(" * 10_000
        raise UserError(f"{what}: the pattern {pattern!r} is not a regular expression: {error}") from None


def _list_names(names: Sequence[str], limit: int = 40) -> str:
    """Lists quoted names for a message. Cuts the list after `limit` names, because there may be hundreds."""
    shown = ", ".join(repr(name) for name in names[:limit]) or "(none)"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
