"""Makes the Markdown that model cards of several tasks share: tables, and names from data in them."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Evaluations = Mapping[str, Mapping[str, Any]]  # name of a data set -> content of its eval/NAME.json
Redact = Callable[[str], str]  # removes the folders of this machine from a source


def escape(text: str) -> str:
    """Returns a name from data, such as a label, as Markdown that shows it: no markup, HTML or cell begins in it."""
    # Underscores between letters or digits are no markup, and labels such as B_PER are easier to read without escapes.
    return re.sub(r"[\\`*~\[\]<>|]|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))


def code(text: str) -> str:
    """Returns a name, such as a file's, as code in Markdown, also for a cell of a table."""
    text = " ".join(text.split()).replace("|", r"\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"


def name_set(name: str, evaluation: Mapping[str, Any], redact: Redact) -> str:
    """Returns the name of an evaluated data set with its source."""
    return f"{name} ({code(redact(evaluation['data']))})"


def make_row(cells: Iterable[str]) -> str:
    """Returns a line of a table."""
    return f"| {' | '.join(cells)} |"


def make_header(title: str, columns: Iterable[str]) -> list[str]:
    """Returns the first two lines of a table with text in the first column and numbers in the others."""
    columns = list(columns)
    return [make_row([title, *columns]), "|---|" + "--:|" * len(columns)]


def make_set_header(title: str, evaluations: Evaluations, redact: Redact) -> list[str]:
    """Returns the first two lines of a table with a column for each data set."""
    return make_header(
        title, (name_set(name, evaluation, redact) for name, evaluation in evaluations.items())
    )


def list_metrics(evaluations: Evaluations) -> list[str]:
    """Returns the distinct names of the metrics of all evaluations."""
    return list(dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation["metrics"]))


def make_score_rows(evaluations: Evaluations, names: Iterable[str]) -> list[str]:
    """Returns a line for each metric: its value in each data set, with the interval, if any, in brackets."""
    rows = []
    for name in names:
        cells = []
        for evaluation in evaluations.values():
            value, interval = evaluation["metrics"].get(name), (evaluation.get("intervals") or {}).get(name)
            bounds = f" ({'–'.join(f'{bound:.3f}' for bound in interval)})" if interval else ""
            cells.append("-" if value is None else f"{value:.4g}{bounds}")
        rows.append(make_row([escape(name), *cells]))
    return rows


def join_methods(evaluations: Evaluations) -> str:
    """Returns the distinct ways in which the data sets were read, joined."""
    return "; ".join(dict.fromkeys(evaluation["method"] for evaluation in evaluations.values()))


def explain_intervals(evaluations: Evaluations, unit: str) -> str:
    """Returns a sentence about the intervals, or "" if there are none. `unit` is the plural of the resampled unit."""
    if not any("intervals" in evaluation for evaluation in evaluations.values()):
        return ""
    return f" In brackets: 95% bootstrap intervals over {unit}; they don't cover the choice of seed."


def warn_of_dev(evaluations: Evaluations, chosen: str) -> str:
    """Returns a sentence that dev's scores are optimistic, or "" without dev. `chosen` names what dev chose."""
    return f" Dev chose {chosen}, so its scores are optimistic." if "dev" in evaluations else ""
