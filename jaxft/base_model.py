"""Opens the base model that a run starts from: its config.json, its tokenizer, and its sizes under the settings."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.hub.addresses import resolve_address
from jaxft.hub.files import read_config
from jaxft.hub.tokenizers import load_tokenizer, train_tokenizer
from jaxft.layers.attention.limits import WITH_DROPOUT, kernel_obstacle
from jaxft.models.pretrained_model import new_config
from jaxft.pretrained import bert, gpt2
from jaxft.tasks import TASKS

# What a checkpoint means, `sizes` and `TABLE`, by the `model_type` of its config.json.
ARCHITECTURES = {"bert": bert, "gpt2": gpt2}
NEW = "new:"  # the address of a model that has no checkpoint: "new:gpt2"

KERNEL_OF = {"tpu": "splash", "gpu": "flash"}  # of attention, by platform
# The row's length from which it is worth while: flash's measured (H100, rows of 64 to 1,024), splash's a guess.
WORTH_FROM = {"splash": 512, "flash": 64}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A pretrained checkpoint's folder, its config.json and its tokenizer.

    Of a new model there is no folder. Where tokens were added the config.json counts them, the weights don't.
    """

    address: str
    folder: Path | None
    hf_config: dict[str, Any]
    tokenizer: Any
    added: int = 0  # of its tokens, by `config.data.added_tokens`


def open_checkpoint(config: ConfigDict, texts: Callable[[], Iterable[str]]) -> Checkpoint:
    """The checkpoint of `config.model`, without its weights, and with `config.data.added_tokens`.

    texts: gives the training text, for the tokenizer of a new model.
    """
    address = config.model.checkpoint
    if address.startswith(NEW):
        checkpoint = _new_checkpoint(config, texts)
    else:
        folder = resolve_address(address, config.model.revision)
        tokenizer = load_tokenizer(folder, of_words=TASKS[config.task].of_words)
        checkpoint = Checkpoint(address, folder, read_config(folder), tokenizer)
    vocabulary = check_model(config, checkpoint.hf_config)["vocab_size"]
    if len(checkpoint.tokenizer) > vocabulary:
        raise UserError(
            f"{address}: its tokenizer has {len(checkpoint.tokenizer)} tokens, but the model only {vocabulary}; "
            "its tokenizer and config.json do not belong together"
        )
    if config.data.added_tokens:
        known = len(checkpoint.tokenizer)
        checkpoint.tokenizer.add_tokens(list(config.data.added_tokens))  # it counts words that it has already
        checkpoint.hf_config["vocab_size"] = max(vocabulary, len(checkpoint.tokenizer))
        checkpoint = dataclasses.replace(checkpoint, added=len(checkpoint.tokenizer) - known)
    if checkpoint.tokenizer.pad_token_id is None:
        # GPT-2's has none. Padding is never seen, so any token serves, and none has to be added.
        checkpoint.tokenizer.pad_token = checkpoint.tokenizer.eos_token
    if checkpoint.tokenizer.pad_token_id is None:
        raise UserError(
            f"{address}: its tokenizer has no padding token; set pad_token in tokenizer_config.json"
        )
    return checkpoint


def check_model(config: ConfigDict, hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that a config.json means. Raises `UserError` where it doesn't go with the task or its rows."""
    address, supported = config.model.checkpoint, TASKS[config.task].architectures
    try:
        sizes = architecture(hf_config).sizes(hf_config)
    except UserError as error:
        raise UserError(f"checkpoint {address!r}: {error}") from None
    if (found := hf_config["model_type"]) not in supported:
        raise UserError(
            f"checkpoint {address!r}: model_type is {found!r}, but config.task={config.task!r} is for "
            f"{', '.join(supported)}; choose another checkpoint or task"
        )
    if config.data.max_length > (longest := sizes["max_positions"]):
        raise UserError(
            f"config.data.max_length={config.data.max_length}, but {address} has {longest} positions; "
            f"set it to {longest} or less; what is longer is cut into windows, or as config.data.truncation says"
        )
    return sizes


def describe_model(config: ConfigDict) -> dict[str, Any]:
    """The config.json of the model that `config` trains, without its weights, its tokenizer or its data.

    Of a new model only as many words can be told as its tokenizer has at most. A "new:bert" is told too, though
    none can be trained yet: BertConfig's defaults, which are BERT-base, under `config.model.sizes`.
    """
    model = config.model
    if model.checkpoint.startswith(NEW):
        kind = model.checkpoint.removeprefix(NEW)
        hf_config = new_config(kind, dict(model.sizes), max_length=config.data.max_length)
        if kind == "gpt2":
            hf_config["vocab_size"] = model.vocab_size
    else:
        hf_config = dict(read_config(resolve_address(model.checkpoint, model.revision, weights=False)))
    sizes = check_model(config, hf_config)
    return hf_config | {"vocab_size": sizes["vocab_size"] + len(config.data.added_tokens)}


def _new_checkpoint(config: ConfigDict, texts: Callable[[], Iterable[str]]) -> Checkpoint:
    model, length = config.model, config.data.max_length
    if model.checkpoint != f"{NEW}gpt2" or model.init != "scratch":
        raise UserError(
            f"config.model.checkpoint={model.checkpoint!r}, config.model.init={model.init!r}: a new model is "
            f"'{NEW}gpt2' with init 'scratch'"
        )
    tokenizer = train_tokenizer(texts(), model.vocab_size, length)
    hf_config = new_config("gpt2", dict(model.sizes), max_length=length) | {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return Checkpoint(model.checkpoint, None, hf_config, tokenizer)


def architecture(hf_config: Mapping[str, Any]) -> ModuleType:
    """The module of `ARCHITECTURES` for a config.json. Raises `UserError` for a model_type that isn't there."""
    found = hf_config.get("model_type")
    if found not in ARCHITECTURES:
        raise UserError(
            f"config.json: model_type is {found!r}, but only {sorted(ARCHITECTURES)} are supported; choose "
            "another checkpoint (or add the field where an old config.json lacks it)"
        )
    return ARCHITECTURES[found]


def body_sizes(
    config: ConfigDict, hf_config: Mapping[str, Any], platform: str | None = None
) -> dict[str, Any]:
    """What `network` makes the body from: the checkpoint's sizes under the run's settings, for `platform`.

    platform: "cpu", "gpu" or "tpu", default this machine's. The result has the body's keyword arguments, its
    "architecture", and under "attention" the name of its implementation.
    """
    platform = platform or jax.default_backend()
    model, on_cpu = config.model, platform == "cpu"
    sizes = architecture(hf_config).sizes(hf_config)
    if model.dropout is not None:
        sizes |= {name: model.dropout for name in sizes if name.endswith("_dropout")}
    dtype = model.dtype if model.dtype != "auto" else ("float32" if on_cpu else "bfloat16")
    # XLA for CPUs merges what is computed twice, but not in a loop's body: there alone recomputing saves memory.
    undone = on_cpu and model.remat != "none"
    if undone and model.unroll == "yes":
        raise UserError(
            f"config.model.remat={model.remat} saves no memory on a CPU with config.model.unroll=yes; use unroll=auto"
        )
    unroll = platform != "tpu" and not undone if model.unroll == "auto" else model.unroll == "yes"
    sizes |= {"dtype": jnp.dtype(dtype), "remat": model.remat, "unroll": unroll}
    architecture_of = {"architecture": hf_config["model_type"]}
    return sizes | architecture_of | {"attention": _attention(config, sizes, platform)}


def _attention(config: ConfigDict, sizes: Mapping[str, Any], platform: str) -> str:
    """The implementation of attention that `config.model.attention` means, in training and evaluation.

    "auto" is the platform's kernel for rows of `WORTH_FROM` and more that it can compute, and else dense. Raises
    `UserError` for a kernel that is asked for and cannot be had.
    """
    asked, length = config.model.attention, config.data.max_length
    auto = asked == "auto"
    name = KERNEL_OF.get(platform, "dense") if auto else asked
    if name == "dense" or (auto and length < WORTH_FROM[name]):
        return "dense"
    head_width = sizes["hidden_size"] // sizes["num_heads"]
    obstacle = kernel_obstacle(name, length=length, head_width=head_width, dtype=sizes["dtype"])
    if KERNEL_OF.get(platform) != name or (name == "flash" and not _gpu_takes_flash()):
        obstacle = f"cannot run on this {platform}"
    elif (rate := sizes["attention_dropout"]) and name not in WITH_DROPOUT:
        obstacle = f"has no dropout of attention weights, here {rate}; set config.model.dropout=0.0"
    if obstacle and not auto:
        raise UserError(f"config.model.attention={name!r} {obstacle}; 'dense' computes the same")
    return "dense" if obstacle else name


def _gpu_takes_flash() -> bool:
    """Whether this machine's GPU is NVIDIA's, of compute capability 8.0 (Ampere) or later; AMD's has a name there."""
    capability = getattr(jax.devices()[0], "compute_capability", "")
    return bool(re.fullmatch(r"\d+\.\d+", capability)) and float(capability) >= 8.0


def head_dropout(config: ConfigDict, hf_config: Mapping[str, Any]) -> float:
    """The dropout rate before a task's head."""
    if config.model.dropout is not None:
        return config.model.dropout
    return architecture(hf_config).classifier_dropout(hf_config)
