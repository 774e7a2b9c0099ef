"""Defines the verb `plan`: estimates the memory and time of a run's train step on hardware that need not be here."""

import argparse
import sys
from pathlib import Path

from jaxft.cli.command import check_overrides, log_to_stderr
from jaxft.errors import EXIT_DOES_NOT_FIT, EXIT_INTERRUPTED, UserError, exit_on_user_error


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the verb's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft plan",
        description="Compiles a run's train step for devices that need not be here and tells what it takes.",
        epilog="Any setting: --config.batch.rows=256. Exit code 4: it doesn't fit.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, help="recipe, e.g. configs/ner.py:offline, or a config.json"
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--topology", help="v5e:4x4 or another TPU slice that libtpu knows, or cpu:8")
    kind.add_argument("--scale", help="several topologies with commas between: a table of them")
    parser.add_argument("--sweep", action="store_true", help="compare meshes for --topology, recommend one")
    parser.add_argument("--chip", help="compute times and memory by this chip; default the topology's own")
    parser.add_argument("--memory_gib", type=float, help="memory of a device, in place of its chip's")
    parser.add_argument("--rows_per_device", type=int, help="sets config.batch.rows by the number of devices")
    parser.add_argument("--labels", type=int, default=9, help="of a head of labels; data is not read")
    parser.add_argument(
        "--padding", type=float, default=0.0, help="fraction of slots without a token, for MFU"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--dump", type=Path, help="file for the compiled program's text")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parses the flags, plans, prints, and exits with `EXIT_DOES_NOT_FIT` if the step does not fit."""
    flags, overrides = make_parser().parse_known_args(argv)
    # Slow imports come after --help has been answered.
    from jaxft.planning.plans import print_plans
    from jaxft.training.settings import load_settings

    with exit_on_user_error():
        check_overrides(overrides)
        _check_flags(flags)
        config = load_settings(flags.config, overrides)
        try:
            does_fit = print_plans(flags, config, log_to_stderr)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
    if not does_fit:
        sys.exit(EXIT_DOES_NOT_FIT)


def _check_flags(flags: argparse.Namespace) -> None:
    """Raises `UserError` for wrong values and combinations of flags."""
    if flags.scale and flags.sweep:
        raise UserError("--sweep compares meshes of one --topology; leave --scale out")
    if flags.dump and (flags.scale or flags.sweep):
        raise UserError("--dump is for one plan; leave --sweep and --scale out")
    if flags.dump and not flags.dump.absolute().parent.is_dir():
        raise UserError(f"--dump {flags.dump}: there is no folder {flags.dump.parent}; make it first")
    if not 0 <= flags.padding < 1:
        raise UserError(f"--padding {flags.padding}: expected a fraction, 0 or more and below 1")
    for name, minimum in (("labels", 1), ("rows_per_device", 1), ("memory_gib", 1e-9)):
        if (value := getattr(flags, name)) is not None and value < minimum:
            raise UserError(f"--{name} {value}: expected more than 0")
