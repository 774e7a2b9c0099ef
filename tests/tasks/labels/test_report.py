"""The brief report of labelled texts fits a screen; the full one has every label and confusion."""

import io

import numpy as np
from rich.console import Console

from jaxft.tasks.labels.report import evaluation_record, render_report

LABELS = [f"label{number}" for number in range(40)]


def printed(record, **options) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render_report(record, "text", **options))
    return console.file.getvalue()


def test_a_brief_report_has_the_worst_labels_and_fits_a_screen():
    metrics = {"examples": 800.0, "accuracy": 0.9, "loss": float("inf")}
    for score in ("precision", "recall", "f1"):
        metrics |= {f"{score}_{average}": 0.5 for average in ("macro", "weighted")}
        metrics |= {f"{score}/{label}": number / 40 for number, label in enumerate(LABELS)}
    metrics |= {f"support/{label}": 20.0 for label in LABELS}
    counts = np.arange(1600).reshape(40, 40).tolist()
    intervals = {"confidence": 0.95, "method": "bootstrap", "samples": 100, "accuracy": [0.8, 0.95]}
    details = {"intervals": intervals, "confusion": {"labels": LABELS, "counts": counts}}
    record = evaluation_record(metrics, data="dev.csv", method="all", details=details)
    brief, full = printed(record, brief=True), printed(record)
    assert len(brief.splitlines()) <= 30
    assert "accuracy 0.9000, loss -" in brief and "accuracy 80.00–95.00" in brief
    assert "The 8 worst of 40 labels" in brief and "3 of 1,560 confusions" in brief
    assert all(
        (f"│ {label} " in brief.partition("confusions")[0]) == (label in LABELS[:8]) for label in LABELS
    )
    assert all(f"│ {label} " in full for label in LABELS) and full.count("│ label38 ") > 39
