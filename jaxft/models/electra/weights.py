"""Maps the parameters of ELECTRA and of its heads to the tensors of Hugging Face checkpoints."""

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

# The table of models with an `Electra` at `backbone`, without a head.
TABLE = WeightTable(
    rules=[
        *make_encoder_rules("electra"),
        *make_linear_rules("backbone/projection", "electra.embeddings_project"),
    ],
    canonical=make_canonical_names("electra", "embeddings", "embeddings_project", "encoder"),
    ignore=[
        r"^electra\.embeddings\.(position_ids|token_type_ids)$",  # constants that early versions saved
        r"^discriminator_predictions\.",  # the heads of pretraining
        r"^generator_(predictions|lm_head)\.",
        r"^(classifier|qa_outputs)\.",  # a head of another task, or for other labels
    ],
)

HEADS = {
    HeadKind.TOKEN: Head(
        "ElectraForTokenClassification",
        make_linear_rules("head", "classifier"),
        read_dropout=read_classifier_dropout,
    ),
    HeadKind.SEQUENCE: Head(
        "ElectraForSequenceClassification",
        make_text_head_rules(),
        pool="cls",
        form=HeadForm("gelu"),
        read_dropout=read_classifier_dropout,
    ),
    HeadKind.QUESTION: Head("ElectraForQuestionAnswering", make_linear_rules("head", "qa_outputs")),
    HeadKind.MASKED: Head(  # of the generator
        "ElectraForMaskedLM",
        make_masked_head_rules(
            "generator_predictions.dense",
            "generator_predictions.LayerNorm",
            "generator_lm_head",
            tied_bias="generator_lm_head.bias",
        ),
        form=HeadForm("gelu"),
    ),
    HeadKind.SHARED: Head("ElectraModel", read_dropout=read_classifier_dropout),
}
