"""Writes the sections of the model card of a model that answers questions about a context."""

from jaxft.data.encoding.questions import default_stride, max_question_tokens
from jaxft.tasks.card_tables import (
    Evaluations,
    Redact,
    explain_intervals,
    join_methods,
    list_metrics,
    make_score_rows,
    make_set_header,
    warn_of_dev,
)
from jaxft.tasks.question_answering.settings import Settings
from jaxft.tasks.run_facts import RunFacts

HUB_TASK = "question-answering"  # the hub's name of the task
HUB_TAGS = ["question-answering"]
# Metrics in the card's metadata: the hub's name -> (key of the evaluation, text).
HUB_METRICS = {"exact_match": ("exact_match", "exact match"), "f1": ("f1", "F1")}


def describe_model(run: RunFacts[Settings], parameters: int) -> list[str]:
    """Returns lines that describe the model: a paragraph."""
    return [
        f"A {run.backbone_name} with a linear layer that finds the span of a context that answers a question "
        f"({parameters:,} parameters, float32), fine-tuned with jaxft (JAX/Flax) and converted to PyTorch's layout.",
        "",
    ]


def tabulate_scores(evaluations: Evaluations, redact: Redact) -> str:
    """Returns a table of each data set's scores, over all questions and over questions with and without an answer."""
    rows = make_set_header("score", evaluations, redact)
    rows += make_score_rows(evaluations, list_metrics(evaluations))
    note = (
        "Exact match and F1 as in SQuAD's official script, shares of 1. "
        f"Read: {join_methods(evaluations)}.{explain_intervals(evaluations, 'questions')}"
        f"{warn_of_dev(evaluations, 'the weights and the threshold of no answer')}"
    )
    return "\n".join([*rows, "", note])


def describe_usage(run: RunFacts[Settings]) -> str:
    """Returns PyTorch code that answers a question. Since version 5, transformers has a class but no pipeline."""
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
    section = f"""```python
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
        section += f""" None is given where the least score of no answer is higher by more than the threshold,
tuned on dev: `null_threshold` in config.json, {threshold:.3f}."""
    return section
