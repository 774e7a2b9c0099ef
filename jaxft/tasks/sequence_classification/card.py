"""Writes the sections of the model card of a model that classifies texts."""

from collections.abc import Mapping
from typing import cast

from jaxft.data.sources.labels import MULTI, NUMBER
from jaxft.models.registry import read_model_config
from jaxft.tasks.card_tables import (
    Evaluations,
    Redact,
    escape,
    explain_intervals,
    join_methods,
    list_metrics,
    make_header,
    make_row,
    make_score_rows,
    make_set_header,
    warn_of_dev,
)
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.sequence_classification.settings import Settings
from jaxft.tasks.sequence_classification.task import has_transformers_class

HUB_TASK = "text-classification"  # the hub's name of the task
HUB_TAGS = ["text-classification"]
# Metrics in the card's metadata: the hub's name -> (key of the evaluation, text).
HUB_METRICS = {
    "accuracy": ("accuracy", "accuracy"),
    "f1": ("f1_macro", "macro F1"),
    "matthews_correlation": ("mcc", "Matthews' correlation"),
    "roc_auc": ("roc_auc", "ROC AUC"),
    "mse": ("mse", "mean squared error"),
    "pearsonr": ("pearson", "Pearson correlation"),
    "spearmanr": ("spearman", "Spearman correlation"),
}


def describe_model(run: RunFacts[Settings], parameters: int) -> list[str]:
    """Returns lines that describe the model: a paragraph and the first items of a list."""
    problem_type = run.config.model.problem_type
    if problem_type == NUMBER:
        label = "a number"
    else:
        label = f"{'any of' if problem_type == MULTI else 'one of'} {len(run.labels)} labels"
    text = "pair of texts" if run.config.data.text_pair else "text"
    lines = [
        f"A {run.backbone_name} with a pooled linear layer that gives each {text} {label} "
        f"({parameters:,} parameters, float32), fine-tuned with jaxft (JAX/Flax) and converted to PyTorch's "
        "layout.",
        "",
    ]
    return lines if problem_type == NUMBER else [*lines, f"- Labels: {', '.join(map(escape, run.labels))}"]


def tabulate_scores(evaluations: Evaluations, redact: Redact) -> str:
    """Returns a table of each data set's overall scores, and a table of F1 by label."""
    names = list_metrics(evaluations)
    rows = make_set_header("score", evaluations, redact)
    rows += make_score_rows(evaluations, (name for name in names if "/" not in name))
    labels = [name.removeprefix("f1/") for name in names if name.startswith("f1/")]
    if labels:
        rows += ["", *make_header("F1 by label", evaluations)]
    for label in labels:
        values = (evaluation["metrics"].get(f"f1/{label}") for evaluation in evaluations.values())
        rows.append(
            make_row([escape(label), *("-" if value is None else f"{value:.3f}" for value in values)])
        )
    note = (
        f"Read: {join_methods(evaluations)}.{explain_intervals(evaluations, 'texts')}"
        f"{warn_of_dev(evaluations, 'the weights and any thresholds')}"
    )
    return "\n".join([*rows, "", note])


def describe_usage(run: RunFacts[Settings]) -> str:
    """Shows how to classify with transformers, or `heads_loader.py` if transformers cannot or reads differently."""
    data = run.config.data
    text = '{"text": "...", "text_pair": "..."}' if data.text_pair else '"..."'
    has_class = has_transformers_class(run.config, read_model_config(run.checkpoint.hf_config))
    section = (
        "```python\nfrom transformers import pipeline\n\n"
        f'classify = pipeline("text-classification", model="PATH_OF_THIS_FOLDER", truncation=True, max_length='
        f"{data.max_length})\nclassify({text})\n```\n\n"
    )
    if not has_class:
        section = (
            "transformers has no class that computes this. `AutoModel` loads the backbone, `heads.safetensors` has the "
            "linear layer over it:\n\n"
        )
    if not has_class or data.truncation != "head":
        pair = ', "..."' if data.text_pair else ""
        loader = (
            "`heads_loader.py`, which says how they are laid out and needs torch, transformers and safetensors, reads "
            f"texts as training did (config.data.truncation={data.truncation!r}, {data.max_length} tokens a window)"
            f":\n\n```python\nfrom heads_loader import Model  # from this folder\n\n"
            f'ask = Model("PATH_OF_THIS_FOLDER")\nask("..."{pair})\n```\n\n'
        )
        section += f"The pipeline reads the beginning of long texts. {loader}" if has_class else loader
    if thresholds := run.tuned.get("thresholds"):
        values = cast(Mapping[str, float], thresholds)
        shown = ", ".join(f"{escape(label)} {value:.3f}" for label, value in values.items())
        where = "`top_k=None` shows all probabilities; the thresholds stand in config.json too"
        if not has_class:
            where = "they stand in heads.json too"
        section += f"A label is given from its probability's threshold on ({where}): {shown}. "
    return section.rstrip(" ")
