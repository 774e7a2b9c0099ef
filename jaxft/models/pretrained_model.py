"""TODO"""

from collections.abc import Mapping
from typing import Any

from jaxft.errors import UserError

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
