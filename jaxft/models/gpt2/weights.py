"""What a Hugging Face GPT-2 checkpoint means: its sizes, its names of tensors, its config for export."""

from jaxft.hub.weights import WeightRule, WeightTable, norm_rules


def _linear(ours: str, theirs: str, part: tuple[int, int] | None = None) -> list[WeightRule]:
    # GPT-2 calls its linear layers Conv1D: their weights are [in, out], as our kernels.
    return [
        WeightRule(f"{ours}/kernel", f"{theirs}.weight", part=part),
        WeightRule(f"{ours}/bias", f"{theirs}.bias", part=part),
    ]


_LAYER = "transformer.h.{layer}"

# Of a model with a `GPT2` under `backbone`: GPT2LMHeadModel, and a GPT-2 with another head or none. Heads are those of
# GPT2ForTokenClassification and, without bias, GPT2ForSequenceClassification.
TABLE = WeightTable(
    rules=[
        WeightRule("backbone/embeddings/word/embedding", "transformer.wte.weight"),
        WeightRule("backbone/embeddings/position/embedding", "transformer.wpe.weight"),
        *norm_rules("backbone/layers/attention_norm", f"{_LAYER}.ln_1"),
        # Query, key and value stand side by side in one tensor, [in, 3 * out].
        *_linear("backbone/layers/attention/query", f"{_LAYER}.attn.c_attn", part=(0, 3)),
        *_linear("backbone/layers/attention/key", f"{_LAYER}.attn.c_attn", part=(1, 3)),
        *_linear("backbone/layers/attention/value", f"{_LAYER}.attn.c_attn", part=(2, 3)),
        *_linear("backbone/layers/attention/output", f"{_LAYER}.attn.c_proj"),
        *norm_rules("backbone/layers/mlp_norm", f"{_LAYER}.ln_2"),
        *_linear("backbone/layers/mlp/up", f"{_LAYER}.mlp.c_fc"),
        *_linear("backbone/layers/mlp/down", f"{_LAYER}.mlp.c_proj"),
        *norm_rules("backbone/norm", "transformer.ln_f"),
        WeightRule("head/kernel", "classifier.weight", "transpose"),
        WeightRule("head/bias", "classifier.bias"),
        WeightRule("head/score/kernel", "score.weight", "transpose"),
    ],
    canonical=[(r"^(wte|wpe|h|ln_f)\.", r"transformer.\1.")],  # saved from a bare GPT2Model
    ignore=[
        r"^transformer\.h\.\d+\.attn\.(bias|masked_bias)$",  # the causal mask, saved by early versions
        r"^lm_head\.weight$",  # the word embeddings once more (`sizes` refuses configs that untie them)
        r"^(score|classifier|multiple_choice_head\.summary)\.",  # heads of other tasks
    ],
)
