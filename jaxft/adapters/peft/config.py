"""Reads adapter_config.json, PEFT's settings of an adapter, and writes it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.adapters.base import Target
from jaxft.adapters.peft.tensors import tensors_of
from jaxft.adapters.plan import AdapterPlan
from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.errors import UserError
from jaxft.hub.adapter_files import CONFIG, AdapterFiles
from jaxft.hub.weights import WeightTable
from jaxft.layers.heads.kinds import HeadKind

# PEFT's names of methods, and ours. It does not have the last ones, which `export/adapter_loader.py` reads.
METHODS = {
    "LORA": "lora",
    "ADALORA": "adalora",
    "IA3": "ia3",
    "PREFIX_TUNING": "prefix",
    "PROMPT_TUNING": "prompt",
    "BOTTLENECK": "bottleneck",
    "BITFIT": "bitfit",
}
WITH_LOADER = ("bottleneck", "bitfit")
TASK_TYPES = {
    HeadKind.TOKEN: "TOKEN_CLS",
    HeadKind.SEQUENCE: "SEQ_CLS",
    HeadKind.QUESTION: "QUESTION_ANS",
    HeadKind.NEXT_TOKEN: "CAUSAL_LM",
    HeadKind.IMAGE: None,  # PEFT has no type for it, and does not need one
}
# PEFT adds some to `modules_to_save`; heads are always trained here.
HEADS = ("classifier", "score", "qa_outputs")
_LORA = {"lora_alpha": "alpha", "lora_dropout": "dropout", "bias": "bias"}
SETTINGS: dict[str, dict[str, str]] = {  # of each method: PEFT's names, and ours
    "lora": _LORA | {name: name for name in ("r", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")},
    "adalora": _LORA
    | {name: name for name in ("init_r", "target_r", "deltaT", "beta1", "beta2", "orth_reg_weight")},
    "ia3": {},
    "bottleneck": {name: name for name in ("r", "activation", "dropout")},
    "bitfit": {},
    "prefix": {"num_virtual_tokens": "num_virtual_tokens"},
    "prompt": {"num_virtual_tokens": "num_virtual_tokens"},
}
# Of AdaLoRA: keys that PEFT does not read, that are of one training alone, or whose content tensors have too.
IGNORED_BY_ADALORA = ("tinit", "tfinal", "total_step", "r", "rank_pattern", "alpha_pattern", "use_rslora")
# Keys that change nothing of a trained adapter, or say what tensors say too.
IGNORED = (
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
    *("inference_mode", "fan_in_fan_out", "init_lora_weights", "init_ia3_weights", "modules_to_save"),
    *("target_modules", "feedforward_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("megatron_core", "qalora_group_size", "eva_config"),
    *("token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules"),
    *("encoder_hidden_size", "prefix_projection", "init_weights", "prompt_tuning_init"),
    *("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"),
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
            f"{where}: the method is {config['peft_type']!r}; expected {', '.join(METHODS)}; merge the adapter in "
            "PEFT (merge_and_unload), and start from the merged model"
        )
    for key, value in config.items():
        is_read = key in IGNORED or key in SETTINGS[method]
        is_read |= method == "adalora" and key in IGNORED_BY_ADALORA
        if not is_read and value not in (None, False, [], {}, ""):
            raise UserError(f"{where}: {key!r} is {value!r}, which jaxft does not support; expected none")
    settings: dict[str, Any] = {"method": method}
    suffixes = [f".{entry.suffix}" for entry in tensors_of(method)[:1]]
    modules = [
        name.removesuffix(suffix) for suffix in suffixes for name in adapter.tensors if name.endswith(suffix)
    ]
    values = {SETTINGS[method][key]: value for key, value in config.items() if key in SETTINGS[method]}
    settings |= {
        name: tuple((value or {}).items()) if name.endswith("_pattern") else value
        for name, value in values.items()
    }
    if method == "lora":
        settings["init_lora_weights"] = _read_init(config.get("init_lora_weights"), where)
    if method == "adalora":
        settings = {name: value for name, value in settings.items() if value is not None}
        ranks = {module: adapter.tensors[f"{module}.lora_E"].shape[0] for module in modules}
        if not all(ranks.values()) and config.get("bias") == "lora_only":
            raise UserError(
                f"{where}: 'bias' is 'lora_only', and the module {min(ranks, key=ranks.__getitem__)} has a bias and no "
                "rank, which jaxft does not support; merge the adapter in PEFT (merge_and_unload)"
            )
        modules = [module for module in modules if ranks[module]]
        if not modules:
            raise UserError(
                f"{where}: no module has a rank above 0, so it changes nothing; start from its base"
            )
        settings["rank_pattern"] = tuple(
            (re.escape(module), ranks[module]) for module in modules if ranks[module] != values.get("init_r")
        )
    settings["target_modules"] = _join_layers(modules)
    if method == "prefix":  # files hold what the network made, if there was one
        settings["prefix_projection"] = False
    if method == "ia3":
        scaled = [name for name in modules if adapter.tensors[f"{name}.ia3_l"].shape[0] == 1]
        settings["feedforward_modules"] = _join_layers(scaled)
    saved = [name for name in config.get("modules_to_save") or () if name not in HEADS]
    settings["modules_to_save"] = tuple(dict.fromkeys(saved))
    return settings


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
    init = init.lower() if isinstance(init, str) else init
    if init in ("pissa", "olora"):
        return init
    if init not in PLAIN_INITS:
        raise UserError(
            f"{where}: init_lora_weights is {init!r}, which changed the base weights in a way that cannot be repeated; "
            "convert the adapter in PEFT (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    return "true"


def describe_adapter(
    plan: AdapterPlan, table: WeightTable, trained: Mapping[str, np.ndarray], kind: HeadKind, factor: int
) -> dict[str, Any]:
    """Returns the content of adapter_config.json, for tensors whose ranks are `factor` times those of `plan`.

    Args:
      plan: what the run trains.
      table: maps the parameters of the model, with its head, to tensors.
      trained: the trained parameters by path.
      kind: the kind of the head, a key of `TASK_TYPES`.
      factor: 2 if ranks have been added that take off what the adapter began with, else 1.

    """
    settings, targets = plan.settings, plan.targets
    config = {
        "peft_type": next(theirs for theirs, ours in METHODS.items() if ours == settings.method),
        "task_type": TASK_TYPES[kind],
        "inference_mode": True,
        "modules_to_save": _name_saved(plan, table, trained),
    } | _describe_method(settings, targets, table, factor)
    if targets:
        config["fan_in_fan_out"] = _has_transposed(targets, table)
        config["target_modules"] = [name for target in targets for name in _name_modules(target, table)]
    return config


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
    return list(target.adapted)


def _name_saved(plan: AdapterPlan, table: WeightTable, trained: Mapping[str, np.ndarray]) -> list[str] | None:
    """Returns the modules that were trained completely: heads, and those of `modules_to_save`."""
    names: dict[str, None] = {}
    for rule in table.rules:
        if rule.parameter not in trained:
            continue
        if not rule.parameter.startswith("backbone/"):
            names[rule.tensor.partition(".")[0]] = None
        elif rule.parameter in plan.saved:
            tensors = plan.tensors_of(rule, trained[rule.parameter].shape)
            names |= {tensor.rpartition(".")[0]: None for tensor, is_trained in tensors.items() if is_trained}
    return list(names) or None


def _describe_method(
    settings: AdapterSettings, targets: Sequence[Target], table: WeightTable, factor: int
) -> dict[str, Any]:
    """Returns the keys of adapter_config.json that only the method has; LoRA's ranks are multiplied by `factor`."""
    described = {theirs: getattr(settings, ours) for theirs, ours in SETTINGS[settings.method].items()}
    if settings.method == "ia3":
        inputs = [target for target in targets if target.reads_input]
        names = [name for target in inputs for name in _name_modules(target, table)]
        return described | {"feedforward_modules": names}
    if settings.method == "adalora":  # PEFT demands a number of steps; the training is over
        return described | {"total_step": 1}
    if settings.method != "lora":
        return described
    scale = factor ** (0.5 if settings.use_rslora else 1.0)  # the scale of products stays the same
    r, alpha = factor * settings.r, scale * settings.alpha
    ranks = {name: factor * rank for target in targets for name, rank in target.adapted.items()}
    alphas = {
        name: scale * value
        for target in targets
        for name, value in zip(target.modules, target.alphas, strict=True)
    }
    return described | {
        "r": r,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "rank_pattern": {re.escape(name): rank for name, rank in ranks.items() if rank != r},
        "alpha_pattern": {re.escape(name): value for name, value in alphas.items() if value != alpha},
    }
