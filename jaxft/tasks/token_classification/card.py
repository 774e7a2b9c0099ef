"""Writes the sections of the model card of a model that labels words."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.tasks.card_tables import (
    Evaluations,
    Redact,
    escape,
    explain_intervals,
    list_metrics,
    make_header,
    make_row,
    name_set,
    warn_of_dev,
)
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.token_classification.data import forms_entities
from jaxft.tasks.token_classification.settings import Settings

HUB_TASK = "token-classification"  # the hub's name of the task
HUB_TAGS = ["token-classification"]
# Metrics in the card's metadata: the hub's name -> (key of the evaluation, text).
HUB_METRICS = {name: (f"entity_{name}", f"entity {name}, strict") for name in ("f1", "precision", "recall")}
HUB_METRICS["accuracy"] = ("token_accuracy", "accuracy of words")


def describe_model(run: RunFacts[Settings], parameters: int) -> list[str]:
    """Returns lines that describe the model: a paragraph and the first items of a list."""
    head = "a linear layer and a linear-chain CRF" if run.config.model.crf else "a linear layer"
    has_entities = forms_entities(run.config, run.labels)
    kind = "IOB2 labels" if has_entities else "labels"
    types = dict.fromkeys(label[2:] for label in run.labels if label != "O") if has_entities else run.labels
    return [
        f"A {run.backbone_name} with {head} over {len(run.labels)} {kind} ({parameters:,} parameters, float32), "
        f"fine-tuned with jaxft (JAX/Flax) and converted to PyTorch's layout.",
        "",
        f"- {'Types' if has_entities else 'Labels'}: {', '.join(map(escape, types)) or 'none'}",
    ]


def tabulate_scores(evaluations: Evaluations, redact: Redact) -> str:
    """Returns tables of entity scores, over all types and by type. For plain labels see `_label_scores`."""
    if not any("entity_f1" in evaluation["metrics"] for evaluation in evaluations.values()):
        return _label_scores(evaluations, redact)
    columns = ("sentences", "entities", "precision", "recall", "F1", "F1, lenient")
    rows = make_header("set", columns)
    for name, evaluation in evaluations.items():
        scores = ("entity_precision", "entity_recall", "entity_f1", "lenient_f1")
        rows.append(_set_row(name, evaluation, redact, "entity_support", scores))
    note = (
        "Entities in percent, micro average: strict as seqeval in IOB2 mode, lenient as conlleval. "
        "Scored per word, sentences of any length whole."
    )
    rows += _rows_by_kind(evaluations, "entity_f1/", "type")
    return "\n".join([*rows, "", note + _caveats(evaluations)])


def _label_scores(evaluations: Evaluations, redact: Redact) -> str:
    """Returns tables of word accuracy and F1, over all labels and by label."""
    rows = make_header("set", ("sentences", "words", "accuracy", "macro F1", "weighted F1"))
    for name, evaluation in evaluations.items():
        scores = ("token_accuracy", "token_f1_macro", "token_f1_weighted")
        rows.append(_set_row(name, evaluation, redact, "token_support", scores))
    rows += _rows_by_kind(evaluations, "token_f1/", "label")
    return "\n".join([*rows, "", "In percent, of words." + _caveats(evaluations)])


def _set_row(
    name: str, evaluation: Mapping[str, Any], redact: Redact, support: str, scores: Sequence[str]
) -> str:
    """Returns a data set's line: its sentences, the scored items, and the scores in percent with intervals."""
    metrics, intervals = evaluation["metrics"], evaluation.get("intervals") or {}
    cells = [name_set(name, evaluation, redact), f"{evaluation['sentences']:,}", f"{metrics[support]:,.0f}"]
    for score in scores:
        bounds = f" ({'–'.join(f'{100 * x:.1f}' for x in intervals[score])})" if score in intervals else ""
        cells.append(f"{100 * metrics[score]:.2f}{bounds}")
    return make_row(cells)


def _rows_by_kind(evaluations: Evaluations, prefix: str, kind_name: str) -> list[str]:
    """Returns the lines of a table of the metrics that begin with `prefix`; no lines without such metrics."""
    names = sorted(name for name in list_metrics(evaluations) if name.startswith(prefix))
    if not names:
        return []
    rows = ["", *make_header(f"F1 by {kind_name}", evaluations)]
    for name in names:
        values = (evaluation["metrics"].get(name) for evaluation in evaluations.values())
        cells = ["-" if value is None else f"{100 * value:.2f}" for value in values]
        rows.append(make_row([escape(name.partition("/")[2]), *cells]))
    return rows


def _caveats(evaluations: Evaluations) -> str:
    return explain_intervals(evaluations, "sentences") + warn_of_dev(evaluations, "the weights")


def _describe_loader(run: RunFacts[Settings]) -> str:
    """Returns a section that shows how to tag words with `heads_loader.py`, which the export contains."""
    data = run.config.data
    subword = "last" if data.label_subwords == "last" else "first"
    context = " and were filled with the sentences around" if data.context else ""
    return (
        "`heads_loader.py`, which needs torch, transformers and safetensors and says what `heads.safetensors` holds, "
        "tags words:\n\n"
        "```python\nfrom heads_loader import Model  # from this folder\n\n"
        'ask = Model("PATH_OF_THIS_FOLDER")\n'
        'ask(["Anna", "lives", "in", "Oslo", "."])["tags"]\n```\n\n'
        f"Its words are those of the data in training; a word's tag is read at its {subword} subword. In training "
        f"windows had {data.max_length} subwords{context}."
    )


def describe_usage(run: RunFacts[Settings]) -> str:
    """Shows how to tag with transformers, or with `heads_loader.py` if transformers would tag differently."""
    if run.config.model.crf:
        return (
            "transformers has no class for a CRF. `AutoModelForTokenClassification` loads this folder and gives the "
            f"emissions; its pipeline would leave the CRF out. {_describe_loader(run)}"
        )
    opening = "`AutoModelForTokenClassification` loads this folder; transformers' pipeline"
    if run.config.data.label_subwords == "last":
        return (
            f"{opening} reads a word's label at its first subword, but it stands at the last one. "
            f"{_describe_loader(run)}"
        )
    if not forms_entities(run.config, run.labels):
        return f"{opening} joins neighbouring words of one label. {_describe_loader(run)}"
    stride = run.config.data.max_length // 4
    return (
        "```python\nfrom transformers import pipeline\n\n"
        'tag = pipeline("token-classification", model="PATH_OF_THIS_FOLDER", aggregation_strategy="first", '
        f"stride={stride})\n"
        'tag("...")\n```\n\n'
        "A word's label is that of its first subword, hence `first`. Without `stride` the pipeline drops the end of a "
        "text that is longer than the model's positions, without a word. The pipeline cuts text into words by the "
        f"tokenizer's rules; words were those of the data in training, in windows of {run.config.data.max_length} "
        "subwords."
    )
