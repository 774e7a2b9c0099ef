"""Writes the sections of the model card of a masked language model."""

from jaxft.tasks.card_tables import (
    Evaluations,
    Redact,
    join_methods,
    list_metrics,
    make_row,
    make_set_header,
    warn_of_dev,
)
from jaxft.tasks.masked_lm.data import MASK
from jaxft.tasks.masked_lm.settings import Settings
from jaxft.tasks.run_facts import RunFacts

HUB_TASK = "fill-mask"  # the hub's name of the task
HUB_TAGS = ["fill-mask", "masked-lm"]
# Metrics in the card's metadata: the hub's name -> (key of the evaluation, text).
HUB_METRICS = {
    "perplexity": ("perplexity", "perplexity a masked token"),
    "accuracy": ("token_accuracy", "accuracy of masked tokens"),
}


def describe_model(run: RunFacts[Settings], parameters: int) -> list[str]:
    """Returns lines that describe the model: a paragraph and the first items of a list."""
    data = run.config.data
    return [
        f"A {run.backbone_name} ({parameters:,} parameters, float32), trained to fill masks with jaxft (JAX/Flax) and "
        "converted to PyTorch's layout.",
        "",
        f"- Vocabulary: {len(run.checkpoint.tokenizer):,} tokens",
        f"- Masks: {data.mask_probability:.0%} of the {'words' if data.mask_whole_words else 'tokens'} of a window, of "
        "which 80% became masks, 10% random words, and 10% stayed",
    ]


def tabulate_scores(evaluations: Evaluations, redact: Redact) -> str:
    """Returns a table of each data set's metrics, and the method of measuring them."""
    rows = make_set_header("metric", evaluations, redact)
    for name in list_metrics(evaluations):
        values = (evaluation["metrics"].get(name) for evaluation in evaluations.values())
        rows.append(make_row([name, *("-" if value is None else f"{value:,.6g}" for value in values)]))
    note = f"Measured on {join_methods(evaluations)}. `loss` is in nats a masked token."
    note += warn_of_dev(evaluations, "the weights")
    return "\n".join([*rows, "", note])


def describe_usage(run: RunFacts[Settings]) -> str:
    """Returns a section that shows how to fill masks with transformers."""
    mask = run.checkpoint.tokenizer.mask_token or MASK
    return (
        "```python\nfrom transformers import pipeline\n\n"
        'fill = pipeline("fill-mask", model="PATH_OF_THIS_FOLDER")\n'
        f'fill("The capital of France is {mask}.")\n```\n\n'
        f"Windows had {run.config.data.max_length} tokens, special tokens included."
    )
