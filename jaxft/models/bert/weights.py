"""What a Hugging Face BERT checkpoint means: its sizes, its names of tensors, its config for export."""

from jaxft.hub.weights import WeightRule, WeightTable, norm_rules


def _linear(ours: str, theirs: str) -> list[WeightRule]:
    return [
        WeightRule(f"{ours}/kernel", f"{theirs}.weight", "transpose"),
        WeightRule(f"{ours}/bias", f"{theirs}.bias"),
    ]


_LAYER = "bert.encoder.layer.{layer}"

# Of a `TokenClassifier` or a `SequenceClassifier` over a `Bert`: the classes of these names in transformers, and
# any BERT without their head. `qa_outputs` is what question answering exports its head as.
TABLE = WeightTable(
    rules=[
        WeightRule("backbone/embeddings/word/embedding", "bert.embeddings.word_embeddings.weight"),
        WeightRule("backbone/embeddings/position/embedding", "bert.embeddings.position_embeddings.weight"),
        WeightRule("backbone/embeddings/type/embedding", "bert.embeddings.token_type_embeddings.weight"),
        *norm_rules("backbone/embeddings/norm", "bert.embeddings.LayerNorm"),
        *_linear("backbone/layers/attention/query", f"{_LAYER}.attention.self.query"),
        *_linear("backbone/layers/attention/key", f"{_LAYER}.attention.self.key"),
        *_linear("backbone/layers/attention/value", f"{_LAYER}.attention.self.value"),
        *_linear("backbone/layers/attention/output", f"{_LAYER}.attention.output.dense"),
        *norm_rules("backbone/layers/attention_norm", f"{_LAYER}.attention.output.LayerNorm"),
        *_linear("backbone/layers/mlp/up", f"{_LAYER}.intermediate.dense"),
        *_linear("backbone/layers/mlp/down", f"{_LAYER}.output.dense"),
        *norm_rules("backbone/layers/mlp_norm", f"{_LAYER}.output.LayerNorm"),
        *_linear("backbone/pooler", "bert.pooler.dense"),
        *_linear("head", "classifier"),
        *_linear("qa_outputs", "qa_outputs"),
    ],
    canonical=[
        (r"^(embeddings|encoder|pooler)\.", r"bert.\1."),  # saved from a bare BertModel
        (r"LayerNorm\.gamma$", "LayerNorm.weight"),  # converted from TensorFlow by early versions
        (r"LayerNorm\.beta$", "LayerNorm.bias"),
    ],
    ignore=[
        r"^bert\.embeddings\.(position_ids|token_type_ids)$",  # constants that early versions saved
        r"^bert\.pooler\.dense\.(weight|bias)$",  # of no use where the task reads every token
        r"^cls\.(predictions|seq_relationship)\.",  # heads of pretraining
        r"^qa_outputs\.(weight|bias)$",  # head of question answering
        r"^classifier\.(weight|bias)$",  # another label set's head
    ],
)
