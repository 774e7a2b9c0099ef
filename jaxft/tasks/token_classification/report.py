"""Formats the evaluation of a tagger: the JSON record, the report to print, and the lines of its files."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jaxft.data.sources.records.record_values import JsonObject
from jaxft.metrics.entities import EntityState
from jaxft.metrics.f1 import SCORES
from jaxft.metrics.tokens import LabelState
from jaxft.tasks.lines import escape_formula
from jaxft.tasks.token_classification.entity_errors import CATEGORIES, SIDES, ErrorAnalysis, error_rows

# Characters that some reader treats as the end of a column or line (str.isspace, a byte order mark), and lone
# surrogates, which UTF-8 cannot encode.
_UNSAFE = re.compile(r"[\s\ufeff\ud800-\udfff]")

SHOWN = 10  # the most types or tags in a brief report


def evaluation_record(
    state: EntityState | LabelState,
    *,
    data: str,
    intervals: JsonObject | None = None,
    errors: ErrorAnalysis | None = None,
) -> JsonObject:
    """Returns the content of `eval/dev.json`: JSON values with everything that `render_report` needs.

    The keys are `data` (the evaluated source), `sentences`, `metrics` (flat, `state.compute`) and, if there are any,
    `intervals` (`state.intervals`), `errors` (`ErrorAnalysis.counts`) and `confusion` (`labels`, and `counts` of words
    by gold and predicted label). Numbers that are not finite become None, because JSON does not have them.
    """
    metrics = {name: value if math.isfinite(value) else None for name, value in state.compute().items()}
    record = {"data": data, "sentences": state.sentences.total(), "metrics": metrics}
    if intervals is not None:
        record["intervals"] = intervals
    if errors is not None:
        record["errors"] = errors.counts()
    labels, matrix = state.tokens.confusion_matrix()
    return record | {"confusion": {"labels": labels, "counts": matrix.tolist()}}


def render_brief(record: JsonObject) -> RenderableType:
    """Returns the report of an `evaluation_record` in about 20 lines: the scores of at most `SHOWN` types or tags."""
    metrics = record["metrics"]
    sections: list[RenderableType] = [Text(_summary(record))]
    if "entity_support" in metrics:
        sections.append(_entity_table(metrics, "entity", "Entities, strict (seqeval IOB2), %", SHOWN))
    else:
        sections.append(_token_table(metrics, SHOWN))
    if intervals := record.get("intervals"):
        sections.append(Text(_interval_line(intervals)))
    if errors := record.get("errors"):
        counts = {
            category: sum(next(errors[category][side] for side in SIDES if side in errors[category]).values())
            for category in CATEGORIES
        }
        listed = ", ".join(f"{category} {count:,}" for category, count in counts.items())
        sections.append(Text(f"entities that are wrong: {listed}"))
    return Group(*sections)


def render_report(record: JsonObject) -> RenderableType:
    """Returns the report of an `evaluation_record` with all tables, for rich to print.

    The record may be read from JSON.
    """
    metrics, intervals = record["metrics"], record.get("intervals")
    sections: list[RenderableType] = [Text(_summary(record))]
    has_entities = "entity_support" in metrics
    if has_entities:
        sections.append(_entity_table(metrics, "entity", "Entities, strict (seqeval IOB2), %"))
    if intervals:
        sections.append(Text(_interval_line(intervals)))
    if has_entities:
        sections.append(_entity_table(metrics, "lenient", "Entities, lenient (conlleval), %"))
    sections.append(_token_table(metrics))
    if errors := record.get("errors"):
        sections.append(_error_table(errors))
    return Group(*sections)


def _summary(record: JsonObject) -> str:
    """Returns the first line of a report: what was measured, token accuracy and loss."""
    metrics = record["metrics"]
    entities = f", {metrics['entity_support']:,.0f} entities" if "entity_support" in metrics else ""
    summary = (
        f"{record['data']}: {record['sentences']:,} sentences, {metrics['token_support']:,.0f} words{entities}; "
        f"token accuracy {_percent(metrics['token_accuracy'])}%"
    )
    if "loss" in metrics:
        summary += "; loss " + ("not finite" if metrics["loss"] is None else f"{metrics['loss']:.4f}")
    return summary


def conll_lines(
    words: Iterable[Sequence[str]], gold: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]
) -> Iterator[str]:
    """Yields the lines of `predictions/*.conll`, newlines included; write them as UTF-8 with `newline="\\n"`.

    A line has a word, its gold tag and its predicted tag, separated by tabs. An empty line follows each sentence. In a
    word, each character that could be read as the end of a column or line is written as `␣`, and so is an empty word.
    Each line therefore has three columns, whether it is split at tabs or at any white space. The original script scores
    such a file with `conlleval -d '\\t'`.

    Raises:
      ValueError: the lengths differ.
    """
    for rows in zip(words, gold, predicted, strict=True):
        for row in zip(*rows, strict=True):
            yield "\t".join(_column(cell) for cell in row) + "\n"
        yield "\n"


def error_lines(errors: ErrorAnalysis) -> Iterator[str]:
    """Yields the lines of the tab-separated error list, with a header and newlines; see `error_rows`."""
    for row in error_rows(errors.errors):
        cells = (" ".join(_column(word) for word in cell.split(" ")) for cell in row)
        yield "\t".join(map(escape_formula, cells)) + "\n"


def _column(text: str) -> str:
    return _UNSAFE.sub("␣", text) or "␣"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _names(metrics: Mapping[str, Any], family: str) -> list[str]:
    return [name.removeprefix(family) for name in metrics if name.startswith(family)]


def _entity_table(metrics: Mapping[str, Any], prefix: str, title: str, shown: int | None = None) -> Table:
    """Returns the scores of all types, or of the `shown` types with the most gold entities."""
    types = _names(metrics, f"{prefix}_support/")
    if shown and len(types) > shown:
        title += f"; {shown} of {len(types)} types"
        types = sorted(types, key=lambda kind: -metrics[f"{prefix}_support/{kind}"])[:shown]
    table = _table(title, "type", "precision", "recall", "F1", "gold", "predicted")
    for kind in types:
        scores = [_percent(metrics[f"{prefix}_{name}/{kind}"]) for name in SCORES]
        counts = [f"{metrics[f'{prefix}_{name}/{kind}']:,.0f}" for name in ("support", "predicted")]
        table.add_row(
            Text(kind), *scores, *counts
        )  # `Text`, because a type is a user's string and not rich's markup
    table.add_section()
    totals = [f"{metrics[f'{prefix}_{name}']:,.0f}" for name in ("support", "predicted")]
    for label, suffix in (("micro", ""), ("macro", "_macro"), ("weighted", "_weighted")):
        scores = [_percent(metrics[f"{prefix}_{name}{suffix}"]) for name in SCORES]
        table.add_row(label, *scores, *totals, style="" if suffix else "bold")
    return table


INTERVALS = {  # metric -> its name in the report
    "entity_precision": "strict micro precision",
    "entity_recall": "recall",
    "entity_f1": "F1",
    "token_accuracy": "token accuracy",
}


def _interval_line(intervals: JsonObject) -> str:
    ranges = ", ".join(
        f"{label} {_percent(intervals[name][0])}–{_percent(intervals[name][1])}"
        for name, label in INTERVALS.items()
        if name in intervals
    )
    return (
        f"{100 * intervals['confidence']:g}% intervals: {ranges} "
        f"({intervals['method']}, {intervals['samples']:,} resamples of {intervals['sentences']:,})"
    )


def _token_table(metrics: Mapping[str, Any], shown: int | None = None) -> Table:
    """Returns the scores of all tags, or of the `shown` tags with the lowest F1."""
    title, tags = "Words by tag, %", _names(metrics, "token_support/")
    if shown and len(tags) > shown:
        title += f"; the {shown} worst of {len(tags)} tags"
        tags = sorted(tags, key=lambda tag: metrics[f"token_f1/{tag}"])[:shown]
    table = _table(title, "tag", "precision", "recall", "F1", "gold")
    for tag in tags:
        scores = [_percent(metrics[f"token_{name}/{tag}"]) for name in SCORES]
        table.add_row(Text(tag), *scores, f"{metrics[f'token_support/{tag}']:,.0f}")
    table.add_section()
    for average in ("macro", "weighted"):
        scores = [_percent(metrics[f"token_{name}_{average}"]) for name in SCORES]
        table.add_row(average, *scores, f"{metrics['token_support']:,.0f}")
    return table


def _error_table(errors: JsonObject) -> Table:
    table = _table(
        "Errors (strict), by whether training had the entity",
        "category",
        *(f"{label}, {status}" for label in ("gold", "predicted") for status in ("seen", "unseen")),
    )
    for category in CATEGORIES:
        counts = (errors[category].get(side, {}) for side in SIDES)  # empty for a side without this category
        table.add_row(
            category,
            *(f"{count[status]:,}" if count else "-" for count in counts for status in ("seen", "unseen")),
        )
    table.add_section()
    totals = (errors[side][status] for side in ("gold", "predicted") for status in ("seen", "unseen"))
    table.add_row("entities in all", *(f"{count:,}" for count in totals))
    return table
