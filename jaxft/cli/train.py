"""Defines the verb `train`: fine-tunes a pretrained transformer."""

import argparse
import errno
import re
import sys
from pathlib import Path

from jaxft.cli import startup
from jaxft.cli.flags import add_config_flag, add_process_flags, make_parser
from jaxft.cli.streams import tell_terminal
from jaxft.config.recipe_catalog import recipe_name
from jaxft.config.reference import help_text
from jaxft.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, Preempted, UserError
from jaxft.training.log.waits import announced
from jaxft.training.settings import all_schemas, load_settings

# The advice to a user whose workdir was writable when the run began, and no longer is.
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable again"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR), "move away what is in the place of the file or folder"),
}


def train_parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags of `train`. Its help lists all settings."""
    parser = make_parser(
        "train",
        "Fine-tunes a pretrained transformer. `jaxft recipes` lists the recipes.",
        help_text(all_schemas()),
    )
    add_config_flag(parser)
    parser.add_argument("--workdir", help="folder of the run; default runs/NAME_OF_THE_RECIPE")
    parser.add_argument(
        "--profile_steps",
        metavar="FROM:TO",
        help="trace these steps (counted from 0, TO excluded) into WORKDIR/profile, for XProf and Perfetto",
    )
    add_process_flags(parser)
    return parser


def train(argv: list[str] | None = None) -> None:
    """Parses the flags, trains, and turns errors into a sentence and an exit code."""
    flags, overrides = train_parser().parse_known_args(argv)
    with announced("importing jax", tell_terminal):
        # Slow imports come after --help has been answered.
        from jaxft.cli.command import check_overrides
        from jaxft.cli.several_processes import as_process
        from jaxft.parallel import processes
        from jaxft.parallel.preemption import StopRequest
        from jaxft.training import loop

    flags.workdir = flags.workdir or f"runs/{recipe_name(flags.config)}"
    with as_process(flags):
        check_overrides(overrides)
        config = load_settings(flags.config, overrides, processes.log)
        workdir = Path(flags.workdir)
        startup.use_compilation_cache()
        try:
            with StopRequest() as stop_request:
                loop.train(
                    config,
                    workdir,
                    profile_steps=_parse_steps(flags.profile_steps),
                    should_stop=stop_request.is_stopping,
                )
        except Preempted as preempted:
            print(preempted, file=sys.stderr, flush=True)
            sys.exit(EXIT_PREEMPTED)
        except KeyboardInterrupt:
            print(
                "interrupted: the same command goes on from the last checkpoint", file=sys.stderr, flush=True
            )
            sys.exit(EXIT_INTERRUPTED)
        except OSError as error:
            if error.errno not in REMEDIES:
                raise
            raise UserError(
                f"--workdir {workdir}: {error}; {REMEDIES[error.errno]}, and the same command goes on from the "
                "last checkpoint"
            ) from error


def _parse_steps(text: str | None) -> range:
    """Returns the steps of `FROM:TO`, or no steps for None. Raises `UserError` for other texts."""
    if text is None:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not (steps := range(int(match[1]), int(match[2]))):
        raise UserError(f"--profile_steps {text}: expected FROM:TO with FROM below TO, such as 20:25")
    return steps
