"""Defines the verb `convert`, which makes a checkpoint readable."""

import argparse
import sys
from pathlib import Path

from jaxft.cli.flags import make_parser
from jaxft.errors import EXIT_INTERRUPTED, exit_on_user_error


def convert_parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags of `convert`."""
    parser = make_parser(
        "convert",
        "Makes model.safetensors of a checkpoint that has only pytorch_model.bin, a pickle. Needs PyTorch.",
    )
    parser.add_argument("checkpoint", help="folder, or hub id, ORG/NAME[@REVISION]")
    parser.add_argument(
        "--output", type=Path, help="new or empty folder for the whole checkpoint; default: its own folder"
    )
    return parser


def convert(argv: list[str] | None = None) -> None:
    """Converts the checkpoint that the arguments name."""
    flags = convert_parser().parse_args(argv)
    from jaxft.export.pickled_weights import convert_checkpoint  # slow: after --help has been answered

    with exit_on_user_error():
        try:
            path = convert_checkpoint(flags.checkpoint, flags.output)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
    print(f"{path}: the same tensors as in the pickle, read back and compared")
