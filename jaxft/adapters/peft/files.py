"""Reads adapters from PEFT's files, and writes them: the settings in adapter_config.json, and what was trained.

docs/adapters.md describes the files.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.adapters.base import Target
from jaxft.adapters.peft.tensors import (
    DORA,
    IA3,
    LORA,
    START,
    AdapterTensor,
    from_peft,
    list_names,
    to_peft,
)
from jaxft.adapters.plan import AdapterPlan, is_adapter
from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.errors import UserError
from jaxft.hub.adapter_files import CONFIG, MODEL_CONFIG, AdapterFiles
from jaxft.hub.files import read_json_object
from jaxft.hub.weights import WeightTable, load_weights, save_weights
from jaxft.layers.heads.kinds import HeadKind

METHODS = {"LORA": "lora", "IA3": "ia3"}  # PEFT's names of methods, and ours
TASK_TYPES = {
    HeadKind.TOKEN: "TOKEN_CLS",
    HeadKind.SEQUENCE: "SEQ_CLS",
    HeadKind.QUESTION: "QUESTION_ANS",
    HeadKind.NEXT_TOKEN: "CAUSAL_LM",
}
# PEFT adds some to `modules_to_save`; heads are always trained here.
HEADS = ("classifier", "score", "qa_outputs")
SETTINGS = {  # of LoRA: PEFT's names, and ours
    "r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "bias": "bias",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
# Keys that change nothing of a trained adapter, or say what tensors say too.
IGNORED = (
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
    *("inference_mode", "fan_in_fan_out", "init_lora_weights", "init_ia3_weights", "modules_to_save"),
    *("target_modules", "feedforward_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("megatron_core", "qalora_group_size", "eva_config"),
)
# Initializations that leave the base weights as they are.
PLAIN_INITS = (None, True, False, "true", "gaussian", "orthogonal", "eva")


def read_settings(adapter: AdapterFiles) -> dict[str, Any]:
    """Returns the settings of `config.adapter` that describe an adapter of PEFT, by name.

    Raises:
      UserError: jaxft does not support the method, or something that the adapter's config asks for.
    """
    config, where = adapter.config, f"{adapter.folder}/{CONFIG}"
    method = METHODS.get(config["peft_type"])
    if method is None:
        raise UserError(
            f"{where}: the method is {config['peft_type']!r}; expected {' or '.join(METHODS)}; merge the adapter in "
            "PEFT (merge_and_unload), and start from the merged model"
        )
    for key, value in config.items():
        is_read = key in IGNORED or (method == "lora" and key in SETTINGS)
        if not is_read and value not in (None, False, [], {}, ""):
            raise UserError(f"{where}: {key!r} is {value!r}, which jaxft does not support; expected none")
    settings: dict[str, Any] = {"method": method}
    modules = _modules_with(adapter.tensors, _tensors_of(method, use_dora=False)[0].suffix)
    settings["target_modules"] = _join_layers(modules)
    if method == "lora":
        values = {SETTINGS[key]: value for key, value in config.items() if key in SETTINGS}
        settings |= {
            name: tuple((value or {}).items()) if name.endswith("_pattern") else value
            for name, value in values.items()
        }
        settings["init_lora_weights"] = _read_init(config.get("init_lora_weights"), where)
    else:
        scaled = [name for name in modules if adapter.tensors[f"{name}.ia3_l"].shape[0] == 1]
        settings["feedforward_modules"] = _join_layers(scaled)
    saved = [name for name in config.get("modules_to_save") or () if name not in HEADS]
    settings["modules_to_save"] = tuple(dict.fromkeys(saved))
    return settings


def _tensors_of(method: str, *, use_dora: bool) -> Sequence[AdapterTensor]:
    """Returns the tensors of a method."""
    return IA3 if method == "ia3" else DORA if use_dora else LORA


def _modules_with(tensors: Mapping[str, Any], suffix: str) -> list[str]:
    """Returns the names of the modules that have a tensor of a name."""
    return [name.removesuffix(f".{suffix}") for name in tensors if name.endswith(f".{suffix}")]


def _join_layers(modules: Sequence[str]) -> tuple[str, ...]:
    r"""Returns patterns of exactly these modules, such as "(0|1)\.attention\.self\.query" for those of two layers."""
    layers: dict[str, list[str]] = {}
    for module in modules:
        stacked = re.fullmatch(r".*?\.(\d+)\.(.+)", module)
        numbers = layers.setdefault(re.escape(stacked[2] if stacked else module), [])
        numbers += [stacked[1]] if stacked else []
    return tuple(
        rf"({'|'.join(sorted(numbers, key=int))})\.{name}" if numbers else name
        for name, numbers in sorted(layers.items())
    )


def _read_init(init: Any, where: str) -> str:
    """Returns our name of an initialization; raises `UserError` for one that changed the base weights by chance."""
    if init in ("pissa", "olora"):
        return init
    if init not in PLAIN_INITS:
        raise UserError(
            f"{where}: init_lora_weights is {init!r}, which changed the base weights in a way that cannot be repeated; "
            "convert the adapter in PEFT (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    return "true"


def load_adapter(
    adapter: AdapterFiles,
    plan: AdapterPlan,
    table: WeightTable,
    parameters: Mapping[str, Any],
    find_head_order: Callable[[Mapping[str, Any]], list[int] | None],
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the parameters by path that an adapter of PEFT holds, and a line about them for the log.

    These are the parameters of adapters, the head, biases, and modules that were trained completely. The head is left
    out if it is for other labels.

    Args:
      adapter: the adapter.
      plan: what the run trains, by the settings of `read_settings`.
      table: maps the parameters of the model, with its head, to tensors.
      parameters: the parameters by path, perhaps in the abstract.
      find_head_order: returns the number of each of the run's labels among the outputs of a head, from the config.json
        of its model; None for other labels.

    Raises:
      UserError: the adapter and the model do not belong together.
    """
    source, tensors = str(adapter.folder), adapter.tensors
    entries = _tensors_of(plan.settings.method, use_dora=plan.settings.use_dora)
    loaded = from_peft(entries, plan.targets, parameters, tensors, source)
    others = {name: tensors[name] for name in tensors.keys() - list_names(entries, plan.targets)}
    if embeddings := [name for name in others if "lora_embedding_" in name]:
        raise UserError(
            f"{source}: the tensor {embeddings[0]!r} is an adapter of embeddings, which jaxft does not support; merge "
            "the adapter in PEFT (merge_and_unload), and start from the merged model"
        )
    rules = {rule.parameter: rule for rule in table.rules}
    stored = {
        path: value
        for path, value in parameters.items()
        if path in rules and not others.keys().isdisjoint(rules[path].tensor_names(value.shape))
    }
    head = {path: rules[path].tensor for path in stored if not path.startswith("backbone/")}
    fits = all(others[name].size == math.prod(parameters[path].shape) for path, name in head.items())
    order, note = _match_head(adapter.folder / MODEL_CONFIG, find_head_order, fits) if head else (None, "")
    if order == []:
        for path, name in head.items():
            del others[name], stored[path]
    weights, _ = load_weights(table, others, stored, source=source)
    if order:
        weights |= {path: weights[path][..., order] for path in head if path.rpartition("/")[0] == "head"}
    return loaded | weights, f"{source}: {len(loaded) + len(weights)} parameters of an adapter{note}"


def _match_head(
    path: Path, find_head_order: Callable[[Mapping[str, Any]], list[int] | None], fits: bool
) -> tuple[list[int] | None, str]:
    """Returns the order of a head's outputs, and what to log of it; None keeps the order, [] leaves the head out.

    PEFT's files do not say what the outputs mean. Those of jaxft have a config.json next to them that does.

    Args:
      path: that config.json.
      find_head_order: see `load_adapter`.
      fits: whether the head has as many outputs as that of the run.
    """
    if not path.is_file():
        if fits:
            return (
                None,
                "; nothing says what its head is for, so its outputs are taken for the labels in their order",
            )
        return [], "; its head has another number of outputs, so the head is new"
    if (order := find_head_order(read_json_object(path))) is None:
        return [], "; its head is for other labels, so the head is new"
    return order, f"; its head is kept, for it has the same {len(order)} labels"


def save_adapter(
    plan: AdapterPlan, table: WeightTable, trained: Mapping[str, np.ndarray], kind: HeadKind
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the tensors and the config of an adapter in PEFT's files.

    PiSSA and OLoRA become a LoRA of twice the rank, because PEFT would compute their first values again.

    Args:
      plan: what the run trains.
      table: maps the parameters of the model, with its head, to tensors.
      trained: the parameters by path, but those of the base that were not trained.
      kind: the kind of the head.

    Raises:
      UserError: PEFT has no such method, or no place for the head.
    """
    settings, targets = plan.settings, plan.targets
    peft_type = next((theirs for theirs, ours in METHODS.items() if ours == settings.method), None)
    if peft_type is None:
        advice = (
            "leave --format out"
            if plan.method.can_merge
            else "keep the run, and use it by predict or evaluate"
        )
        raise UserError(
            f"--format peft: PEFT has no method for config.adapter.method={settings.method!r}; {advice}"
        )
    if kind not in TASK_TYPES:
        raise UserError(
            f"--format peft: PEFT's files have no place for the heads of this task ({kind.value}); leave --format out"
        )
    tensors = to_peft(_tensors_of(settings.method, use_dora=settings.use_dora), targets, trained)
    factor = 1
    for name, start in to_peft(START, targets, trained).items():
        is_a, factor = name.endswith(START[0].suffix), 2
        tensors[name] = np.concatenate([tensors[name], start if is_a else -start], axis=0 if is_a else 1)
    others = {path: value for path, value in trained.items() if not is_adapter(path)}
    adapted = {module for target in targets for module in _ranks(target)}
    for name, tensor in save_weights(table, others).items():
        module, _, leaf = name.rpartition(".")
        tensors[f"{module}.base_layer.{leaf}" if module in adapted else name] = tensor
    config: dict[str, Any] = {
        "peft_type": peft_type,
        "task_type": TASK_TYPES[kind],
        "inference_mode": True,
        "fan_in_fan_out": _has_transposed(targets, table),
        "target_modules": [name for target in targets for name in _name_modules(target, table)],
        "modules_to_save": _name_saved(plan, table, others),
    }
    return tensors, config | _describe_method(settings, targets, table, factor)


def _ranks(target: Target) -> dict[str, int]:
    """Returns the rank of each module of a target that has an adapter."""
    return {module: rank for module, rank in zip(target.modules, target.ranks, strict=True) if rank}


def _has_transposed(targets: Sequence[Target], table: WeightTable) -> bool:
    """Returns whether tensors of the targets are `[in, out]`, as kernels are here."""
    transforms = {rule.tensor: rule.transform for rule in table.rules}
    return all(transforms[target.tensor] == "none" for target in targets)


def _name_modules(target: Target, table: WeightTable) -> list[str]:
    """Returns names whose modules PEFT finds to be those of a target: one of all layers, or else all names in full."""
    name = target.tensor.removesuffix(".weight")
    ending = name.rpartition("{layer}.")[2]
    others = {rule.tensor.removesuffix(".weight") for rule in table.rules} - {name}
    if all(target.ranks) and not any(f".{other}".endswith(f".{ending}") for other in others):
        return [ending]
    return list(_ranks(target))


def _name_saved(plan: AdapterPlan, table: WeightTable, others: Mapping[str, np.ndarray]) -> list[str] | None:
    """Returns the modules that were trained completely: heads, and those of `modules_to_save`."""
    names: dict[str, None] = {}
    for rule in table.rules:
        if rule.parameter not in others:
            continue
        if not rule.parameter.startswith("backbone/"):
            names[rule.tensor.partition(".")[0]] = None
        elif rule.parameter in plan.saved:
            tensors = rule.tensor_names(others[rule.parameter].shape)
            names |= {tensor.rpartition(".")[0]: None for tensor in tensors}
    return list(names) or None


def _describe_method(
    settings: AdapterSettings, targets: Sequence[Target], table: WeightTable, factor: int
) -> dict[str, Any]:
    """Returns the keys of adapter_config.json that only the method has; LoRA's ranks are multiplied by `factor`."""
    if settings.method == "ia3":
        inputs = [target for target in targets if target.reads_input]
        return {"feedforward_modules": [name for target in inputs for name in _name_modules(target, table)]}
    scale = factor ** (0.5 if settings.use_rslora else 1.0)  # the scale of products stays the same
    r, alpha = factor * settings.r, scale * settings.alpha
    ranks = {name: factor * rank for target in targets for name, rank in _ranks(target).items()}
    alphas = {
        name: scale * value
        for target in targets
        for name, value in zip(target.modules, target.alphas, strict=True)
    }
    return {
        "r": r,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "rank_pattern": {re.escape(name): rank for name, rank in ranks.items() if rank != r},
        "alpha_pattern": {re.escape(name): value for name, value in alphas.items() if value != alpha},
        "lora_dropout": settings.dropout,
        "bias": settings.bias,
        "use_rslora": settings.use_rslora,
        "use_dora": settings.use_dora,
    }
