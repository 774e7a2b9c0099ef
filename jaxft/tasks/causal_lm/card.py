"""What the model card says of a language model."""

from collections.abc import Callable, Mapping

from jaxft.tasks.run_facts import RunFacts

TASK = "text-generation"  # the hub's name
TAGS = ["text-generation", "causal-lm"]
# Metrics in the card's metadata, by their names there: key of the evaluation, and text.
METRICS = {
    "perplexity": ("perplexity", "perplexity a token"),
    "bits_per_byte": ("bits_per_byte", "bits per byte"),
    "rouge": ("rougeL", "ROUGE-L of generated targets"),
    "bleu": ("bleu", "BLEU of generated targets"),
}


def origin(run: RunFacts, parameters: int) -> list[str]:
    """What the model is, in a paragraph and the first lines of a list."""
    learnt = (
        "on documents"
        if run.config.data.template is None
        else f"to continue prompts with their targets, by the template `{run.config.data.template!r}`"
    )
    return [
        f"A GPT-2 ({parameters:,} parameters, float32), trained {learnt} with jaxft (JAX/Flax) and converted to "
        "PyTorch's layout.",
        "",
        f"- Vocabulary: {len(run.checkpoint.tokenizer):,} tokens",
    ]


def scores(evaluations: Mapping[str, dict], public: Callable[[str], str]) -> str:
    """A table of each set's metrics, and how they were measured."""
    names = list(dict.fromkeys(name for found in evaluations.values() for name in found["metrics"]))
    heads = (f"{name} (`{public(found['data'])}`)" for name, found in evaluations.items())
    rows = [f"| metric | {' | '.join(heads)} |"]
    rows.append("|---|" + "--:|" * len(evaluations))
    for name in names:
        values = [found["metrics"].get(name) for found in evaluations.values()]
        cells = ("-" if v is None else f"{v:,.0f}" if v >= 1000 else f"{v:,.4g}" for v in values)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    methods = dict.fromkeys(found["method"] for found in evaluations.values())
    note = f"Measured on {'; '.join(methods)}. `loss` is in nats a token; `perplexity` is of a token."
    if "dev" in evaluations:
        note += " Dev chose the weights, so its scores are optimistic."
    return "\n".join([*rows, "", note])


def usage(run: RunFacts) -> str:
    """How transformers is told to continue text."""
    return (
        "```python\nfrom transformers import pipeline\n\n"
        'generate = pipeline("text-generation", model="PATH_OF_THIS_FOLDER")\n'
        'generate("...", max_new_tokens=64)\n```\n\n'
        "A text ends with the tokenizer's end-of-text token; in training each document began with it too. Windows "
        f"had {run.config.data.max_length} tokens."
    )
