"""Maps the parameters of BERT and of its heads to the tensors of Hugging Face checkpoints."""

from jaxft.hub.weights import WeightRule, WeightTable, make_linear_rules, make_norm_rules
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.bert.config import read_classifier_dropout
from jaxft.models.family import Head

_LAYER = "bert.encoder.layer.{layer}"

# The table of models with a `Bert` at `backbone`, without a head.
TABLE = WeightTable(
    rules=[
        WeightRule("backbone/embeddings/word/embedding", "bert.embeddings.word_embeddings.weight"),
        WeightRule("backbone/embeddings/position/embedding", "bert.embeddings.position_embeddings.weight"),
        WeightRule("backbone/embeddings/type/embedding", "bert.embeddings.token_type_embeddings.weight"),
        *make_norm_rules("backbone/embeddings/norm", "bert.embeddings.LayerNorm"),
        *make_linear_rules("backbone/layers/attention/query", f"{_LAYER}.attention.self.query"),
        *make_linear_rules("backbone/layers/attention/key", f"{_LAYER}.attention.self.key"),
        *make_linear_rules("backbone/layers/attention/value", f"{_LAYER}.attention.self.value"),
        *make_linear_rules("backbone/layers/attention/output", f"{_LAYER}.attention.output.dense"),
        *make_norm_rules("backbone/layers/attention_norm", f"{_LAYER}.attention.output.LayerNorm"),
        *make_linear_rules("backbone/layers/mlp/up", f"{_LAYER}.intermediate.dense"),
        *make_linear_rules("backbone/layers/mlp/down", f"{_LAYER}.output.dense"),
        *make_norm_rules("backbone/layers/mlp_norm", f"{_LAYER}.output.LayerNorm"),
        *make_linear_rules("backbone/pooler", "bert.pooler.dense"),
    ],
    canonical=[
        (r"^(embeddings|encoder|pooler)\.", r"bert.\1."),  # names of a BertModel that was saved alone
        (r"LayerNorm\.gamma$", "LayerNorm.weight"),  # converted from TensorFlow by early versions
        (r"LayerNorm\.beta$", "LayerNorm.bias"),
    ],
    ignore=[
        r"^bert\.embeddings\.(position_ids|token_type_ids)$",  # constants that early versions saved
        r"^bert\.pooler\.dense\.(weight|bias)$",  # unused if the task reads every token
        r"^cls\.(predictions|seq_relationship)\.",  # pretraining heads
        r"^qa_outputs\.(weight|bias)$",  # a question answering head
        r"^classifier\.(weight|bias)$",  # a head for other labels
    ],
)

HEADS = {
    HeadKind.TOKEN: Head(
        "BertForTokenClassification",
        make_linear_rules("head", "classifier"),
        read_dropout=read_classifier_dropout,
    ),
    HeadKind.SEQUENCE: Head(
        "BertForSequenceClassification",
        make_linear_rules("head", "classifier"),
        pool="pooler",
        read_dropout=read_classifier_dropout,
    ),
    HeadKind.QUESTION: Head("BertForQuestionAnswering", make_linear_rules("head", "qa_outputs")),
    HeadKind.MASKED: Head(
        "BertForMaskedLM",
        [
            *make_linear_rules("head/transform", "cls.predictions.transform.dense"),
            *make_norm_rules("head/norm", "cls.predictions.transform.LayerNorm"),
            WeightRule("head/bias", "cls.predictions.bias"),
            *make_linear_rules("head/decoder", "cls.predictions.decoder"),  # if it is not the word embeddings
        ],
    ),
    HeadKind.SHARED: Head("BertModel", read_dropout=read_classifier_dropout),
}
