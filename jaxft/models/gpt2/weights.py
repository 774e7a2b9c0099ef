"""Maps the parameters of GPT-2 and of its heads to the tensors of Hugging Face checkpoints."""

from jaxft.hub.weights import WeightRule, WeightTable, make_linear_rules, make_norm_rules
from jaxft.layers.heads.classification import HeadForm
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.family import Head
from jaxft.models.gpt2.config import read_classifier_dropout


def _conv1d_rules(parameter: str, tensor: str, chunk: tuple[int, int] | None = None) -> list[WeightRule]:
    """Returns the rules of a linear layer, for its parameter path and its tensor name without their last parts.

    transformers' GPT-2 calls its linear layers Conv1D. Their weights are `[in, out]`, like jaxft's kernels.
    """
    return [
        WeightRule(f"{parameter}/kernel", f"{tensor}.weight", chunk=chunk),
        WeightRule(f"{parameter}/bias", f"{tensor}.bias", chunk=chunk),
    ]


_LAYER = "transformer.h.{layer}"

# The table of models with a `GPT2` at `backbone`, without a head.
TABLE = WeightTable(
    rules=[
        WeightRule("backbone/embeddings/word/embedding", "transformer.wte.weight"),
        WeightRule("backbone/embeddings/position/embedding", "transformer.wpe.weight"),
        *make_norm_rules("backbone/layers/attention_norm", f"{_LAYER}.ln_1"),
        # Query, key and value are three chunks of one tensor, [in, 3 * out].
        *_conv1d_rules("backbone/layers/attention/query", f"{_LAYER}.attn.c_attn", chunk=(0, 3)),
        *_conv1d_rules("backbone/layers/attention/key", f"{_LAYER}.attn.c_attn", chunk=(1, 3)),
        *_conv1d_rules("backbone/layers/attention/value", f"{_LAYER}.attn.c_attn", chunk=(2, 3)),
        *_conv1d_rules("backbone/layers/attention/output", f"{_LAYER}.attn.c_proj"),
        *make_norm_rules("backbone/layers/mlp_norm", f"{_LAYER}.ln_2"),
        *_conv1d_rules("backbone/layers/mlp/up", f"{_LAYER}.mlp.c_fc"),
        *_conv1d_rules("backbone/layers/mlp/down", f"{_LAYER}.mlp.c_proj"),
        *make_norm_rules("backbone/norm", "transformer.ln_f"),
    ],
    canonical=[(r"^(wte|wpe|h|ln_f)\.", r"transformer.\1.")],  # names of a GPT2Model that was saved alone
    ignore=[
        r"^transformer\.h\.\d+\.attn\.(bias|masked_bias)$",  # the causal mask, which early versions saved
        r"^lm_head\.weight$",  # a copy of the word embeddings (`GPT2Config.from_hf` refuses configs that untie them)
        r"^(score|classifier|multiple_choice_head\.summary)\.",  # heads of other tasks
    ],
)

HEADS = {
    HeadKind.TOKEN: Head(
        "GPT2ForTokenClassification",
        make_linear_rules("head", "classifier"),
        read_dropout=read_classifier_dropout,
    ),
    HeadKind.SEQUENCE: Head(
        "GPT2ForSequenceClassification",
        [WeightRule("head/kernel", "score.weight", "transpose")],
        pool="last",
        form=HeadForm(has_bias=False),
        read_dropout=read_classifier_dropout,
    ),
    HeadKind.NEXT_TOKEN: Head("GPT2LMHeadModel"),  # its output layer is the word embeddings
}
