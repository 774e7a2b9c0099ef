"""Prints the short report of an evaluation, and writes the full report into a file."""

import glob
import io
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from jaxft.io.files import write_lines

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
