"""Reads and writes the config.json of BERT checkpoints."""

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
)


def make_new_config(fields: Mapping[str, Any], *, max_length: int, vocab_size: int) -> dict[str, Any]:
    """Returns the config.json of a new BERT with `fields`. Missing fields have BertConfig's defaults, BERT-base's."""
    del max_length, vocab_size  # a new BERT has no tokenizer yet, and its fields set its positions
    return {"model_type": "bert", **fields}


def read_sizes(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments of `Bert` for a checkpoint's config.json.

    Missing fields have the defaults of transformers' BertConfig.

    Raises:
      UserError: the model_type is not BERT's, or an option would change the meaning of the weights.
    """
    check_model_type(hf_config, "bert", display_name="BERT")
    check_values(
        hf_config,
        {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    )
    size, heads = read_width_and_heads(hf_config, "hidden_size", "num_attention_heads")
    return {
        "vocab_size": hf_config.get("vocab_size", 30522),
        "hidden_size": size,
        "num_layers": hf_config.get("num_hidden_layers", 12),
        "num_heads": heads,
        "intermediate_size": hf_config.get("intermediate_size", 3072),
        "max_positions": hf_config.get("max_position_embeddings", 512),
        "type_vocab_size": hf_config.get("type_vocab_size", 2),
        "activation": read_activation(hf_config, "hidden_act", "gelu"),
        "layer_norm_eps": hf_config.get("layer_norm_eps", 1e-12),
        "hidden_dropout": hf_config.get("hidden_dropout_prob", 0.1),
        "attention_dropout": hf_config.get("attention_probs_dropout_prob", 0.1),
        "initializer_range": hf_config.get("initializer_range", 0.02),
    }


def read_classifier_dropout(hf_config: Mapping[str, Any]) -> float:
    """Returns the dropout rate before a task's head: `classifier_dropout`, or if unset the backbone's rate."""
    rate = hf_config.get("classifier_dropout")
    return hf_config.get("hidden_dropout_prob", 0.1) if rate is None else rate


def make_token_classifier_config(hf_config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Returns the config.json of an exported token classifier: the checkpoint's fields and the labels.

    Args:
      hf_config: the checkpoint's config.json. `fields.make_exported_config` changes some of its fields.
      labels: in the order of the head's outputs.
    """
    return add_labels(make_exported_config(hf_config, "BertForTokenClassification"), labels)


def make_sequence_classifier_config(
    hf_config: Mapping[str, Any], labels: Sequence[str], problem_type: str, tuned: Mapping[str, Any], pad: int
) -> dict[str, Any]:
    """Returns the config.json of an exported sequence classifier.

    Args:
      hf_config: the checkpoint's config.json.
      labels: in the order of the head's outputs.
      problem_type: one of transformers' names.
      tuned: more fields that the model's answers depend on, such as thresholds. transformers keeps them but does not
        read them.
      pad: the id of the padding token.
    """
    config = make_exported_config(hf_config, "BertForSequenceClassification")
    return add_labels(config, labels) | {"problem_type": problem_type, "pad_token_id": pad, **tuned}


def make_question_answering_config(
    hf_config: Mapping[str, Any], labels: Sequence[str], tuned: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the config.json of an exported question answering model; see `make_sequence_classifier_config`."""
    return add_labels(make_exported_config(hf_config, "BertForQuestionAnswering"), labels) | dict(tuned)


def make_backbone_config(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json of an exported backbone without a head."""
    return make_exported_config(hf_config, "BertModel")
