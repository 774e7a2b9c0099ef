"""Reads and writes the config.json of GPT-2 checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.hub.fields import (
    add_labels,
    check_model_type,
    check_values,
    make_exported_config,
    read_activation,
    read_width_and_heads,
)

# Fields of config.json that a user may set for a new model.
NEW_MODEL_FIELDS = (
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
)


def make_new_config(fields: Mapping[str, Any], *, max_length: int, vocab_size: int) -> dict[str, Any]:
    """Returns the config.json of a new GPT-2 with `fields`. Without `n_positions` it has `max_length` positions."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": max_length,
        **fields,
        "vocab_size": vocab_size,
    }


def read_sizes(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments of `GPT2` for a checkpoint's config.json.

    Missing fields have the defaults of transformers' GPT2Config. `reorder_and_upcast_attn` may have either value,
    because attention scores are always computed in float32.

    Raises:
      UserError: the model_type is not GPT-2's, or an option would change the meaning of the weights.
    """
    check_model_type(hf_config, "gpt2", display_name="GPT-2")
    check_values(
        hf_config, {"scale_attn_weights": True, "add_cross_attention": False, "tie_word_embeddings": True}
    )
    size, heads = read_width_and_heads(hf_config, "n_embd", "n_head")
    inner = hf_config.get("n_inner")
    return {
        "vocab_size": hf_config.get("vocab_size", 50257),
        "hidden_size": size,
        "num_layers": hf_config.get("n_layer", 12),
        "num_heads": heads,
        "intermediate_size": 4 * size if inner is None else inner,
        "max_positions": hf_config.get("n_positions", 1024),
        "activation": read_activation(hf_config, "activation_function", "gelu_new"),
        "layer_norm_eps": hf_config.get("layer_norm_epsilon", 1e-5),
        "embedding_dropout": hf_config.get("embd_pdrop", 0.1),
        "hidden_dropout": hf_config.get("resid_pdrop", 0.1),
        "attention_dropout": hf_config.get("attn_pdrop", 0.1),
        "initializer_range": hf_config.get("initializer_range", 0.02),
        "scale_by_inverse_layer": hf_config.get("scale_attn_by_inverse_layer_idx", False),
    }


def read_classifier_dropout(hf_config: Mapping[str, Any]) -> float:
    """Returns the dropout rate before a task's head, as in GPT2ForTokenClassification; 0.1 if no field sets it."""
    rates = (hf_config.get(key) for key in ("classifier_dropout", "hidden_dropout"))
    return next((rate for rate in rates if rate is not None), 0.1)


def make_token_classifier_config(hf_config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Returns the config.json of an exported token classifier: the checkpoint's fields and the labels."""
    return add_labels(make_exported_config(hf_config, "GPT2ForTokenClassification"), labels)


def make_sequence_classifier_config(
    hf_config: Mapping[str, Any], labels: Sequence[str], problem_type: str, tuned: Mapping[str, Any], pad: int
) -> dict[str, Any]:
    """Returns the config.json of an exported sequence classifier; `pad` is the id of the token that follows a text."""
    config = add_labels(make_exported_config(hf_config, "GPT2ForSequenceClassification"), labels)
    return config | {"problem_type": problem_type, "pad_token_id": pad, **tuned}


def make_backbone_config(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json of an exported backbone without a head."""
    return make_exported_config(hf_config, "GPT2Model")


def make_causal_lm_config(hf_config: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Returns the config.json of an exported GPT2LMHeadModel; `vocab_size` includes added tokens."""
    return make_exported_config(hf_config, "GPT2LMHeadModel") | {"vocab_size": vocab_size}


def make_generation_config(tokenizer: Any) -> dict[str, Any]:
    """Returns the generation_config.json of an exported GPT-2: the ids of its start, end and padding tokens."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
