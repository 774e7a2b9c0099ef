"""Maps the parameters of DeBERTa-v2 and of its heads to the tensors of Hugging Face checkpoints."""

from jaxft.hub.weights import WeightRule, WeightTable, make_linear_rules, make_norm_rules
from jaxft.layers.heads.classification import HeadForm
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.deberta_v2.config import DebertaV2Config, read_head_dropout, read_text_dropout
from jaxft.models.encoder_family import make_canonical_names, make_masked_head_rules
from jaxft.models.family import Head

_EMBEDDINGS, _ENCODER = "deberta.embeddings", "deberta.encoder"
_LAYER = f"{_ENCODER}.layer.{{layer}}"

# The table of models with a `DebertaV2` at `backbone`, without a head.
TABLE = WeightTable(
    rules=[
        WeightRule("backbone/embeddings/word/embedding", f"{_EMBEDDINGS}.word_embeddings.weight"),
        WeightRule("backbone/embeddings/position/embedding", f"{_EMBEDDINGS}.position_embeddings.weight"),
        WeightRule("backbone/embeddings/type/embedding", f"{_EMBEDDINGS}.token_type_embeddings.weight"),
        WeightRule("backbone/embeddings/projection/kernel", f"{_EMBEDDINGS}.embed_proj.weight", "transpose"),
        *make_norm_rules("backbone/embeddings/norm", f"{_EMBEDDINGS}.LayerNorm"),
        WeightRule("backbone/distances/table/embedding", f"{_ENCODER}.rel_embeddings.weight"),
        *make_norm_rules("backbone/distances/norm", f"{_ENCODER}.LayerNorm"),
        *make_linear_rules("backbone/conv", f"{_ENCODER}.conv.conv"),
        *make_norm_rules("backbone/conv/norm", f"{_ENCODER}.conv.LayerNorm"),
        *make_linear_rules("backbone/layers/attention/query", f"{_LAYER}.attention.self.query_proj"),
        *make_linear_rules("backbone/layers/attention/key", f"{_LAYER}.attention.self.key_proj"),
        *make_linear_rules("backbone/layers/attention/value", f"{_LAYER}.attention.self.value_proj"),
        *make_linear_rules("backbone/layers/attention/output", f"{_LAYER}.attention.output.dense"),
        *make_linear_rules("backbone/layers/distance_key", f"{_LAYER}.attention.self.pos_key_proj"),
        *make_linear_rules("backbone/layers/distance_query", f"{_LAYER}.attention.self.pos_query_proj"),
        *make_norm_rules("backbone/layers/attention_norm", f"{_LAYER}.attention.output.LayerNorm"),
        *make_linear_rules("backbone/layers/mlp/up", f"{_LAYER}.intermediate.dense"),
        *make_linear_rules("backbone/layers/mlp/down", f"{_LAYER}.output.dense"),
        *make_norm_rules("backbone/layers/mlp_norm", f"{_LAYER}.output.LayerNorm"),
    ],
    canonical=make_canonical_names("deberta", "embeddings", "encoder"),
    ignore=[
        # A constant that early versions saved, and a table that is not read if distances take its place.
        r"^deberta\.embeddings\.(position_ids|position_embeddings\.weight)$",
        r"^(cls\.predictions|lm_predictions|mask_predictions)\.",  # the heads of pretraining
        r"^(pooler|classifier|qa_outputs)\.",  # a head of another task, or for other labels
    ],
)


def _configure_text_head(config: DebertaV2Config) -> dict[str, HeadForm]:
    """Returns the layers of a head of texts, transformers' ContextPooler and what follows it."""
    return {"form": HeadForm(config.pooler_activation, input_dropout=config.pooler_dropout)}


def _configure_masked_head(config: DebertaV2Config) -> dict[str, list[WeightRule]]:
    """Returns the tensors of the head of masked words, of which transformers has two."""
    head, transform = "lm_predictions.lm_head", "lm_predictions.lm_head"
    if config.has_legacy_head:
        head, transform = "cls.predictions", "cls.predictions.transform"
    rules = make_masked_head_rules(
        f"{transform}.dense", f"{transform}.LayerNorm", f"{head}.decoder", tied_bias=f"{head}.bias"
    )
    return {"rules": rules}


HEADS = {
    HeadKind.TOKEN: Head(
        "DebertaV2ForTokenClassification",
        make_linear_rules("head", "classifier"),
        read_dropout=read_head_dropout,
    ),
    HeadKind.SEQUENCE: Head(
        "DebertaV2ForSequenceClassification",
        [*make_linear_rules("head/dense", "pooler.dense"), *make_linear_rules("head", "classifier")],
        pool="cls",
        configure=_configure_text_head,
        read_dropout=read_text_dropout,
    ),
    HeadKind.QUESTION: Head("DebertaV2ForQuestionAnswering", make_linear_rules("head", "qa_outputs")),
    HeadKind.MASKED: Head(
        "DebertaV2ForMaskedLM",
        configure=_configure_masked_head,
    ),
    HeadKind.SHARED: Head("DebertaV2Model", read_dropout=read_head_dropout),
}
