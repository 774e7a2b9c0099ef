"""Defines the verb `evaluate`: measures a run's best weights on any data."""

import argparse
from pathlib import Path

from jaxft.cli.command import command
from jaxft.config.sections import Data
from jaxft.config.settings import declarations
from jaxft.data.encoding.documents import LAYOUTS

# Flags that replace a setting of the run's data.
DATA_FLAGS = ("format", "encoding", "delimiter", "word_column", "tag_column", "layout", "stride")


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and evaluates."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft evaluate",
        description="Measures a run's best weights on data of the kind that it was trained on.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, help="the --workdir of a run")
    parser.add_argument(
        "--data", required=True, help="file, pattern of files, -, demo:NAME/SPLIT or hub:NAME/SPLIT"
    )
    parser.add_argument("--output", help="folder of what is found; default RUN/evaluations/NAME_OF_THE_DATA")
    parser.add_argument(
        "--format", choices=declarations(Data)["format"].choices, help="of the data; default the run's"
    )
    parser.add_argument("--encoding", help="of the data, such as cp1252; default the run's")
    parser.add_argument(
        "--delimiter", help="between values of a table, such as ';' or tab; default the run's"
    )
    parser.add_argument("--word-column", type=int, help="of CoNLL data, from 0; default the run's")
    parser.add_argument("--tag-column", type=int, help="of CoNLL data, from 0; default the run's")
    parser.add_argument("--layout", choices=LAYOUTS, help="of a language model's text; default the run's")
    parser.add_argument("--stride", type=int, help="tokens of context that windows share; default the run's")
    with command(parser, argv) as flags:
        run_evaluate(flags)


def run_evaluate(flags: argparse.Namespace) -> dict[str, float]:
    """Evaluates the run that the flags name; see `evaluate_run`."""
    from jaxft.inference.evaluate import evaluate_run  # slow: after --help has been answered

    changes = {name: value for name in DATA_FLAGS if (value := vars(flags).get(name)) is not None}
    output = Path(flags.output) if flags.output else None
    return evaluate_run(Path(flags.run), flags.data, output, changes)
