"""Writes the sections of the model card of a language model."""

from jaxft.tasks.card_tables import (
    Evaluations,
    Redact,
    code,
    join_methods,
    list_metrics,
    make_row,
    make_set_header,
    warn_of_dev,
)
from jaxft.tasks.causal_lm.settings import Settings
from jaxft.tasks.run_facts import RunFacts

HUB_TASK = "text-generation"  # the hub's name of the task
HUB_TAGS = ["text-generation", "causal-lm"]
# Metrics in the card's metadata: the hub's name -> (key of the evaluation, text).
HUB_METRICS = {
    "perplexity": ("perplexity", "perplexity a token"),
    "bits_per_byte": ("bits_per_byte", "bits per byte"),
    "rouge": ("rougeL", "ROUGE-L of generated targets"),
    "bleu": ("bleu", "BLEU of generated targets"),
}


def describe_model(run: RunFacts[Settings], parameters: int) -> list[str]:
    """Returns lines that describe the model: a paragraph and the first items of a list."""
    learnt = (
        "on documents"
        if run.config.data.template is None
        else f"to continue prompts with their targets, by the template {code(repr(run.config.data.template))}"
    )
    return [
        f"A {run.backbone_name} ({parameters:,} parameters, float32), trained {learnt} with jaxft (JAX/Flax) and "
        "converted to PyTorch's layout.",
        "",
        f"- Vocabulary: {len(run.checkpoint.tokenizer):,} tokens",
    ]


def tabulate_scores(evaluations: Evaluations, redact: Redact) -> str:
    """Returns a table of each data set's metrics, and the method of measuring them."""
    rows = make_set_header("metric", evaluations, redact)
    for name in list_metrics(evaluations):
        values = (evaluation["metrics"].get(name) for evaluation in evaluations.values())
        rows.append(make_row([name, *map(_format_value, values)]))
    note = f"Measured on {join_methods(evaluations)}. `loss` is in nats a token; `perplexity` is of a token."
    note += warn_of_dev(evaluations, "the weights")
    return "\n".join([*rows, "", note])


def _format_value(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.4g}"


def describe_usage(run: RunFacts[Settings]) -> str:
    """Returns a section that shows how to continue text with transformers."""
    return (
        "```python\nfrom transformers import pipeline\n\n"
        'generate = pipeline("text-generation", model="PATH_OF_THIS_FOLDER")\n'
        'generate("...", max_new_tokens=64)\n```\n\n'
        "A text ends with the tokenizer's end-of-text token; in training each document began with it too. Windows "
        f"had {run.config.data.max_length} tokens."
    )
