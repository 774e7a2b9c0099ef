"""Maps the parameters of ERNIE and of its heads to the tensors of Hugging Face checkpoints."""

from jaxft.hub.weights import WeightTable, make_linear_rules
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.encoder_family import make_canonical_names, make_encoder_rules, read_classifier_dropout
from jaxft.models.family import Head

TABLE = WeightTable(
    rules=[*make_encoder_rules("ernie"), *make_linear_rules("backbone/pooler", "ernie.pooler.dense")],
    # An ErnieModel that was saved alone has names without the prefix.
    canonical=make_canonical_names("ernie", "embeddings", "encoder", "pooler"),
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
