"""Formats the evaluation of labelled examples: the JSON record and the report to print."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jaxft.metrics.f1 import SCORES

SHOWN_LABELS = 8  # the most labels in a brief report
SHOWN_CONFUSIONS = 3


def evaluation_record(
    metrics: Mapping[str, float], *, data: str, method: str, details: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the content of `eval/dev.json`: JSON values with everything that `render_report` needs.

    The keys are `data` (the evaluated source), `method` (how examples are read), `examples`, `metrics`
    (flat), and the keys of `details`: `intervals`, `thresholds`, `confusion` (`labels`, and `counts` by gold and
    predicted label). Numbers that are not finite become None, because JSON does not have them.
    """
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    return {
        "data": data,
        "method": method,
        "examples": int(metrics["examples"]),
        "metrics": finite,
        **details,
    }


def render_report(record: Mapping[str, Any], noun: str, brief: bool = False) -> RenderableType:
    """Returns the report of an `evaluation_record`, for rich to print. The record may be read from JSON.

    Args:
      record: the record.
      noun: the name of an example, in the singular.
      brief: True for about 25 lines, with at most `SHOWN_LABELS` labels and `SHOWN_CONFUSIONS` confusions.
    """
    metrics = record["metrics"]
    sections: list[RenderableType] = [
        Text(f"{record['data']}: {record['examples']:,} {noun}s; read: {record['method']}")
    ]
    averages = [name for name in ("micro", "macro", "weighted") if f"f1_{name}" in metrics]
    families = {"examples"} | {f"{score}_{average}" for score in SCORES for average in averages}
    overall = {
        name: "-" if value is None else f"{value:.4f}"
        for name, value in metrics.items()
        if "/" not in name and name not in families
    }
    if brief:
        sections.append(Text(", ".join(f"{name} {value}" for name, value in overall.items())))
    else:
        table = _table("All", "score", "value")
        for name, value in overall.items():
            table.add_row(name, value)
        sections.append(table)
    if intervals := record.get("intervals"):
        bounds = {name: value for name, value in intervals.items() if isinstance(value, list)}
        shown = ", ".join(f"{name} {100 * low:.2f}–{100 * high:.2f}" for name, (low, high) in bounds.items())
        sections.append(
            Text(
                f"{100 * intervals['confidence']:g}% intervals: {shown} ({intervals['method']}, "
                f"{intervals['samples']:,} resamples)"
            )
        )
    if averages:
        sections.append(_label_table(metrics, averages, SHOWN_LABELS if brief else None))
    if confusion := record.get("confusion"):
        sections.append(_confusion_table(confusion, noun, SHOWN_CONFUSIONS if brief else None))
    return Group(*sections)


def _label_table(metrics: Mapping[str, float], averages: Sequence[str], shown: int | None) -> Table:
    labels = [name.removeprefix("f1/") for name in metrics if name.startswith("f1/")]
    title = "Labels, %"
    if shown and len(labels) > shown:
        title = f"The {shown} worst of {len(labels)} labels, %"
        labels = sorted(labels, key=lambda label: metrics[f"f1/{label}"])[:shown]
    tuned = any(name.startswith("threshold/") for name in metrics)
    table = _table(title, "label", "precision", "recall", "F1", "gold", *(["threshold"] if tuned else []))
    for label in labels:
        cells = [f"{100 * metrics[f'{score}/{label}']:.2f}" for score in SCORES]
        cells.append(f"{metrics[f'support/{label}']:,.0f}")
        if tuned:
            threshold = metrics.get(f"threshold/{label}")
            cells.append("-" if threshold is None else f"{threshold:.3f}")
        table.add_row(Text(label), *cells)  # `Text`, because a label is a user's string and not rich's markup
    table.add_section()
    for average in averages:
        table.add_row(average, *(f"{100 * metrics[f'{score}_{average}']:.2f}" for score in SCORES), "")
    return table


def _confusion_table(confusion: Mapping[str, Any], noun: str, shown: int | None) -> RenderableType:
    names = confusion["labels"]
    wrong = [
        (count, names[gold], names[predicted])
        for gold, row in enumerate(confusion["counts"])
        for predicted, count in enumerate(row)
        if count and gold != predicted
    ]
    if not wrong:
        return Text("No confusions.")
    title = f"{min(shown, len(wrong))} of {len(wrong):,} confusions" if shown else "Confusions"
    table = _table(title, "gold", "predicted", f"{noun}s")
    for count, gold, predicted in sorted(wrong, key=lambda item: -item[0])[:shown]:
        table.add_row(Text(gold), Text(predicted), f"{count:,}")
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table
