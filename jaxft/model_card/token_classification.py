"""What the model card says of a model that labels words."""

from collections.abc import Callable, Mapping

from jaxft import workdir

TASK = "token-classification"  # the hub's name
TAGS = ["token-classification", "named-entity-recognition"]
# Metrics in the card's metadata, by their names there: key of the evaluation, and text.
METRICS = {name: (f"entity_{name}", f"entity {name}, strict") for name in ("f1", "precision", "recall")}


def origin(run: workdir.Run, parameters: int) -> list[str]:
    """What the model is, in a paragraph and the first lines of a list."""
    types = dict.fromkeys(label[2:] for label in run.labels if label != "O")
    return [
        f"A BERT with a linear layer over {len(run.labels)} IOB2 labels ({parameters:,} parameters, float32), "
        f"fine-tuned with jaxft (JAX/Flax) and converted to PyTorch's layout.",
        "",
        f"- Types: {', '.join(types) or 'none'}",
    ]


def scores(evaluations: Mapping[str, dict], public: Callable[[str], str]) -> str:
    """Tables of entity scores, of all types and by type."""
    rows = ["| set | sentences | entities | precision | recall | F1 | F1, lenient |", "|---|" + "--:|" * 6]
    for name, found in evaluations.items():
        metrics, intervals = found["metrics"], found.get("intervals") or {}
        cells = [f"{name} (`{public(found['data'])}`)", f"{found['sentences']:,}"]
        cells.append(f"{metrics['entity_support']:,.0f}")
        for key in ("entity_precision", "entity_recall", "entity_f1", "lenient_f1"):
            between = f" ({'–'.join(f'{100 * x:.1f}' for x in intervals[key])})" if key in intervals else ""
            cells.append(f"{100 * metrics[key]:.2f}{between}")
        rows.append(f"| {' | '.join(cells)} |")
    note = (
        "Entities in percent, micro average: strict as seqeval in IOB2 mode, lenient as conlleval. "
        "Scored per word, sentences of any length whole."
    )
    if any("intervals" in found for found in evaluations.values()):
        note += " In brackets: 95% bootstrap intervals over sentences; they don't cover the choice of seed."
    if "dev" in evaluations:
        note += " Dev chose the weights, so its scores are optimistic."
    kinds = sorted({k for e in evaluations.values() for k in e["metrics"] if k.startswith("entity_f1/")})
    if kinds:
        rows += ["", f"| F1 by type | {' | '.join(evaluations)} |", "|---|" + "--:|" * len(evaluations)]
        for kind in kinds:
            values = (e["metrics"].get(kind) for e in evaluations.values())
            cells = ["-" if value is None else f"{100 * value:.2f}" for value in values]
            rows.append(f"| {kind.partition('/')[2]} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", note])


def usage(run: workdir.Run) -> str:
    """How transformers is told to tag text."""
    return (
        "```python\nfrom transformers import pipeline\n\n"
        'tag = pipeline("token-classification", model="PATH_OF_THIS_FOLDER", aggregation_strategy="first")\n'
        'tag("...")\n```\n\n'
        "A word's label is that of its first subword, hence `first`. The pipeline cuts text into words by the "
        f"tokenizer's rules; words were those of the data in training, in windows of {run.config.data.max_length} "
        "subwords."
    )
