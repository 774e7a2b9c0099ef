"""Maps the parameters of BERT and of its heads to the tensors of Hugging Face checkpoints."""

from jaxft.hub.weights import WeightTable, make_linear_rules
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.encoder_family import (
    make_canonical_names,
    make_encoder_rules,
    make_masked_head_rules,
    read_classifier_dropout,
)
from jaxft.models.family import Head

# The table of models with a `Bert` at `backbone`, without a head.
TABLE = WeightTable(
    rules=[
        *make_encoder_rules("bert"),
        *make_linear_rules("backbone/pooler", "bert.pooler.dense"),
    ],
    canonical=make_canonical_names("bert", "embeddings", "encoder", "pooler"),
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
        make_masked_head_rules(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder",
            tied_bias="cls.predictions.bias",
        ),
    ),
    HeadKind.SHARED: Head("BertModel", read_dropout=read_classifier_dropout),
}
