"""Maps the parameters of ERNIE and of its heads to the tensors of Hugging Face checkpoints."""

from jaxft.hub.weights import WeightRule, WeightTable, make_linear_rules, make_norm_rules
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.ernie.config import read_classifier_dropout
from jaxft.models.family import Head

_LAYER = "ernie.encoder.layer.{layer}"

TABLE = WeightTable(
    rules=[
        WeightRule("backbone/word/embedding", "ernie.embeddings.word_embeddings.weight"),
        WeightRule("backbone/position/embedding", "ernie.embeddings.position_embeddings.weight"),
        WeightRule("backbone/type/embedding", "ernie.embeddings.token_type_embeddings.weight"),
        *make_norm_rules("backbone/norm", "ernie.embeddings.LayerNorm"),
        *make_linear_rules("backbone/layers/query", f"{_LAYER}.attention.self.query"),
        *make_linear_rules("backbone/layers/key", f"{_LAYER}.attention.self.key"),
        *make_linear_rules("backbone/layers/value", f"{_LAYER}.attention.self.value"),
        *make_linear_rules("backbone/layers/output", f"{_LAYER}.attention.output.dense"),
        *make_norm_rules("backbone/layers/attention_norm", f"{_LAYER}.attention.output.LayerNorm"),
        *make_linear_rules("backbone/layers/mlp/up", f"{_LAYER}.intermediate.dense"),
        *make_linear_rules("backbone/layers/mlp/down", f"{_LAYER}.output.dense"),
        *make_norm_rules("backbone/layers/mlp_norm", f"{_LAYER}.output.LayerNorm"),
        *make_linear_rules("backbone/pooler", "ernie.pooler.dense"),
    ],
    # An ErnieModel that was saved alone has names without the prefix.
    canonical=[(r"^(embeddings|encoder|pooler)\.", r"ernie.\1.")],
    ignore=[
        r"^ernie\.embeddings\.position_ids$",  # a constant
        r"^ernie\.pooler\.dense\.(weight|bias)$",  # unused if the task reads every token
        r"^cls\.",  # pretraining heads
        r"^(classifier|qa_outputs)\.(weight|bias)$",  # a head for other labels, or for another task
    ],
)

HEADS = {
    HeadKind.TOKEN: Head(
        "ErnieForTokenClassification",
        make_linear_rules("head", "classifier"),
        read_dropout=read_classifier_dropout,
    ),
    HeadKind.SEQUENCE: Head(
        "ErnieForSequenceClassification",
        make_linear_rules("head", "classifier"),
        pool="pooler",
        read_dropout=read_classifier_dropout,
    ),
}
