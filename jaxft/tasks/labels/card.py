"""Writes what model cards of tasks with labels share: the table of scores, and a sentence about thresholds."""

from collections.abc import Mapping
from typing import cast

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
from jaxft.tasks.labels.settings import LabelSettings
from jaxft.tasks.run_facts import RunFacts

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


def tabulate_label_scores(evaluations: Evaluations, redact: Redact, noun: str) -> str:
    """Returns a table of each data set's overall scores, and a table of F1 by label; `noun` names an example."""
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
        f"Read: {join_methods(evaluations)}.{explain_intervals(evaluations, f'{noun}s')}"
        f"{warn_of_dev(evaluations, 'the weights and any thresholds')}"
    )
    return "\n".join([*rows, "", note])


def describe_thresholds(run: RunFacts[LabelSettings], file: str) -> str:
    """Returns a sentence about the thresholds of labels, which stand in `file`; "" if there are none."""
    if not (thresholds := run.tuned.get("thresholds")):
        return ""
    values = cast(Mapping[str, float], thresholds)
    shown = ", ".join(f"{escape(label)} {value:.3f}" for label, value in values.items())
    where = "`top_k=None` shows all probabilities; the thresholds stand in config.json too"
    if file != "config.json":
        where = f"they stand in {file} too"
    return f"A label is given from its probability's threshold on ({where}): {shown}. "
