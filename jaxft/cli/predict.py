"""Defines the verb `predict`: reads examples as a stream and writes them back with predictions."""

import argparse
from pathlib import Path

from jaxft.cli.command import command, log_to_stderr
from jaxft.cli.flags import add_input_flags
from jaxft.data.sources.formats import QUESTIONS, SENTENCES, TEXTS
from jaxft.tasks.settings import make_file_format

FORMATS = tuple(dict.fromkeys(name for kind in (SENTENCES, TEXTS, QUESTIONS) for name in kind.formats))


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and predicts. Messages go to stderr, because stdout may be the output."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft predict",
        description="Tags or classifies text, or answers questions, with a run's best weights.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, help="the --workdir of a run")
    parser.add_argument("--input", default="-", help="file, or - for stdin (default)")
    parser.add_argument("--output", default="-", help="file, or - for stdout (default)")
    add_input_flags(parser, [name for name in FORMATS if name != "hub"])
    parser.add_argument("--word-column", type=int, help="of CoNLL input, from 0; default the run's")
    with command(parser, argv) as flags:
        from jaxft.inference.predict import predict_file  # slow: after --help has been answered

        predict_file(
            Path(flags.run),
            flags.input,
            flags.output,
            format=make_file_format(flags),
            word_column=flags.word_column,
            on_error=flags.on_error,
            log=log_to_stderr,
        )
