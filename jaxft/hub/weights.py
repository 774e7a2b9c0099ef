"""Reads one table of parameter names in both directions: checkpoint to model and model to checkpoint."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxft.errors import UserError
from jaxft.layers import parameter_paths

# Each transform is its own inverse, so that one name serves import and export.
TRANSFORMS = {"none": lambda x: x, "transpose": lambda x: x.T}


@dataclass(frozen=True, slots=True)
class WeightRule:
    """One parameter of ours and its name in the checkpoint.

    With `{layer}` in `theirs`, our parameter is the stack `[num_layers, ...]` of the layers' tensors.
    With `part` (index, count), it is one of `count` equal parts, side by side in the tensor's last axis;
    the other parts have rules of their own.
    """

    ours: str
    theirs: str
    transform: str = "none"
    part: tuple[int, int] | None = None


def norm_rules(ours: str, theirs: str) -> list[WeightRule]:
    """The rules of a LayerNorm."""
    return [WeightRule(f"{ours}/scale", f"{theirs}.weight"), WeightRule(f"{ours}/bias", f"{theirs}.bias")]


@dataclass(frozen=True, slots=True)
class WeightTable:
    """All rules of an architecture.

    canonical: (regex, replacement) pairs, applied in order to a checkpoint's names before any rule, for
        names of older versions and left-out prefixes.
    ignore: regexes (`re.search`) of canonical names that may stay unused, such as other tasks' heads.
    """

    rules: Sequence[WeightRule]
    canonical: Sequence[tuple[str, str]] = ()
    ignore: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What an import did: tensors `loaded` and `ignored` by their checkpoint names, paths left `new`."""

    loaded: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        if self.ignored:
            text += f"; not used: {', '.join(self.ignored)}"
        if self.new:
            text += f"; newly initialized: {', '.join(self.new)}"
        return text


def load_weights(
    table: WeightTable,
    tensors: Mapping[str, np.ndarray],
    abstract: Mapping[str, jax.ShapeDtypeStruct],
    *,
    new: Sequence[str] = (),
    place: Callable[[str, np.ndarray], Any] = lambda path, value: value,
    source: str = "the checkpoint",
) -> tuple[dict[str, Any], LoadReport]:
    """Fills the parameters of `abstract`, keyed by path, from a checkpoint's tensors, keyed by name.

    `new`: regexes of paths that are to be initialized, not loaded; they are absent from the result. Their
    counterparts in the checkpoint, if any, count as ignored. Arrays have the abstract dtype. `place`: given a path and
    its array, one at a time, so that no more is held here; what it returns is the parameter.

    Raises UserError, naming both sides, for a parameter without tensor, a tensor that neither the rules nor
    the ignore list know, a tensor of the wrong shape, and two tensors that mean the same parameter.
    """
    fresh = parameter_paths.first_match([(pattern, True) for pattern in new], abstract, what="new parameters")
    names = _canonical_names(table, tensors, source)
    rules = {rule.ours: rule for rule in table.rules}
    parameters: dict[str, Any] = {}
    report = LoadReport(new=list(fresh))
    replaced: set[str] = set()
    used: dict[str, None] = {}  # in the order of loading; parts of one tensor count once
    for path, wanted in abstract.items():
        if path in fresh:
            if path in rules:  # another head may stand in its place
                replaced.update(_names_of(rules[path], wanted.shape))
            continue
        rule = _rule_for(rules, path)
        theirs = _names_of(rule, wanted.shape)
        missing = [name for name in theirs if name not in names]
        if missing:
            raise UserError(
                f"{source} has no tensor {missing[0]!r}, which the parameter {path!r} {wanted.shape} "
                f"is to be loaded from; {_nearby(missing[0], names)}"
            )
        layers = [_fitting(rule, path, wanted.shape, name, tensors[names[name]], source) for name in theirs]
        whole = np.stack(layers) if "{layer}" in rule.theirs else layers[0]
        parameters[path] = place(path, np.ascontiguousarray(whole, dtype=wanted.dtype))
        del layers, whole
        used |= dict.fromkeys(names[name] for name in theirs)

    report.loaded.extend(used)
    for name, original in names.items():
        if original in used:
            continue
        if name not in replaced and not any(re.search(pattern, name) for pattern in table.ignore):
            raise UserError(
                f"{source} has a tensor {original!r} {tuple(tensors[original].shape)} that the model has no "
                f"parameter for; the model's sizes (config.json) and the weights do not belong together, "
                f"or the checkpoint is of another architecture. {_nearby_rule(name, table)}"
            )
        report.ignored.append(original)
    return parameters, report


def save_weights(
    table: WeightTable, parameters: Mapping[str, np.ndarray | jax.Array]
) -> dict[str, np.ndarray]:
    """Gives the checkpoint's tensors, keyed by their canonical names, for parameters keyed by path.

    The inverse of `load`, bit for bit. Raises UserError for a parameter that the table does not know, and
    for a tensor of which only some parts are there.
    """
    rules = {rule.ours: rule for rule in table.rules}
    tensors: dict[str, np.ndarray] = {}
    pieces: dict[str, dict[int, np.ndarray]] = {}
    for path, value in parameters.items():
        rule = _rule_for(rules, path)
        value = np.asarray(value)
        transform = TRANSFORMS[rule.transform]
        layers = value if "{layer}" in rule.theirs else [value]
        for name, layer in zip(_names_of(rule, value.shape), layers, strict=True):
            if rule.part is None:
                tensors[name] = np.ascontiguousarray(transform(layer))
                continue
            index, count = rule.part
            parts = pieces.setdefault(name, {})
            parts[index] = transform(layer)
            if len(parts) == count:
                tensors[name] = np.concatenate([parts[i] for i in range(count)], axis=-1)
                del pieces[name]
    if pieces:
        name, parts = next(iter(pieces.items()))
        raise UserError(
            f"the tensor {name!r} needs all its parts; only those numbered {sorted(parts)} are there"
        )
    return tensors


def _rule_for(rules: Mapping[str, WeightRule], path: str) -> WeightRule:
    if path not in rules:
        raise UserError(f"the weight table has no rule for the parameter {path!r}; it knows {sorted(rules)}")
    return rules[path]


def _names_of(rule: WeightRule, shape: tuple[int, ...]) -> list[str]:
    if "{layer}" not in rule.theirs:
        return [rule.theirs]
    return [rule.theirs.replace("{layer}", str(layer)) for layer in range(shape[0])]


def _canonical_names(table: WeightTable, tensors: Mapping[str, np.ndarray], source: str) -> dict[str, str]:
    """Canonical name -> the checkpoint's own name."""
    names: dict[str, str] = {}
    for original in tensors:
        name = original
        for pattern, replacement in table.canonical:
            name = re.sub(pattern, replacement, name)
        if name in names:
            raise UserError(f"{source} has both {names[name]!r} and {original!r}, which mean one parameter")
        names[name] = original
    return names


def _fitting(
    rule: WeightRule, path: str, shape: tuple[int, ...], name: str, tensor: np.ndarray, source: str
) -> np.ndarray:
    """The transformed tensor, or the rule's part of it, once its shape is known to be right."""
    expected = shape[1:] if "{layer}" in rule.theirs else shape
    transform = TRANSFORMS[rule.transform]
    theirs = transform(np.empty(expected, np.bool_)).shape
    if rule.part is not None:
        index, count = rule.part
        width = theirs[-1]
        theirs = (*theirs[:-1], width * count)
    if tensor.shape != theirs:
        raise UserError(
            f"{source}: the tensor {name!r} has the shape {tuple(tensor.shape)}, but {theirs} is expected "
            f"for the parameter {path!r} {tuple(shape)}; do config.json and the weights belong together?"
        )
    if rule.part is None:
        return transform(tensor)
    return transform(tensor[..., index * width : (index + 1) * width])


def _nearby(name: str, names: Mapping[str, str]) -> str:
    """What the checkpoint has that ends like `name`, for a message."""
    ending = ".".join(name.split(".")[-2:])
    close = [original for canonical, original in names.items() if canonical.endswith(ending)][:3]
    shown = close or list(names.values())[:3]
    return f"it has {len(names)} tensors, such as {', '.join(map(repr, shown)) or '(none)'}"


def _nearby_rule(name: str, table: WeightTable) -> str:
    ending = ".".join(name.split(".")[-2:])
    close = [rule.theirs for rule in table.rules if rule.theirs.endswith(ending)][:3]
    shown = close or [rule.theirs for rule in table.rules][:3]
    return f"The table has {len(table.rules)} rules, such as {', '.join(map(repr, shown))}."
