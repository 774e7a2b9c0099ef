"""Prints the short report of an evaluation, and writes the full report, or the metrics, into a file."""

import glob
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from jaxft.io.files import write_json, write_lines
from jaxft.tasks.base import Split

WIDTH = 120  # the columns of a full report


def print_report(
    console: Console, folder: Path, name: str, brief: RenderableType, full: RenderableType
) -> None:
    """Prints `brief`, writes `full` into eval/NAME.txt, and lists all files of the evaluation.

    Args:
      console: prints the report.
      folder: the folder of the evaluation's files.
      name: the name of the data set.
      brief: the report that fits a screen.
      full: the report with all tables.
    """
    text = io.StringIO()
    Console(file=text, width=WIDTH).print(full)
    path = folder / "eval" / f"{name}.txt"
    printable = text.getvalue().encode(errors="replace").decode()  # a label may be half a surrogate pair
    write_lines(path, [printable])
    others = {
        file.relative_to(folder).as_posix()
        for file in folder.glob(f"*/{glob.escape(name)}.*")
        if file != path
    }
    console.print(brief)
    console.print(Text(f"all tables: eval/{name}.txt; more: {', '.join(sorted(others))}"))


def report_metrics(
    console: Console, folder: Path, split: Split[Any, Any], method: str, metrics: Mapping[str, float]
) -> None:
    """Prints the metrics of a data set, and writes them with the method of measuring them into eval/NAME.json."""
    record = {"data": split.source, "texts": len(split.examples), "method": method, "metrics": metrics}
    write_json(folder / "eval" / f"{split.name}.json", record)
    console.print(f"{split.name} ({split.source}), {method}:")
    for name, value in metrics.items():
        console.print(f"  {name:<16} {value:,.4f}" if value % 1 else f"  {name:<16} {value:,.0f}")
