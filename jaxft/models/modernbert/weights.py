"""Maps the parameters of ModernBERT and of its heads to the tensors of Hugging Face checkpoints."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxft.hub.weights import WeightRule, WeightTable, make_linear_rules, make_norm_rules
from jaxft.layers.heads.classification import HeadForm
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.encoder_family import make_canonical_names, make_masked_head_rules
from jaxft.models.family import Head
from jaxft.models.modernbert.config import ModernBertConfig, read_head_dropout

_LAYER = "model.layers.{layer}"

# The table of models with a `ModernBert` at `backbone`, without a head.
TABLE = WeightTable(
    rules=[
        WeightRule("backbone/embeddings/word/embedding", "model.embeddings.tok_embeddings.weight"),
        *make_norm_rules("backbone/embeddings/norm", "model.embeddings.norm"),
        *make_norm_rules("backbone/layers/attention_norm", f"{_LAYER}.attn_norm", skips_first_layer=True),
        *make_linear_rules("backbone/layers/attention/query", f"{_LAYER}.attn.Wqkv", chunk=(0, 3)),
        *make_linear_rules("backbone/layers/attention/key", f"{_LAYER}.attn.Wqkv", chunk=(1, 3)),
        *make_linear_rules("backbone/layers/attention/value", f"{_LAYER}.attn.Wqkv", chunk=(2, 3)),
        *make_linear_rules("backbone/layers/attention/output", f"{_LAYER}.attn.Wo"),
        *make_norm_rules("backbone/layers/mlp_norm", f"{_LAYER}.mlp_norm"),
        *make_linear_rules("backbone/layers/mlp/up", f"{_LAYER}.mlp.Wi", chunk=(0, 2)),
        *make_linear_rules("backbone/layers/mlp/gate", f"{_LAYER}.mlp.Wi", chunk=(1, 2)),
        *make_linear_rules("backbone/layers/mlp/down", f"{_LAYER}.mlp.Wo"),
        *make_norm_rules("backbone/norm", "model.final_norm"),
    ],
    canonical=make_canonical_names("model", "embeddings", "layers", "final_norm"),
    # The head of pretraining or of another task, or for other labels.
    ignore=[r"^(head|decoder|classifier)\."],
)


def _configure_head(config: ModernBertConfig) -> Mapping[str, Any]:
    form = HeadForm(
        config.classifier_activation,
        norm_epsilon=config.layer_norm_eps,
        input_dropout=0.0,
        has_dense_bias=config.has_classifier_bias,
        has_norm_bias=config.has_norm_bias,
    )
    return {"form": form}


def _configure_text_head(config: ModernBertConfig) -> Mapping[str, Any]:
    return {**_configure_head(config), "pool": config.classifier_pooling}


def _configure_masked_head(config: ModernBertConfig) -> Mapping[str, Any]:
    return {"form": dataclasses.replace(_configure_head(config)["form"], has_bias=config.has_decoder_bias)}


_LABEL_RULES = [
    *make_linear_rules("head/dense", "head.dense"),
    *make_norm_rules("head/norm", "head.norm"),
    *make_linear_rules("head", "classifier"),
]

HEADS = {
    HeadKind.TOKEN: Head(
        "ModernBertForTokenClassification",
        _LABEL_RULES,
        read_dropout=read_head_dropout,
        configure=_configure_head,
    ),
    HeadKind.SEQUENCE: Head(
        "ModernBertForSequenceClassification",
        _LABEL_RULES,
        read_dropout=read_head_dropout,
        configure=_configure_text_head,
    ),
    HeadKind.QUESTION: Head(
        "ModernBertForQuestionAnswering",
        _LABEL_RULES,
        read_dropout=read_head_dropout,
        configure=_configure_head,
    ),
    HeadKind.MASKED: Head(
        "ModernBertForMaskedLM",
        make_masked_head_rules("head.dense", "head.norm", "decoder", tied_bias="decoder.bias"),
        configure=_configure_masked_head,
    ),
    HeadKind.SHARED: Head("ModernBertModel", read_dropout=read_head_dropout),
}
