"""Maps parameters to a checkpoint's tensors by one table, which serves loading and saving."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft.errors import UserError
from jaxft.layers import parameter_paths


class Transform(NamedTuple):
    """Turns a checkpoint's tensor into a parameter, and back."""

    load: Callable[[np.ndarray], np.ndarray]
    save: Callable[[np.ndarray], np.ndarray]


TRANSFORMS = {
    "none": Transform(lambda x: x, lambda x: x),
    "transpose": Transform(lambda x: x.T, lambda x: x.T),
    # PyTorch's [out, in, height, width] is [height, width, in, out] here.
    "convolution": Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
    "first": Transform(lambda x: x[0], lambda x: x[None]),  # of an axis of size 1
}
FLOATING_DTYPES = ("float64", "float32", "float16", "bfloat16")  # of tensors that become parameters


@dataclass(frozen=True, slots=True)
class WeightRule:
    """A parameter, and the checkpoint's tensor that holds it.

    Attributes:
      parameter: the parameter's path.
      tensor: the tensor's name. If it contains `{layer}`, the parameter is the stack `[num_layers, ...]` of the layers'
        tensors.
      transform: a key of `TRANSFORMS`.
      chunk: (index, count) if the transformed tensor holds `count` parameters of equal width next to each other in its
        last axis. This parameter is at `index`. Each of the others has its own rule.
      unused: the value of the first layer in a stack, if nothing reads it and no tensor holds it.
    """

    parameter: str
    tensor: str
    transform: str = "none"
    chunk: tuple[int, int] | None = None
    unused: float | None = None

    @property
    def is_stacked(self) -> bool:
        """Returns whether the parameter holds all layers, and the checkpoint a tensor for each layer."""
        return "{layer}" in self.tensor

    def tensor_names(self, shape: tuple[int, ...]) -> list[str]:
        """Returns the names of the tensors of the parameter, which has shape `shape`: one, or one for each layer."""
        if not self.is_stacked:
            return [self.tensor]
        return [self.tensor.replace("{layer}", str(layer)) for layer in range(self.first_layer, shape[0])]

    @property
    def first_layer(self) -> int:
        """Returns the number of the first layer that has a tensor."""
        return 0 if self.unused is None else 1


def make_norm_rules(parameter: str, tensor: str, *, skips_first_layer: bool = False) -> list[WeightRule]:
    """Returns the rules of a LayerNorm, for its parameter path and its tensor name without their last parts.

    The first layer of a stack may have no norm. Its values are then those of a new one.
    """
    return [
        WeightRule(f"{parameter}/scale", f"{tensor}.weight", unused=1.0 if skips_first_layer else None),
        WeightRule(f"{parameter}/bias", f"{tensor}.bias", unused=0.0 if skips_first_layer else None),
    ]


def make_linear_rules(parameter: str, tensor: str, chunk: tuple[int, int] | None = None) -> list[WeightRule]:
    """Returns the rules of a linear layer, for its parameter path and its tensor name without their last parts."""
    return [
        WeightRule(f"{parameter}/kernel", f"{tensor}.weight", "transpose", chunk),
        WeightRule(f"{parameter}/bias", f"{tensor}.bias", chunk=chunk),
    ]


@dataclass(frozen=True, slots=True)
class WeightTable:
    """The rules of an architecture.

    Attributes:
      rules: one for each parameter.
      canonical: (regex, replacement) pairs, applied in order, that turn a checkpoint's tensor names into those of the
        rules. They handle names of older versions and missing prefixes.
      ignore: regexes (`re.search`) for canonical names of tensors that may stay unused, such as other tasks' heads.
      file_names: pairs as in `canonical` that turn names of the rules, which are those of transformers' modules, into
        those of its files.
      constants: tensors by name that files have, but that nothing reads: they are written with these values.
    """

    rules: Sequence[WeightRule]
    canonical: Sequence[tuple[str, str]] = ()
    ignore: Sequence[str] = ()
    file_names: Sequence[tuple[str, str]] = ()
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The result of loading a checkpoint. Its text is for the log.

    Attributes:
      loaded: the names of the loaded tensors, as in the checkpoint.
      ignored: the names of the other tensors.
      new: the paths of parameters that are still to be initialized.
    """

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
    """Makes the parameters of a model from a checkpoint's tensors.

    Args:
      table: the rules of the architecture.
      tensors: the checkpoint's tensors by name.
      abstract: the shape and dtype of each parameter by path.
      new: regexes for paths of parameters that are to be initialized, not loaded. The result does not contain them. If
        the checkpoint has tensors for them, these count as ignored.
      place: turns a path and its array into the parameter. It is called as soon as a parameter is read, so that at most
        one is held here.
      source: the checkpoint's name in errors.

    Returns:
      The parameters by path, and a report.

    Raises:
      UserError: a parameter has no tensor, neither the rules nor the ignore list know a tensor, a tensor has the wrong
        shape, or two tensors are for the same parameter. The message names both sides.
    """
    new_paths = parameter_paths.match_first(
        [(pattern, True) for pattern in new], abstract, what="new parameters"
    )
    originals = canonical_names(table, tensors, source)
    rules = {rule.parameter: rule for rule in table.rules}
    parameters: dict[str, Any] = {}
    report = LoadReport(new=list(new_paths))
    replaced: set[str] = set()
    used: dict[str, None] = {}  # in loading order; a tensor of several chunks counts once
    for path, leaf in abstract.items():
        if path in new_paths:
            if path in rules:  # the checkpoint may have another head of this name
                replaced.update(rules[path].tensor_names(leaf.shape))
            continue
        rule = _rule_for(rules, path)
        names = rule.tensor_names(leaf.shape)
        missing = [name for name in names if name not in originals]
        if missing:
            raise UserError(
                f"{source} has no tensor {missing[0]!r}, which the parameter {path!r} {leaf.shape} "
                f"is to be loaded from; {_nearby(missing[0], originals)}"
            )
        layers = [_convert(rule, leaf.shape, name, tensors[originals[name]], source) for name in names]
        if rule.unused is not None:
            layers.insert(0, np.full(leaf.shape[1:], rule.unused, leaf.dtype))
        value = np.stack(layers) if rule.is_stacked else layers[0]
        parameters[path] = place(path, np.ascontiguousarray(value, dtype=leaf.dtype))
        del layers, value
        used |= dict.fromkeys(originals[name] for name in names)

    report.loaded.extend(used)
    for name, original in originals.items():
        if original in used or name in table.constants:
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
    """Returns the checkpoint's tensors by canonical name, for parameters by path.

    It is the inverse of `load_weights`, bit for bit.

    Raises:
      UserError: the table has no rule for a parameter, or some chunks of a tensor are missing.
    """
    rules = {rule.parameter: rule for rule in table.rules}
    tensors: dict[str, np.ndarray] = {}
    incomplete: dict[str, dict[int, np.ndarray]] = {}  # chunks by tensor and index
    for path, value in parameters.items():
        rule = _rule_for(rules, path)
        value = np.asarray(value)
        transform = TRANSFORMS[rule.transform].save
        layers = value[rule.first_layer :] if rule.is_stacked else [value]
        for name, layer in zip(rule.tensor_names(value.shape), layers, strict=True):
            if rule.chunk is None:
                tensors[name] = np.ascontiguousarray(transform(layer))
                continue
            index, count = rule.chunk
            chunks = incomplete.setdefault(name, {})
            chunks[index] = layer
            if len(chunks) == count:
                joined = np.concatenate([chunks[i] for i in range(count)], axis=-1)
                tensors[name] = np.ascontiguousarray(transform(joined))
                del incomplete[name]
    if incomplete:
        name, chunks = next(iter(incomplete.items()))
        raise UserError(
            f"the tensor {name!r} needs all its parts; only those numbered {sorted(chunks)} are there"
        )
    return tensors


def make_file_tensors(table: WeightTable, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the content of a file of transformers, for all tensors of a model from `save_weights`."""
    return {file_name(table, name): tensor for name, tensor in {**table.constants, **tensors}.items()}


def file_name(table: WeightTable, name: str) -> str:
    """Returns the name that files of transformers have for a tensor of the table."""
    return _rename(name, table.file_names)


def has_tensors(table: WeightTable, tensors: Mapping[str, np.ndarray], prefix: str) -> bool:
    """Returns whether a checkpoint has a tensor of a parameter whose path begins with `prefix`."""
    names = {rule.tensor for rule in table.rules if rule.parameter.startswith(prefix)}
    return not names.isdisjoint(canonical_names(table, tensors, "the checkpoint"))


def canonical_names(table: WeightTable, tensors: Mapping[str, np.ndarray], source: str) -> dict[str, str]:
    """Returns the name of each tensor in `source`, such as a checkpoint, by its canonical name."""
    originals: dict[str, str] = {}
    for original in tensors:
        name = _rename(original, table.canonical)
        if name in originals:
            raise UserError(
                f"{source} has both {originals[name]!r} and {original!r}, which mean one parameter"
            )
        originals[name] = original
    return originals


def _rule_for(rules: Mapping[str, WeightRule], path: str) -> WeightRule:
    """Returns the rule of a parameter; raises `UserError` if there is none."""
    if path not in rules:
        raise UserError(f"the weight table has no rule for the parameter {path!r}; it knows {sorted(rules)}")
    return rules[path]


def _rename(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Returns a name after replacements by regexes, in order."""
    for pattern, replacement in pairs:
        name = re.sub(pattern, replacement, name)
    return name


def _convert(
    rule: WeightRule, shape: tuple[int, ...], name: str, tensor: np.ndarray, source: str
) -> np.ndarray:
    """Converts a tensor, or the rule's chunk of it, to the parameter's value for one layer.

    Raises `UserError` if the tensor does not have the shape that the parameter of `shape` needs, or no floating dtype.
    """
    layer_shape = shape[1:] if rule.is_stacked else shape
    transform = TRANSFORMS[rule.transform]
    transformed_shape = layer_shape
    if rule.chunk is not None:
        index, count = rule.chunk
        *others, width = layer_shape
        transformed_shape = (*others, width * count)
    expected = transform.save(np.empty(transformed_shape, np.bool_)).shape
    if tensor.shape != expected:
        raise UserError(
            f"{source}: the tensor {name!r} has the shape {tuple(tensor.shape)}, but {expected} is expected "
            f"for the parameter {rule.parameter!r} {tuple(shape)}; do config.json and the weights belong together?"
        )
    if tensor.dtype.name not in FLOATING_DTYPES:
        raise UserError(
            f"{source}: the tensor {name!r} has dtype {tensor.dtype.name}; expected one of {', '.join(FLOATING_DTYPES)}"
        )
    transformed = transform.load(tensor)
    return transformed if rule.chunk is None else transformed[..., index * width : (index + 1) * width]


def _nearby(name: str, originals: Mapping[str, str]) -> str:
    """Describes, for a message, the checkpoint's tensors whose names end like `name`."""
    ending = ".".join(name.split(".")[-2:])
    close = [original for canonical, original in originals.items() if canonical.endswith(ending)][:3]
    shown = close or list(originals.values())[:3]
    return f"it has {len(originals)} tensors, such as {', '.join(map(repr, shown)) or '(none)'}"


def _nearby_rule(name: str, table: WeightTable) -> str:
    """Describes, for a message, the rules for tensors whose names end like `name`."""
    ending = ".".join(name.split(".")[-2:])
    close = [rule.tensor for rule in table.rules if rule.tensor.endswith(ending)][:3]
    shown = close or [rule.tensor for rule in table.rules][:3]
    return f"The table has {len(table.rules)} rules, such as {', '.join(map(repr, shown))}."
