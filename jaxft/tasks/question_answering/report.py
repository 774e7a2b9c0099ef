"""Formats the evaluation of answers: the JSON record, the report to print, and the rows of the error list."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jaxft.data.sources.records.record_values import JsonObject
from jaxft.metrics.answers import AnswerScores, AnswerState

ERROR_KINDS = {  # kind of a wrong answer -> its explanation
    "boundary": "shares words with a gold answer",
    "wrong": "shares none",
    "missed": "none was given where there is one",
    "spurious": "one was given where there is none",
}
COLUMNS = ("kind", "gold", "predicted", "score", "f1", "id", "question")
_SUBSETS = {"": "all", "has_answer_": "with an answer", "no_answer_": "without"}


def list_wrong_answers(
    records: Sequence[Mapping[str, Any]], scores: Sequence[AnswerScores]
) -> list[dict[str, Any]]:
    """Returns a row with the keys of `COLUMNS` for each answer that is not an exact match, most confident first.

    Args:
      records: the predictions, with `id`, `question`, `answers` (gold texts), `predicted_answer` and `score`.
      scores: the scores of each prediction.
    """
    rows = []
    for record, answer_scores in zip(records, scores, strict=True):
        if answer_scores.exact_match:
            continue
        gold, predicted = record["answers"], record["predicted_answer"]
        if not gold:
            kind = "spurious"
        elif not predicted:
            kind = "missed"
        else:
            kind = "boundary" if answer_scores.f1 else "wrong"
        rows.append(
            {
                "kind": kind,
                "gold": " | ".join(dict.fromkeys(gold)),
                "predicted": predicted,
                "score": record["score"],
                "f1": round(answer_scores.f1, 4),
                "id": record["id"],
                "question": record["question"],
            }
        )
    return sorted(rows, key=lambda row: -row["score"])


def evaluation_record(
    state: AnswerState,
    *,
    data: str,
    method: str,
    wrong: Sequence[Mapping[str, Any]],
    intervals: JsonObject | None,
) -> dict[str, Any]:
    """Returns the content of `eval/dev.json`: JSON values with everything that `render_report` needs.

    The keys are `data` (the evaluated source), `method` (how contexts are read), `examples`, `metrics` (flat; see
    `AnswerState.compute`), `null_threshold` (null if every question gets an answer), `errors` (counts by kind) and, if
    there are any, `intervals`.
    """
    measured = state.compute()
    metrics = {name: value if math.isfinite(value) else None for name, value in measured.items()}
    counts = Counter(row["kind"] for row in wrong)
    record = {
        "data": data,
        "method": method,
        "examples": int(measured["examples"]),
        "metrics": metrics,
        "null_threshold": state.choose_threshold(),
        "errors": {kind: counts[kind] for kind in ERROR_KINDS},
    }
    return record | ({} if intervals is None else {"intervals": intervals})


def render_report(record: Mapping[str, Any]) -> RenderableType:
    """Returns the report of an `evaluation_record`, for rich to print. The record may be read from JSON."""
    metrics = record["metrics"]
    table = Table(title="Answers, %", title_justify="left", title_style="bold")
    table.add_column("questions")
    for name in ("exact match", "F1", "number"):
        table.add_column(name, justify="right")
    for prefix, text in _SUBSETS.items():
        if metrics.get(f"{prefix}examples"):
            cells = (f"{100 * metrics[prefix + name]:.2f}" for name in AnswerScores._fields)
            table.add_row(text, *cells, f"{metrics[f'{prefix}examples']:,.0f}")
    sections: list[RenderableType] = [
        Text(f"{record['data']}: {record['examples']:,} questions; read: {record['method']}"),
        table,
    ]
    if intervals := record.get("intervals"):
        shown = ", ".join(
            f"{name.replace('_', ' ')} {100 * intervals[name][0]:.2f}–{100 * intervals[name][1]:.2f}"
            for name in AnswerScores._fields
        )
        about = f"({intervals['method']}, {intervals['samples']:,} resamples)"
        sections.append(Text(f"{100 * intervals['confidence']:g}% intervals: {shown} {about}"))
    if record["null_threshold"] is not None:
        sections.append(
            Text(
                f"No answer is given where it scores more than {record['null_threshold']:.3f} above the best one."
            )
        )
    wrong = ", ".join(
        f"{kind} {count:,} ({ERROR_KINDS[kind]})" for kind, count in record["errors"].items() if count
    )
    sections.append(Text(f"Errors: {wrong or 'none'}."))
    return Group(*sections)
