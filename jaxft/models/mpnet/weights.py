"""Maps the parameters of MPNet and of its heads to the tensors of Hugging Face checkpoints."""

from jaxft.hub.weights import WeightRule, WeightTable, make_linear_rules, make_norm_rules
from jaxft.layers.heads.classification import HeadForm
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.encoder_family import make_canonical_names, make_masked_head_rules, make_text_head_rules
from jaxft.models.family import Head
from jaxft.models.mpnet.config import read_head_dropout

_LAYER = "mpnet.encoder.layer.{layer}"

# The table of models with an `MPNet` at `backbone`, without a head.
TABLE = WeightTable(
    rules=[
        WeightRule("backbone/embeddings/word/embedding", "mpnet.embeddings.word_embeddings.weight"),
        WeightRule("backbone/embeddings/position/embedding", "mpnet.embeddings.position_embeddings.weight"),
        *make_norm_rules("backbone/embeddings/norm", "mpnet.embeddings.LayerNorm"),
        WeightRule("backbone/relative_bias/bias", "mpnet.encoder.relative_attention_bias.weight"),
        *make_linear_rules("backbone/layers/attention/query", f"{_LAYER}.attention.attn.q"),
        *make_linear_rules("backbone/layers/attention/key", f"{_LAYER}.attention.attn.k"),
        *make_linear_rules("backbone/layers/attention/value", f"{_LAYER}.attention.attn.v"),
        *make_linear_rules("backbone/layers/attention/output", f"{_LAYER}.attention.attn.o"),
        *make_norm_rules("backbone/layers/attention_norm", f"{_LAYER}.attention.LayerNorm"),
        *make_linear_rules("backbone/layers/mlp/up", f"{_LAYER}.intermediate.dense"),
        *make_linear_rules("backbone/layers/mlp/down", f"{_LAYER}.output.dense"),
        *make_norm_rules("backbone/layers/mlp_norm", f"{_LAYER}.output.LayerNorm"),
        *make_linear_rules("backbone/pooler", "mpnet.pooler.dense"),
    ],
    canonical=make_canonical_names("mpnet", "embeddings", "encoder", "pooler"),
    ignore=[
        r"^mpnet\.embeddings\.position_ids$",  # a constant that early versions saved
        r"^mpnet\.pooler\.dense\.(weight|bias)$",  # unused unless the task asks for it
        r"^lm_head\.",  # the head of pretraining
        r"^(classifier|qa_outputs)\.",  # a head of another task, or for other labels
    ],
)

HEADS = {
    HeadKind.TOKEN: Head(
        "MPNetForTokenClassification",
        make_linear_rules("head", "classifier"),
        read_dropout=read_head_dropout,
    ),
    HeadKind.SEQUENCE: Head(
        "MPNetForSequenceClassification",
        make_text_head_rules(),
        pool="cls",
        form=HeadForm("tanh"),
        read_dropout=read_head_dropout,
    ),
    HeadKind.QUESTION: Head("MPNetForQuestionAnswering", make_linear_rules("head", "qa_outputs")),
    HeadKind.MASKED: Head(
        "MPNetForMaskedLM",
        make_masked_head_rules(
            "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", tied_bias="lm_head.bias"
        ),
        form=HeadForm("gelu"),
    ),
    HeadKind.SHARED: Head("MPNetModel", read_dropout=read_head_dropout),
}
