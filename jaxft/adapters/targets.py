"""Finds the linear layers that get adapters, by the names of transformers' modules, as PEFT finds them, or by ours.

The weight table of a family maps a kernel to its tensor, and so a linear layer to transformers' module. A name in a
setting stands for all modules, or paths of ours, that end in it; it may be a pattern. "query" and
"attention.self.query" end "bert.encoder.layer.3.attention.self.query", and so does "layer\\.[0-3]\\..*query". Modules
also have their names in transformers' files, which are those of its older versions.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxft.adapters.base import Target
from jaxft.adapters.registry import METHODS
from jaxft.config.adapter import ALL_LINEAR
from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.errors import UserError
from jaxft.hub.weights import WeightRule, WeightTable, file_name
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
    candidates = _list_linears(settings, table, kernels)
    if not candidates:
        raise UserError(
            f"config.adapter.method={settings.method!r}: the model has no linear layers that could get adapters; "
            "freeze some of its layers instead (config.optim.freeze), or choose a transformer"
        )
    names = settings.target_modules or method.list_targets(settings, presets)
    chosen = _choose(names, candidates, "target_modules") & _choose_layers(settings, candidates)
    inputs = set()
    if settings.method == "ia3":
        names = settings.feedforward_modules or (() if settings.target_modules else presets["ia3_inputs"])
        inputs = _choose(names, candidates, "feedforward_modules")
    ranks = _match_values(settings.rank_pattern, candidates, "rank_pattern")
    alphas = _match_values(settings.alpha_pattern, candidates, "alpha_pattern")
    targets = tuple(
        dataclasses.replace(
            target,
            ranks=tuple(ranks.get(name, settings.rank) if name in chosen else 0 for name in target.modules),
            alphas=tuple(float(alphas.get(name, settings.alpha)) for name in target.modules),
            reads_input=_reads_input(target, chosen, inputs),
        )
        for target in candidates
        if not chosen.isdisjoint(target.modules)
    )
    if not targets:
        raise UserError(
            f"config.adapter.layers_to_transform={settings.layers_to_transform!r} leaves none of the target modules; "
            "name layers that have some"
        )
    if inputs and not any(target.reads_input for target in targets):
        raise UserError(
            f"config.adapter.feedforward_modules={settings.feedforward_modules!r}: none of them gets an adapter; name "
            "some of config.adapter.target_modules"
        )
    return targets


def _reads_input(target: Target, chosen: set[str], inputs: set[str]) -> bool:
    """Returns whether inputs of a target are scaled; raises `UserError` if those of some of its layers alone are."""
    adapted = chosen.intersection(target.modules)
    scaled, others = adapted & inputs, adapted - inputs
    if scaled and others:
        raise UserError(
            f"config.adapter.feedforward_modules names {min(scaled)}, but not {min(others)}, which also gets an "
            "adapter; expected the same for all layers that get adapters: name them all, or none"
        )
    return bool(scaled)


def _list_linears(
    settings: AdapterSettings, table: WeightTable, kernels: Mapping[str, Shape]
) -> list[Target]:
    """Returns the weights of all linear layers, in the order of the table; chunks of one weight belong together."""
    by_tensor: dict[str, list[WeightRule]] = {}
    for rule in table.rules:
        if rule.parameter.removesuffix("/kernel") in kernels and rule.parameter.endswith("/kernel"):
            by_tensor.setdefault(rule.tensor, []).append(rule)
    targets = []
    for tensor, rules in by_tensor.items():
        rules.sort(key=lambda rule: rule.chunk or (0, 1))
        linears = tuple(rule.parameter.removesuffix("/kernel") for rule in rules)
        layers = kernels[linears[0]][0] if rules[0].is_stacked else 1
        ranks, alphas = (settings.rank,) * layers, (settings.alpha,) * layers
        target = Target(tensor, linears, rules[0].is_stacked, ranks, alphas)
        names = [file_name(table, f"{module}.weight").removesuffix(".weight") for module in target.modules]
        targets.append(dataclasses.replace(target, names_in_files=tuple(names)))
    return targets


def _choose(patterns: Iterable[str], targets: Sequence[Target], setting: str) -> set[str]:
    """Returns the names of the modules that a setting names."""
    patterns = list(patterns)
    if ALL_LINEAR in patterns:
        return {name for target in targets for name in target.modules}
    return set(_match_values([(pattern, True) for pattern in patterns], targets, setting))


def _match_values(
    pairs: Sequence[tuple[str, Any]], targets: Sequence[Target], setting: str
) -> dict[str, Any]:
    """Returns for each module that a setting names the value of the first pattern that matches it."""
    owners = {
        name: [module]
        for target in targets
        for module, name_in_files in zip(target.modules, target.names_in_files, strict=True)
        for name in (module, name_in_files)
    }
    owners |= {path: target.modules for target in targets for path in target.linears}
    first: dict[str, int] = {}  # by module, which its name and our paths may match by different patterns
    for number, (pattern, _) in enumerate(pairs):
        rules, what = [(end_pattern(pattern), number)], f"config.adapter.{setting}"
        matched = parameter_paths.match_first(rules, owners, what=what, allow_unused=True)
        if not matched:
            names = [target.modules[0] for target in targets] + [
                path for target in targets for path in target.linears
            ]
            raise UserError(
                f"{what}: the pattern {pattern!r} matches nothing; expected the end of one of these names, which are "
                f"listed for the first layer: {', '.join(names)}"
            )
        for match in matched:
            for name in owners[match]:
                first.setdefault(name, number)
    return {name: pairs[number][1] for name, number in first.items()}


def end_pattern(name: str) -> str:
    """Returns the regex of names that end in `name`, at a dot or a slash, or are `name` themselves."""
    return rf"^(?:.*[./])?(?:{name})$"


def _choose_layers(settings: AdapterSettings, targets: Sequence[Target]) -> set[str]:
    """Returns the names of the modules in the layers that the settings name; all modules if they name none."""
    numbers = settings.layers_to_transform
    count = max((len(target.ranks) for target in targets), default=0)
    if numbers and max(numbers) >= count:
        raise UserError(
            f"config.adapter.layers_to_transform={numbers!r}: the model has {count} layers; expected numbers from 0 to "
            f"{count - 1}"
        )
    return {
        name
        for target in targets
        for layer, name in enumerate(target.modules)
        if not numbers or (target.is_stacked and layer in numbers)
    }
