"""Defines the verb `convert`, which turns pickled weights into safetensors."""

import argparse
import sys
from pathlib import Path

from jaxft.cli.flags import make_parser
from jaxft.errors import EXIT_INTERRUPTED, exit_on_user_error


def convert_parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags of `convert`."""
    parser = make_parser(
        "convert",
        "Converts pytorch_model.bin, a pickle, to model.safetensors, which jaxft reads. Needs PyTorch.",
        "Tensors are read without running code in the pickle. A checkpoint of the hub needs --output.",
    )
    parser.add_argument("checkpoint", help="a folder, or a hub id: ORG/NAME or ORG/NAME@REVISION")
    parser.add_argument(
        "--output",
        type=Path,
        help="new or empty folder, which also gets config and tokenizer; default: the checkpoint's folder",
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
