"""Reads and writes the config.json of GPT-2 checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.hub.fields import (
    activation,
    check_model_type,
    check_values,
    exported_config,
    width_and_heads,
    with_labels,
)


def sizes(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `GPT2` for a checkpoint's config.json; fields left out have GPT2Config's defaults.

    `reorder_and_upcast_attn` may have either value: attention scores are computed in float32 always.

    Raises UserError for another model_type and for options that would change what the weights mean.
    """
    check_model_type(hf_config, "gpt2")
    check_values(
        hf_config, {"scale_attn_weights": True, "add_cross_attention": False, "tie_word_embeddings": True}
    )
    size, heads = width_and_heads(hf_config, "n_embd", "n_head")
    inner = hf_config.get("n_inner")
    return {
        "vocab_size": hf_config.get("vocab_size", 50257),
        "hidden_size": size,
        "num_layers": hf_config.get("n_layer", 12),
        "num_heads": heads,
        "intermediate_size": 4 * size if inner is None else inner,
        "max_positions": hf_config.get("n_positions", 1024),
        "activation": activation(hf_config, "activation_function", "gelu_new"),
        "layer_norm_eps": hf_config.get("layer_norm_epsilon", 1e-5),
        "embedding_dropout": hf_config.get("embd_pdrop", 0.1),
        "hidden_dropout": hf_config.get("resid_pdrop", 0.1),
        "attention_dropout": hf_config.get("attn_pdrop", 0.1),
        "initializer_range": hf_config.get("initializer_range", 0.02),
        "scale_by_inverse_layer": hf_config.get("scale_attn_by_inverse_layer_idx", False),
    }


def classifier_dropout(hf_config: Mapping[str, Any]) -> float:
    """The dropout rate before a task's head, as in GPT2ForTokenClassification; 0.1 where nothing is said."""
    rates = (hf_config.get(key) for key in ("classifier_dropout", "hidden_dropout"))
    return next((rate for rate in rates if rate is not None), 0.1)


def token_classifier_config(hf_config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The config.json of an exported token classifier: the checkpoint's own fields, and the labels."""
    return with_labels(exported_config(hf_config, "GPT2ForTokenClassification"), labels)


def sequence_classifier_config(
    hf_config: Mapping[str, Any], labels: Sequence[str], problem_type: str, tuned: Mapping[str, Any], pad: int
) -> dict[str, Any]:
    """The config.json of an exported sequence classifier; `pad` is the token after which a text has ended."""
    config = with_labels(exported_config(hf_config, "GPT2ForSequenceClassification"), labels)
    return config | {"problem_type": problem_type, "pad_token_id": pad, **tuned}


def backbone_config(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of an exported backbone without a head."""
    return exported_config(hf_config, "GPT2Model")


def causal_lm_config(hf_config: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The config.json of an exported GPT2LMHeadModel; the number of words grows where tokens were added."""
    return exported_config(hf_config, "GPT2LMHeadModel") | {"vocab_size": vocab_size}


def generation_config(tokenizer: Any) -> dict[str, Any]:
    """The generation_config.json of an exported GPT-2: where a text begins and ends, and what fills up a batch."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
