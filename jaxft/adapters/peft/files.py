"""Reads what was trained from PEFT's files of an adapter, and writes these files; docs/adapters.md describes them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxft.adapters.peft.config import TASK_TYPES, describe_adapter
from jaxft.adapters.peft.tensors import START, drop_zero_ranks, from_peft, list_names, tensors_of, to_peft
from jaxft.adapters.peft.virtual_tokens import (
    TENSOR,
    describe_virtual_tokens,
    load_virtual_tokens,
    save_virtual_tokens,
)
from jaxft.adapters.plan import AdapterPlan, is_adapter
from jaxft.errors import UserError
from jaxft.hub.adapter_files import MODEL_CONFIG, AdapterFiles
from jaxft.hub.files import read_json_object
from jaxft.hub.weights import WeightTable, canonical_names, load_weights, save_weights
from jaxft.layers.heads.kinds import HeadKind


def load_adapter(
    adapter: AdapterFiles,
    plan: AdapterPlan,
    table: WeightTable,
    parameters: Mapping[str, Any],
    kind: HeadKind,
    find_head_order: Callable[[Mapping[str, Any]], list[int] | None],
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the parameters by path that an adapter of PEFT holds, and a line about them for the log.

    These are the parameters of adapters, the head, biases, and modules that were trained completely. The head is left
    out if it is of another kind or for other labels.

    Args:
      adapter: the adapter.
      plan: what the run trains, by the settings of `read_settings`.
      table: maps the parameters of the model, with its head, to tensors.
      parameters: the parameters by path, perhaps in the abstract.
      kind: the kind of the model's head.
      find_head_order: returns the number of each of the run's labels among the outputs of a head, from the config.json
        of its model; None for other labels.

    Raises:
      UserError: the adapter and the model do not belong together.
    """
    source = str(adapter.folder)
    names = canonical_names(table, adapter.tensors, source)  # those of a ViT were others in transformers 4
    tensors = {name: adapter.tensors[original] for name, original in names.items()}
    entries = tensors_of(plan.settings.method, use_dora=plan.settings.use_dora)
    loaded = from_peft(entries, plan.targets, parameters, tensors, source)
    loaded |= load_virtual_tokens(plan.settings.method, parameters, tensors, source)
    others = {
        name: tensors[name]
        for name in tensors.keys() - list_names(entries, plan.targets) - {TENSOR}
        if tensors[name].size  # AdaLoRA may leave a module no rank
    }
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
    order, note = _match_head(adapter, kind, find_head_order, fits) if head else (None, "")
    if order == []:
        for path, name in head.items():
            del others[name], stored[path]
    for path in (
        plan.layers.keys() & stored.keys()
    ):  # tensors of the other layers are not there, and are not read
        trained = plan.tensors_of(rules[path], parameters[path].shape)
        zeros = np.zeros_like(next(others[name] for name in trained if name in others))
        others |= {name: others.get(name, zeros) for name, is_trained in trained.items() if not is_trained}
    weights, _ = load_weights(table, others, stored, source=source)
    if order:
        weights |= {path: weights[path][..., order] for path in head if path.rpartition("/")[0] == "head"}
    return loaded | weights, f"{source}: {len(loaded) + len(weights)} parameters of an adapter{note}"


def _match_head(
    adapter: AdapterFiles,
    kind: HeadKind,
    find_head_order: Callable[[Mapping[str, Any]], list[int] | None],
    fits: bool,
) -> tuple[list[int] | None, str]:
    """Returns the order of a head's outputs, and what to log of it; None keeps the order, [] leaves the head out.

    PEFT's files do not say what the outputs mean. Those of jaxft have a config.json next to them that does.

    Args:
      adapter: the adapter.
      kind, find_head_order: see `load_adapter`.
      fits: whether the head has as many outputs as that of the run.
    """
    task_type, path = adapter.config.get("task_type"), adapter.folder / MODEL_CONFIG
    is_of_head = task_type is not None and task_type in TASK_TYPES.values()  # others say nothing of a head
    if is_of_head and kind is not HeadKind.IMAGE and task_type != TASK_TYPES.get(kind):
        return [], f"; its head is for {task_type}, so the head is new"
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
    fused = [target.tensor for target in targets if len(target.linears) > 1]
    if settings.method == "bottleneck" and fused:
        raise UserError(
            f"--format peft: {fused[0]} is several layers here, whose bottlenecks have no place in the files; keep the "
            "run, and use it by predict or evaluate"
        )
    if kind not in TASK_TYPES:
        raise UserError(
            f"--format peft: PEFT's files have no place for the heads of this task ({kind.value}); "
            f"{plan.method.advice_without_peft}"
        )
    tensors = to_peft(tensors_of(settings.method, use_dora=settings.use_dora), targets, trained)
    tensors |= save_virtual_tokens(settings.method, trained)
    factor = 1
    for name, start in to_peft(START, targets, trained).items():
        is_a, factor = name.endswith(START[0].suffix), 2
        tensors[name] = np.concatenate([tensors[name], start if is_a else -start], axis=0 if is_a else 1)
    rank_pattern = drop_zero_ranks(tensors, targets, settings.init_r) if settings.method == "adalora" else {}
    others = {path: value for path, value in trained.items() if not is_adapter(path)}
    rules = [rule for rule in table.rules if rule.parameter in others]
    is_trained: dict[str, bool] = {}
    for rule in rules:
        is_trained |= plan.tensors_of(rule, others[rule.parameter].shape)
    adapted = {module for target in targets for module in target.adapted}
    for name, tensor in save_weights(table, others).items():
        if not is_trained[name]:
            continue
        module, _, leaf = name.rpartition(".")
        tensors[f"{module}.base_layer.{leaf}" if module in adapted else name] = tensor
    config = describe_adapter(plan, table, others, kind, factor)
    if TENSOR in tensors:
        config |= describe_virtual_tokens(plan, tensors[TENSOR])
    return tensors, config | ({"rank_pattern": rank_pattern} if rank_pattern else {})
