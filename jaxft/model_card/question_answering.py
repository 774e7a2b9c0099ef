"""What the model card says of a model that answers questions about a context."""

from collections.abc import Callable, Mapping

from jaxft import workdir

TASK = "question-answering"  # the hub's name
TAGS = ["question-answering"]
# Metrics in the card's metadata, by their names there: key of the evaluation, and text.
METRICS = {"exact_match": ("exact_match", "exact match"), "f1": ("f1", "F1")}


def origin(run: workdir.Run, parameters: int) -> list[str]:
    """What the model is, in a paragraph."""
    return [
        "A BERT with a linear layer that finds the span of a context that answers a question "
        f"({parameters:,} parameters, float32), fine-tuned with jaxft (JAX/Flax) and converted to PyTorch's layout.",
        "",
    ]


def scores(evaluations: Mapping[str, dict], public: Callable[[str], str]) -> str:
    """A table of each set's scores, of all questions and of those with and without an answer."""
    heads = [f"{name} (`{public(found['data'])}`)" for name, found in evaluations.items()]
    rows = [f"| score | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    for name in dict.fromkeys(name for found in evaluations.values() for name in found["metrics"]):
        cells = []
        for found in evaluations.values():
            value, interval = found["metrics"].get(name), (found.get("intervals") or {}).get(name)
            between = f" ({'–'.join(f'{x:.3f}' for x in interval)})" if interval else ""
            cells.append("-" if value is None else f"{value:.4g}{between}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    note = "Exact match and F1 as in SQuAD's official script, shares of 1."
    note += f" Read: {'; '.join(dict.fromkeys(found['method'] for found in evaluations.values()))}."
    if any("intervals" in found for found in evaluations.values()):
        note += " In brackets: 95% bootstrap intervals over questions; they don't cover the choice of seed."
    if "dev" in evaluations:
        note += " Dev chose the weights and the threshold of no answer, so its scores are optimistic."
    return "\n".join([*rows, "", note])


def usage(run: workdir.Run) -> str:
    """How transformers is told to answer a question."""
    threshold, config = run.tuned.get("null_threshold"), run.config
    stride = "" if config.data.stride is None else f" of which {config.data.stride} tokens are shared"
    said = f"""```python
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
model = AutoModelForQuestionAnswering.from_pretrained("PATH_OF_THIS_FOLDER").eval()


def answer(question, context, longest={config.eval.max_answer}):
    text = tokenizer(question, context, truncation="only_second", max_length={config.data.max_length},
                     return_offsets_mapping=True, return_tensors="pt")
    offsets = text.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        found = model(**text)
    first, last = found.start_logits[0], found.end_logits[0]
    scores = first[:, None] + last[None]
    inside = torch.tensor([part == 1 for part in text.sequence_ids(0)])
    scores[~inside] = scores[:, ~inside] = -torch.inf
    scores = scores.where(torch.ones_like(scores).triu().tril(longest - 1) > 0, -torch.inf)
    start, end = divmod(int(scores.argmax()), len(offsets))
"""
    if threshold is not None:
        said += f"""    if first[0] + last[0] - scores.max() > {threshold!r}:
        return ""  # the context has no answer
"""
    said += """    return context[offsets[start][0] : offsets[end][1]]


answer("...", "...")
```

"""
    said += (
        "This reads the beginning of a context. In training and evaluation long ones were read in windows"
        f"{stride}; the best answer of all windows counts, and the least score of no answer."
    )
    if threshold is not None:
        said += f" The threshold, tuned on dev, is `null_threshold` in config.json: {threshold:.3f}."
    return said
