"""Maps the parameters of RoBERTa, XLM-R and CamemBERT and of their heads to tensors of Hugging Face checkpoints."""

from jaxft.hub.weights import WeightTable, make_linear_rules
from jaxft.layers.heads.classification import HeadForm
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.encoder_family import (
    make_canonical_names,
    make_encoder_rules,
    make_masked_head_rules,
    make_text_head_rules,
    read_classifier_dropout,
)
from jaxft.models.family import Head

# The table of models with a `Roberta` at `backbone`, without a head. The tensors have the same names in all three.
TABLE = WeightTable(
    rules=[*make_encoder_rules("roberta"), *make_linear_rules("backbone/pooler", "roberta.pooler.dense")],
    canonical=make_canonical_names("roberta", "embeddings", "encoder", "pooler"),
    ignore=[
        r"^roberta\.embeddings\.(position_ids|token_type_ids)$",  # constants that early versions saved
        r"^roberta\.pooler\.dense\.(weight|bias)$",  # unused unless the task asks for it
        r"^lm_head\.",  # the head of pretraining
        r"^(classifier|qa_outputs)\.",  # a head of another task, or for other labels
    ],
)


def make_heads(name: str) -> dict[HeadKind, Head]:
    """Returns the heads of a family whose classes in transformers begin with `name`."""
    return {
        HeadKind.TOKEN: Head(
            f"{name}ForTokenClassification",
            make_linear_rules("head", "classifier"),
            read_dropout=read_classifier_dropout,
        ),
        HeadKind.SEQUENCE: Head(
            f"{name}ForSequenceClassification",
            make_text_head_rules(),
            pool="cls",
            form=HeadForm("tanh"),
            read_dropout=read_classifier_dropout,
        ),
        HeadKind.QUESTION: Head(f"{name}ForQuestionAnswering", make_linear_rules("head", "qa_outputs")),
        HeadKind.MASKED: Head(
            f"{name}ForMaskedLM",
            make_masked_head_rules(
                "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", tied_bias="lm_head.bias"
            ),
            form=HeadForm("gelu"),
        ),
        HeadKind.SHARED: Head(f"{name}Model", read_dropout=read_classifier_dropout),
    }
