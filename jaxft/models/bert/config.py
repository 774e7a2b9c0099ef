"""Reads and writes the config.json of BERT checkpoints."""

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
    """Keyword arguments of `Bert` for a checkpoint's config.json; fields left out have BertConfig's defaults.

    Raises UserError for another model_type and for options that would change what the weights mean.
    """
    check_model_type(hf_config, "bert")
    check_values(
        hf_config,
        {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    )
    size, heads = width_and_heads(hf_config, "hidden_size", "num_attention_heads")
    return {
        "vocab_size": hf_config.get("vocab_size", 30522),
        "hidden_size": size,
        "num_layers": hf_config.get("num_hidden_layers", 12),
        "num_heads": heads,
        "intermediate_size": hf_config.get("intermediate_size", 3072),
        "max_positions": hf_config.get("max_position_embeddings", 512),
        "type_vocab_size": hf_config.get("type_vocab_size", 2),
        "activation": activation(hf_config, "hidden_act", "gelu"),
        "layer_norm_eps": hf_config.get("layer_norm_eps", 1e-12),
        "hidden_dropout": hf_config.get("hidden_dropout_prob", 0.1),
        "attention_dropout": hf_config.get("attention_probs_dropout_prob", 0.1),
        "initializer_range": hf_config.get("initializer_range", 0.02),
    }


def classifier_dropout(hf_config: Mapping[str, Any]) -> float:
    """The dropout rate before a task's head: `classifier_dropout`, or if that is unset the backbone's rate."""
    rate = hf_config.get("classifier_dropout")
    return hf_config.get("hidden_dropout_prob", 0.1) if rate is None else rate


def token_classifier_config(hf_config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The config.json of an exported token classifier: the checkpoint's own fields, and the labels.

    `labels` are in the order of the head's outputs; see `fields.exported` for what else can change.
    """
    return with_labels(exported_config(hf_config, "BertForTokenClassification"), labels)


def sequence_classifier_config(
    hf_config: Mapping[str, Any], labels: Sequence[str], problem_type: str, tuned: Mapping[str, Any], pad: int
) -> dict[str, Any]:
    """The config.json of an exported sequence classifier; like `token_classifier_config`.

    problem_type: as transformers names it. tuned: what else belongs to the model's answers, such as thresholds,
    which transformers carries along and does not read. pad: the token that fills up a batch.
    """
    config = exported_config(hf_config, "BertForSequenceClassification")
    return with_labels(config, labels) | {"problem_type": problem_type, "pad_token_id": pad, **tuned}


def question_answering_config(
    hf_config: Mapping[str, Any], labels: Sequence[str], tuned: Mapping[str, Any]
) -> dict[str, Any]:
    """The config.json of an exported model that finds answers; like `sequence_classifier_config`."""
    return with_labels(exported_config(hf_config, "BertForQuestionAnswering"), labels) | dict(tuned)


def backbone_config(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of an exported backbone without a head."""
    return exported_config(hf_config, "BertModel")
