"""Writes what an evaluation of answers found: a dict for JSON, a report, lines of predictions and errors."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jaxft.metrics.answers import AnswerScores, AnswerState

# What is wrong with an answer.
KINDS = {
    "boundary": "shares words with a gold answer",
    "wrong": "shares none",
    "missed": "none was given where there is one",
    "spurious": "one was given where there is none",
}
COLUMNS = ("kind", "gold", "predicted", "score", "f1", "id", "question")
_PARTS = {"": "all", "has_answer_": "with an answer", "no_answer_": "without"}


def wrong_answers(
    records: Sequence[Mapping[str, Any]], scores: Sequence[AnswerScores]
) -> list[dict[str, Any]]:
    """Each answer that is no exact match, by the keys of `COLUMNS`, the surest first.

    records: of predictions, with `id`, `question`, `answers` (gold texts), `predicted_answer` and `score`.
    """
    rows = []
    for record, found in zip(records, scores, strict=True):
        if found.exact_match:
            continue
        gold, said = record["answers"], record["predicted_answer"]
        kind = "spurious" if not gold else "missed" if not said else "boundary" if found.f1 else "wrong"
        rows.append(
            {
                "kind": kind,
                "gold": " | ".join(dict.fromkeys(gold)),
                "predicted": said,
                "score": record["score"],
                "f1": round(found.f1, 4),
                "id": record["id"],
                "question": record["question"],
            }
        )
    return sorted(rows, key=lambda row: -row["score"])


def evaluation_record(
    state: AnswerState, *, data: str, method: str, wrong: Sequence[Mapping[str, Any]], intervals: dict | None
) -> dict[str, Any]:
    """The content of `eval/dev.json`: plain JSON values with everything that `report` needs.

    Keys: `data` (what was evaluated), `method` (how contexts are read), `examples`, `metrics` (flat; see
    `AnswerState.compute`), `null_threshold` (null: every question gets an answer), `errors` (counts by kind) and
    `intervals`, if any.
    """
    metrics = {name: value if math.isfinite(value) else None for name, value in state.compute().items()}
    counts = Counter(row["kind"] for row in wrong)
    found = {
        "data": data,
        "method": method,
        "examples": int(metrics["examples"]),
        "metrics": metrics,
        "null_threshold": state.choose_threshold(),
        "errors": {kind: counts[kind] for kind in KINDS},
    }
    return found | ({} if intervals is None else {"intervals": intervals})


def render_report(result: Mapping[str, Any]) -> RenderableType:
    """The readable report of an `evaluation` dict, fresh or read back from JSON; print it with rich."""
    metrics = result["metrics"]
    table = Table(title="Answers, %", title_justify="left", title_style="bold")
    table.add_column("questions")
    for name in ("exact match", "F1", "number"):
        table.add_column(name, justify="right")
    for prefix, text in _PARTS.items():
        if metrics.get(f"{prefix}examples"):
            cells = (f"{100 * metrics[prefix + name]:.2f}" for name in AnswerScores._fields)
            table.add_row(text, *cells, f"{metrics[f'{prefix}examples']:,.0f}")
    parts: list[RenderableType] = [
        Text(f"{result['data']}: {result['examples']:,} questions; read: {result['method']}"),
        table,
    ]
    if intervals := result.get("intervals"):
        shown = ", ".join(
            f"{name.replace('_', ' ')} {100 * intervals[name][0]:.2f}–{100 * intervals[name][1]:.2f}"
            for name in AnswerScores._fields
        )
        about = f"({intervals['method']}, {intervals['samples']:,} resamples)"
        parts.append(Text(f"{100 * intervals['confidence']:g}% intervals: {shown} {about}"))
    if result["null_threshold"] is not None:
        parts.append(
            Text(
                f"No answer is given where it scores more than {result['null_threshold']:.3f} above the best one."
            )
        )
    wrong = ", ".join(
        f"{kind} {count:,} ({KINDS[kind]})" for kind, count in result["errors"].items() if count
    )
    parts.append(Text(f"Errors: {wrong or 'none'}."))
    return Group(*parts)
