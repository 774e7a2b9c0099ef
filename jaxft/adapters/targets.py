"""Finds the linear layers that get adapters, by the names of transformers' modules, as PEFT finds them, or by ours.

The weight table of a family maps a kernel to its tensor, and so a linear layer to transformers' module. A name in a
setting stands for all modules, or paths of ours, that end in it; it may be a pattern. "query" and
"attention.self.query" end "bert.encoder.layer.3.attention.self.query", and so does "layer\\.[0-3]\\..*query".
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxft.adapters.base import Target
from jaxft.adapters.registry import METHODS
from jaxft.config.adapter import ALL_LINEAR
from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.errors import UserError
from jaxft.hub.weights import WeightRule, WeightTable
from jaxft.layers import parameter_paths

Shape = tuple[int, ...]


def find_targets(
    settings: AdapterSettings,
    presets: Mapping[str, Sequence[str]],
    table: WeightTable,
    kernels: Mapping[str, Shape],
) -> tuple[Target, ...]:
    """Returns what gets adapters.

    Args:
      settings: the settings of adapters.
      presets: the usual target modules of the model's family; see `models.family.Family`.
      table: maps the model's parameters to tensors.
      kernels: the shapes of the kernels of the backbone's linear layers, by the paths of these layers.

    Raises:
      UserError: a name is of no module, or a layer's number is too high.
    """
    method = METHODS[settings.method]
    if method.make is None:
        return ()
    modules = _list_modules(table, kernels)
    chosen = _choose(
        settings.target_modules or method.list_targets(settings, presets), modules, "target_modules"
    )
    in_layers = _choose_layers(settings, modules)
    inputs = set()
    if settings.method == "ia3":
        names = settings.feedforward_modules or (() if settings.target_modules else presets["ia3_inputs"])
        inputs = _choose(names, modules, "feedforward_modules")
    ranks = _match_values(settings.rank_pattern, modules, "rank_pattern")
    alphas = _match_values(settings.alpha_pattern, modules, "alpha_pattern")
    targets = []
    for module in modules:
        adapted = [name in chosen and name in in_layers for name in module.names]
        if any(adapted):
            targets.append(
                Target(
                    tensor=module.tensor,
                    linears=module.linears,
                    is_stacked=module.is_stacked,
                    ranks=tuple(
                        ranks.get(name, settings.r) if is_adapted else 0
                        for name, is_adapted in zip(module.names, adapted, strict=True)
                    ),
                    alphas=tuple(float(alphas.get(name, settings.alpha)) for name in module.names),
                    reads_input=any(name in inputs for name in module.names),
                )
            )
    if not targets:
        raise UserError(
            f"config.adapter.layers_to_transform={settings.layers_to_transform!r} leaves none of the target modules; "
            "name layers that have some"
        )
    return tuple(targets)


@dataclasses.dataclass(frozen=True)
class _Module:
    """A weight that may get an adapter; see `Target`. `names` are those of transformers' modules, by layer."""

    tensor: str
    linears: tuple[str, ...]
    is_stacked: bool
    names: tuple[str, ...]


def _list_modules(table: WeightTable, kernels: Mapping[str, Shape]) -> list[_Module]:
    """Returns the weights of linear layers, in the order of the table; chunks of one weight belong together."""
    by_tensor: dict[str, list[WeightRule]] = {}
    for rule in table.rules:
        if rule.parameter.removesuffix("/kernel") in kernels and rule.parameter.endswith("/kernel"):
            by_tensor.setdefault(rule.tensor, []).append(rule)
    modules = []
    for tensor, rules in by_tensor.items():
        rules.sort(key=lambda rule: rule.chunk or (0, 1))
        linears = tuple(rule.parameter.removesuffix("/kernel") for rule in rules)
        layers = kernels[linears[0]][0] if rules[0].is_stacked else 1
        name = tensor.removesuffix(".weight")
        names = tuple(name.replace("{layer}", str(layer)) for layer in range(layers))
        modules.append(_Module(tensor, linears, rules[0].is_stacked, names))
    return modules


def _choose(patterns: Iterable[str], modules: Sequence[_Module], setting: str) -> set[str]:
    """Returns the names of the modules that a setting names."""
    patterns = list(patterns)
    if ALL_LINEAR in patterns:
        return {name for module in modules for name in module.names}
    return set(_match_values([(pattern, True) for pattern in patterns], modules, setting))


def _match_values(
    pairs: Sequence[tuple[str, Any]], modules: Sequence[_Module], setting: str
) -> dict[str, Any]:
    """Returns for each module that a setting names the value of the first pattern that matches it."""
    rules = [(end_pattern(pattern), value) for pattern, value in pairs]
    owners = {name: [name] for module in modules for name in module.names}
    for module in modules:
        owners |= {path: list(module.names) for path in module.linears}
    matched = parameter_paths.match_first(rules, owners, what=f"config.adapter.{setting}")
    return {name: value for match, value in matched.items() for name in owners[match]}


def end_pattern(name: str) -> str:
    """Returns the regex of names that end in `name`, at a dot or a slash, or are `name` themselves."""
    return rf"^(?:.*[./])?(?:{name})$"


def _choose_layers(settings: AdapterSettings, modules: Sequence[_Module]) -> set[str]:
    """Returns the names of the modules in the layers that the settings name; all modules if they name none."""
    numbers = settings.layers_to_transform
    count = max((len(module.names) for module in modules), default=0)
    if numbers and max(numbers) >= count:
        raise UserError(
            f"config.adapter.layers_to_transform={numbers!r}: the model has {count} layers; expected numbers from 0 to "
            f"{count - 1}"
        )
    return {
        name
        for module in modules
        for layer, name in enumerate(module.names)
        if not numbers or (module.is_stacked and layer in numbers)
    }
