"""Prints the short report of an evaluation, and writes the full report into a file."""

import io
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from jaxft.io import write_lines

WIDTH = 120  # the columns of a full report


def print_report(
    console: Console, folder: Path, name: str, brief: RenderableType, full: RenderableType
) -> None:
    """Prints `brief`, writes `full` into eval/NAME.txt, and says where that is.

    Args:
      console: prints the report.
      folder: the folder of the evaluation's files.
      name: the name of the data set.
      brief: the report that fits a screen.
      full: the report with all tables.
    """
    text = io.StringIO()
    Console(file=text, width=WIDTH).print(full)
    file = f"eval/{name}.txt"
    printable = text.getvalue().encode(errors="replace").decode()  # a label may be half a surrogate pair
    write_lines(folder / file, [printable])
    console.print(brief)
    console.print(Text(f"all tables: {file}; what was predicted: predictions/; what was wrong: errors/"))
