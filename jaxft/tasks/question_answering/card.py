"""What the model card says of a model that answers questions about a context."""

from collections.abc import Callable, Mapping

from jaxft.data.encoding.questions import default_stride, max_question_tokens
from jaxft.tasks.run_facts import RunFacts

TASK = "question-answering"  # the hub's name
TAGS = ["question-answering"]
# Metrics in the card's metadata, by their names there: key of the evaluation, and text.
METRICS = {"exact_match": ("exact_match", "exact match"), "f1": ("f1", "F1")}


def origin(run: RunFacts, parameters: int) -> list[str]:
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


def usage(run: RunFacts) -> str:
    """How torch is told to answer a question: transformers has a class, but since version 5 no pipeline."""
    threshold, data, tokenizer = run.tuned.get("null_threshold"), run.config.data, run.checkpoint.tokenizer
    stride = default_stride(tokenizer, data.max_length) if data.stride is None else data.stride
    lines = [
        "    best, text = -torch.inf, None",
        "    for window, (first, last) in enumerate(zip(found.start_logits, found.end_logits)):",
        "        inside = torch.tensor([part == 1 for part in windows.sequence_ids(window)])",
        "        scores = first[:, None] + last[None]",
        "        scores[~inside] = scores[:, ~inside] = -torch.inf",
        "        scores = scores.where(torch.ones_like(scores).triu().tril(longest - 1) > 0, -torch.inf)",
        "        if scores.max() > best:",
        "            start, end = divmod(int(scores.argmax()), len(first))",
        "            best, text = scores.max(), context[offsets[window][start][0] : offsets[window][end][1]]",
    ]
    if threshold is not None:
        lines += [
            "    none = (found.start_logits[:, 0] + found.end_logits[:, 0]).min()",
            f"    if none - best > {threshold!r}:",
            '        return ""  # the context has no answer',
        ]
    said = f"""```python
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
model = AutoModelForQuestionAnswering.from_pretrained("PATH_OF_THIS_FOLDER").eval()


def answer(question, context, longest={run.config.eval.max_answer}):
    if not context.strip():
        return ""
    # A question takes half a window at most.
    asked = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    question = question[: asked[:{max_question_tokens(tokenizer, data.max_length)}][-1][1]] if asked else ""
    windows = tokenizer(question, context, truncation="only_second", max_length={data.max_length}, stride={stride},
                        return_overflowing_tokens=True, return_offsets_mapping=True, padding=True, return_tensors="pt")
    windows.pop("overflow_to_sample_mapping")
    offsets = windows.pop("offset_mapping").tolist()
    with torch.no_grad():
        found = model(**windows)
{chr(10).join(lines)}
    return text


answer("...", "...")
```

Since version 5 transformers has no pipeline for questions. Long contexts are read as in training, in windows of
{data.max_length} tokens of which neighbours share {stride}: the best answer of all windows counts. Here all first and
last tokens are combined; in evaluation the {run.config.eval.n_best} likeliest of each were."""
    if threshold is not None:
        said += f""" None is given where the least score of no answer is higher by more than the threshold,
tuned on dev: `null_threshold` in config.json, {threshold:.3f}."""
    return said
