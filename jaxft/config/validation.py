"""Which values a setting may have, beyond its type: choices, ranges, and what doesn't go together."""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxft.config.durations import duration_steps
from jaxft.errors import UserError

CHOICES = {
    "task": (
        "token_classification",
        "crf_tagging",
        "causal_lm",
        "sequence_classification",
        "question_answering",
        "multi_task",
    ),
    "model.pool": ("auto", "pooler", "cls", "last", "mean", "max"),
    "model.problem_type": ("single_label_classification", "multi_label_classification", "regression"),
    "model.init": ("pretrained", "scratch"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.remat": ("none", "dots", "full"),
    "model.attention": ("auto", "dense", "splash", "flash"),
    "model.unroll": ("auto", "yes", "no"),
    "data.format": ("auto", "conll", "jsonl", "csv", "tsv", "parquet", "squad", "text", "hub"),
    "data.scheme": ("auto", "iob1", "iob2", "bioes", "bilou", "io", "none"),
    "data.label_subwords": ("first", "last", "all"),
    "data.layout": ("documents", "blocks"),
    "data.truncation": ("head", "tail", "head+tail", "windows"),
    "data.overlaps": ("error", "longest"),
    "data.mix": ("size", "temperature", "weights"),
    "loss.balance": ("weights", "uncertainty"),
    "eval.thresholds": ("one", "label", "none"),
    "optim.schedule": ("linear", "cosine", "constant"),
    "optim.gradients": ("float32", "bfloat16"),
}


def check(found: Mapping[str, Any]) -> None:
    """Raises `UserError` for values that no run can have.

    found: all settings by key, such as "optim.lr", each of its type.
    """
    for key, choices in CHOICES.items():
        if found[key] not in choices:
            near = difflib.get_close_matches(str(found[key]), choices, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"config.{key}={found[key]!r}: expected one of {', '.join(choices)}{hint}")

    def need(key: str, ok: bool, expected: str) -> None:
        if not ok:
            raise UserError(f"config.{key}={found[key]!r}: expected {expected}")

    for key in (
        "batch.rows",
        "batch.accumulate",
        "eval.rows",
        "eval.max_new_tokens",
        "eval.beams",
        "eval.n_best",
        "eval.max_answer",
        "log.every_steps",
        "checkpoint.keep",
        "model.vocab_size",
        "data.shards",
    ):
        need(key, found[key] >= 1, "1 or more")
    for key in (
        "train.steps",
        "train.examples",
        "eval.every_steps",
        "eval.patience",
        "checkpoint.every_steps",
        "data.max_segments",
    ):
        need(key, found[key] is None or found[key] >= 1, "1 or more, or none")
    need("seed", 0 <= found["seed"] < 2**32, "0 or more and below 2^32")
    need("train.epochs", 0 < found["train.epochs"] < math.inf, "more than 0")
    need("data.stride", found["data.stride"] is None or found["data.stride"] >= 0, "0 or more, or none")
    if found["task"] != "causal_lm":
        need("data.format", found["data.format"] != "text", "a format with labels; plain text has none")
    for key in ("optim.b1", "optim.b2", "optim.ema"):
        need(key, 0 <= found[key] < 1, "0 or more and below 1")
    need("optim.eps", found["optim.eps"] > 0, "more than 0")
    need("data.max_length", found["data.max_length"] >= 8, "8 or more")
    need("data.dev_fraction", 0 < found["data.dev_fraction"] < 1, "a share between 0 and 1")
    need("optim.lr", found["optim.lr"] > 0 and math.isfinite(found["optim.lr"]), "a positive number")
    for key in ("optim.clip", "optim.weight_decay", "eval.bootstrap", "eval.generate"):
        need(key, found[key] >= 0, "0 or more")
    duration_steps(found["optim.warmup"], "optim.warmup", total=1, steps_per_epoch=1, examples_per_step=1)
    for key, value, expected in (
        ("optim.decay", bool, r"pairs such as (('kernel$', True), ('.', False))"),
        ("optim.lr_multipliers", int | float, "pairs such as (('^head/', 10.0), ('.', 1.0))"),
        ("loss.class_weights", int | float, "pairs such as (('O', 0.5),)"),
        ("data.columns", str, "pairs such as (('tokens', 'words'),)"),
    ):
        need(key, all(_is_pair(item, value) for item in found[key]), expected)
    for key, expected in (
        ("optim.freeze", "patterns, ('^backbone/',)"),
        ("data.added_tokens", "words, ('<sep>',)"),
    ):
        need(key, all(isinstance(item, str) and item for item in found[key]), expected)
    need(
        "model.sizes",
        all(_is_pair(i, object) for i in found["model.sizes"]),
        "pairs such as (('n_layer', 4),)",
    )
    weights = [weight for _, weight in found["loss.class_weights"]]
    need("loss.class_weights", all(0 < weight < math.inf for weight in weights), "weights above 0")
    need("loss.label_smoothing", 0 <= found["loss.label_smoothing"] < 1, "0 or more and below 1")
    for key in ("loss.focal_gamma", "loss.r_drop"):
        need(key, 0 <= found[key] < math.inf, "0 or more")
    if found["task"] in ("causal_lm", "question_answering", "multi_task"):
        of = "tasks of config.tasks" if found["task"] == "multi_task" else "labels of words and of texts"
        need("loss.r_drop", not found["loss.r_drop"], f"0, for it is for {of}")
    _check_tasks(found, need)
    if found["data.shards"] > 1:
        _check_parts(found)
    bounds = found["data.label_range"]
    need(
        "data.label_range",
        not bounds
        or (len(bounds) == 2 and all(isinstance(b, int | float) for b in bounds) and bounds[0] < bounds[1]),
        "two numbers, the smaller first, such as (0.0, 5.0), or ()",
    )
    need("data.label_separator", bool(found["data.label_separator"]), "one or more characters")
    if found["data.template"] is not None and found["eval.generate"]:
        need(
            "eval.max_new_tokens",
            found["eval.max_new_tokens"] < found["data.max_length"],
            "less than max_length",
        )
    if found["model.dropout"] is not None:
        need("model.dropout", 0 <= found["model.dropout"] < 1, "0 or more and below 1")
    if found["batch.rows"] % found["batch.accumulate"]:
        raise UserError(
            f"config.batch.rows={found['batch.rows']} is not a multiple of "
            f"config.batch.accumulate={found['batch.accumulate']}: rows are cut into equal microbatches"
        )


def _check_tasks(found: Mapping[str, Any], need: Callable[[str, bool, str], None]) -> None:
    several, tasks = found["task"] == "multi_task", found["tasks"]
    example = '(("intents", (("task", "sequence_classification"),)), ("slots", (("task", "token_classification"),)))'
    need(
        "tasks",
        bool(tasks) == several,
        f"pairs {example}" if several else "(), without config.task='multi_task'",
    )
    fits = all(_is_pair(task, tuple) and all(_is_pair(item, object) for item in task[1]) for task in tasks)
    need("tasks", fits, f"pairs of a name and pairs of settings that differ, such as {example}")
    names = [name for name, _ in tasks]
    for name in names:
        if not re.fullmatch(r"[A-Za-z]\w*", name) or name == "uncertainty" or names.count(name) > 1:
            raise UserError(
                f"config.tasks: {name!r} cannot be a task's name; expected different ones of letters, digits and _, "
                "not 'uncertainty'"
            )
    for key, default in (("data.mix", "size"), ("batch.by_task", False), ("loss.balance", "weights")):
        need(key, several or found[key] == default, f"{default!r}, for config.task is {found['task']!r}")
    if several:
        need("data.context", not found["data.context"], "False with config.task='multi_task'")
    need("loss.weight", 0 < found["loss.weight"] < math.inf, "more than 0")
    need("data.mix_temperature", found["data.mix_temperature"] >= 1, "1 or more")
    weights = found["data.mix_weights"]
    need(
        "data.mix_weights",
        bool(weights) == (found["data.mix"] == "weights")
        and all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in weights),
        "numbers above 0, one a data set, with config.data.mix='weights', and else ()",
    )


def _check_parts(found: Mapping[str, Any]) -> None:
    parts, rows = found["data.shards"], found["batch.rows"]
    kinds = [dict(found) | dict(own) for _, own in found["tasks"]] or [found]
    tagged = [kind for kind in kinds if kind["task"] in ("token_classification", "crf_tagging")]
    for ok, expected in (
        (rows % parts == 0, f"a divisor of config.batch.rows={rows}, for each part feeds as many rows"),
        (found["data.pack"], "1 without config.data.pack, for batches of all parts are of one length"),
        (
            found["data.dev"] is not None,
            "1 without config.data.dev: name a dev set, for none is split off parts",
        ),
        (
            found["data.mix"] == "size" and not found["batch.by_task"],
            "1 where data sets are mixed in other ways",
        ),
        (
            not found["model.checkpoint"].startswith("new:"),
            "1 with a new model, whose tokenizer is trained on all text; give a checkpoint with one",
        ),
        (
            all(kind["data.scheme"] != "auto" for kind in tagged),
            "1 unless config.data.scheme says how the data is tagged, which may not be seen in each part alone",
        ),
    ):
        if not ok:
            raise UserError(f"config.data.shards={parts}: expected {expected}")


def _is_pair(item: Any, kind: Any) -> bool:
    return (
        isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], kind)
    )
