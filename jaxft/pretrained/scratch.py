"""Makes what a model from scratch starts with: a config.json, and a tokenizer trained on the text at hand."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from jaxft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"  # as GPT-2's
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
BYTES = 256  # tokens that every byte-level vocabulary has, besides `END`


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer like GPT-2's, of at most `vocab_size` tokens (fewer where the text has no more).

    Any text can be encoded and comes out of decoding as it was. Source: Radford et al. 2019, section 2.2;
    Sennrich et al. 2016.

    max_length: what the tokenizer says is the longest input. Raises `UserError` for too small a vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast  # slow to import

    if vocab_size < BYTES + 1:
        raise UserError(
            f"config.model.vocab_size={vocab_size}: a byte-level tokenizer has {BYTES} bytes and {END}; "
            f"expected {BYTES + 1} or more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


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
