"""TODO"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config.sections import NEW, Settings
from jaxft.errors import UserError
from jaxft.hub.addresses import resolve_address
from jaxft.hub.files import read_config
from jaxft.hub.tokenizer_training import train_tokenizer
from jaxft.hub.tokenizers import load_tokenizer
from jaxft.layers.attention.choice import choose_attention
from jaxft.models.registry import family_of

# Fields of a new model's config.json that a user may set.
SIZES = {
    "gpt2": (
        "n_positions",
        "n_embd",
        "n_layer",
        "n_head",
        "n_inner",
        "activation_function",
        "embd_pdrop",
        "resid_pdrop",
        "attn_pdrop",
        "layer_norm_epsilon",
        "initializer_range",
        "scale_attn_by_inverse_layer_idx",
    ),
    "bert": (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
        "hidden_act",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "layer_norm_eps",
        "initializer_range",
    ),
}


def new_config(kind: str, sizes: Mapping[str, Any], *, max_length: int) -> dict[str, Any]:
    """The config.json of a new model of `kind` ("gpt2", "bert") without its tokenizer's numbers.

    sizes: fields of its own, such as n_layer. max_length: of a GPT-2's rows, if they don't say it.

    Raises `UserError` for another kind, or for a key that its config does not have.
    """
    if kind not in SIZES:
        raise UserError(f"config.model.checkpoint='new:{kind}': expected one of new:{', new:'.join(SIZES)}")
    if unknown := sizes.keys() - set(SIZES[kind]):
        raise UserError(
            f"config.model.sizes: {sorted(unknown)} unknown; expected some of {', '.join(SIZES[kind])}"
        )
    if kind == "bert":
        return {"model_type": "bert", **sizes}
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": max_length,
        **sizes,
    }


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
    """A pretrained checkpoint's folder, its config.json and its tokenizer.

    Of a new model there is no folder. Where tokens were added the config.json counts them, the weights don't.
    """

    address: str
    folder: Path | None
    hf_config: dict[str, Any]
    tokenizer: Any
    added: int = 0  # of its tokens, by `config.data.added_tokens`


def open_pretrained_model(
    config: Settings, texts: Callable[[], Iterable[str]], *, of_words: bool, supported: Sequence[str]
) -> PretrainedModel:
    """The checkpoint of `config.model`, without its weights, and with `config.data.added_tokens`.

    Args:
      texts: gives the training text, for the tokenizer of a new model.
      of_words: whether texts come cut into words.
      supported: model types that the task can be trained on.
    """
    address = config.model.checkpoint
    if address.startswith(NEW):
        checkpoint = _new_checkpoint(config, texts)
    else:
        folder = resolve_address(address, config.model.revision)
        tokenizer = load_tokenizer(folder, reads_words=of_words)
        checkpoint = PretrainedModel(address, folder, read_config(folder), tokenizer)
    vocabulary = check_model(config, checkpoint.hf_config, supported)["vocab_size"]
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


def check_model(config: Settings, hf_config: Mapping[str, Any], supported: Sequence[str]) -> dict[str, Any]:
    """The sizes that a config.json means. Raises `UserError` where it doesn't go with the task or its rows."""
    address = config.model.checkpoint
    try:
        sizes = family_of(hf_config).config.read_sizes(hf_config)
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


def describe_pretrained_model(config: Settings, supported: Sequence[str]) -> dict[str, Any]:
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
        hf_config = dict(read_config(resolve_address(model.checkpoint, model.revision, needs_weights=False)))
    sizes = check_model(config, hf_config, supported)
    return hf_config | {"vocab_size": sizes["vocab_size"] + len(config.data.added_tokens)}


def _new_checkpoint(config: Settings, texts: Callable[[], Iterable[str]]) -> PretrainedModel:
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
    return PretrainedModel(model.checkpoint, None, hf_config, tokenizer)


def backbone_sizes(
    config: Settings, hf_config: Mapping[str, Any], platform: str | None = None
) -> dict[str, Any]:
    """What `network` makes the backbone from: the checkpoint's sizes under the run's settings, for `platform`.

    platform: "cpu", "gpu" or "tpu", default this machine's. The result has the backbone's keyword arguments, its
    "architecture", and under "attention" the name of its implementation.
    """
    platform = platform or jax.default_backend()
    model, on_cpu = config.model, platform == "cpu"
    sizes = family_of(hf_config).config.read_sizes(hf_config)
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
    return (
        sizes
        | architecture_of
        | {"attention": choose_attention(model.attention, config.data.max_length, sizes, platform)}
    )


def head_dropout(config: Settings, hf_config: Mapping[str, Any]) -> float:
    """The dropout rate before a task's head."""
    if config.model.dropout is not None:
        return config.model.dropout
    return family_of(hf_config).config.read_classifier_dropout(hf_config)
