"""Maps the parameters of DistilBERT and of its heads to the tensors of Hugging Face checkpoints."""

from jaxft.hub.weights import WeightRule, WeightTable, make_linear_rules, make_norm_rules
from jaxft.layers.heads.classification import HeadForm
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.distilbert.config import read_question_dropout, read_text_dropout, read_token_dropout
from jaxft.models.encoder_family import make_canonical_names, make_masked_head_rules
from jaxft.models.family import Head

_EMBEDDINGS, _LAYER = "distilbert.embeddings", "distilbert.transformer.layer.{layer}"

# The table of models with a `DistilBert` at `backbone`, without a head.
TABLE = WeightTable(
    rules=[
        WeightRule("backbone/embeddings/word/embedding", f"{_EMBEDDINGS}.word_embeddings.weight"),
        WeightRule("backbone/embeddings/position/embedding", f"{_EMBEDDINGS}.position_embeddings.weight"),
        *make_norm_rules("backbone/embeddings/norm", f"{_EMBEDDINGS}.LayerNorm"),
        *make_linear_rules("backbone/layers/attention/query", f"{_LAYER}.attention.q_lin"),
        *make_linear_rules("backbone/layers/attention/key", f"{_LAYER}.attention.k_lin"),
        *make_linear_rules("backbone/layers/attention/value", f"{_LAYER}.attention.v_lin"),
        *make_linear_rules("backbone/layers/attention/output", f"{_LAYER}.attention.out_lin"),
        *make_norm_rules("backbone/layers/attention_norm", f"{_LAYER}.sa_layer_norm"),
        *make_linear_rules("backbone/layers/mlp/up", f"{_LAYER}.ffn.lin1"),
        *make_linear_rules("backbone/layers/mlp/down", f"{_LAYER}.ffn.lin2"),
        *make_norm_rules("backbone/layers/mlp_norm", f"{_LAYER}.output_layer_norm"),
    ],
    canonical=make_canonical_names("distilbert", "embeddings", "transformer"),
    ignore=[
        r"^distilbert\.embeddings\.position_ids$",  # a constant that early versions saved
        r"^vocab_(transform|layer_norm|projector)\.",  # the head of pretraining
        r"^(pre_classifier|classifier|qa_outputs)\.",  # a head of another task, or for other labels
    ],
)

HEADS = {
    HeadKind.TOKEN: Head(
        "DistilBertForTokenClassification",
        make_linear_rules("head", "classifier"),
        read_dropout=read_token_dropout,
    ),
    HeadKind.SEQUENCE: Head(
        "DistilBertForSequenceClassification",
        [*make_linear_rules("head/dense", "pre_classifier"), *make_linear_rules("head", "classifier")],
        pool="cls",
        form=HeadForm("relu", input_dropout=0.0),
        read_dropout=read_text_dropout,
    ),
    HeadKind.QUESTION: Head(
        "DistilBertForQuestionAnswering",
        make_linear_rules("head", "qa_outputs"),
        read_dropout=read_question_dropout,
    ),
    HeadKind.MASKED: Head(
        "DistilBertForMaskedLM",
        make_masked_head_rules(
            "vocab_transform", "vocab_layer_norm", "vocab_projector", tied_bias="vocab_projector.bias"
        ),
    ),
    HeadKind.SHARED: Head("DistilBertModel", read_dropout=read_token_dropout),
}
