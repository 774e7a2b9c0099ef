"""Defines the flags that several verbs share. Imports nothing slow, so that `--help` is quick."""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any

from jaxft.cli.verbs import VERBS
from jaxft.config.recipe_catalog import recipe_paths
from jaxft.data.sources import files


class FlagParser(argparse.ArgumentParser):
    """A parser that reads `--max-text` as `--max_text`."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Returns (flags, unknown arguments), as argparse does."""
        arguments = sys.argv[1:] if args is None else args
        return super().parse_known_args(
            [self._with_underscores(argument) for argument in arguments], namespace
        )

    def _with_underscores(self, argument: str) -> str:
        """Returns an argument, with underscores in place of hyphens if it then begins with a flag."""
        flag, equals, value = argument.partition("=")
        known = _replace_hyphens(flag)
        return known + equals + value if known in self._option_string_actions else argument

    def near_flags(self, argument: str) -> list[str]:
        """Returns the flag that an unknown argument may mean, if there is one."""
        flag = _replace_hyphens(argument.partition("=")[0])
        return difflib.get_close_matches(flag, self._option_string_actions, n=1)


def _replace_hyphens(flag: str) -> str:
    """Returns a flag with underscores in place of the hyphens within it."""
    return re.sub("(?<=[a-z])-", "_", flag)


def make_parser(verb: str, description: str, epilog: str = "") -> FlagParser:
    """Returns a parser for the flags of `verb`, whose help ends with an example and the text `epilog`."""
    return FlagParser(
        prog=f"jaxft {verb}",
        description=description,
        epilog=f"example: {VERBS[verb].example}" + (f"\n{epilog}" if epilog else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that names a recipe."""
    flag = parser.add_argument(
        "--config",
        required=True,
        help="recipe, such as ner or ner:wnut17, a file in Python, YAML or JSON, or a run's config.json",
    )
    flag.completer = complete_recipes  # type: ignore[attr-defined]  # where argcomplete looks for it


def add_run_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that names a run."""
    parser.add_argument("--run", required=True, help="the --workdir of a run")


def complete_recipes(prefix: str, **_: object) -> list[str]:
    """Returns the names of recipes and files that begin with `prefix`, for completion."""
    from argcomplete.completers import FilesCompleter

    names = [name for name in recipe_paths() if name.startswith(prefix)]
    return names + list(FilesCompleter(("py", "yaml", "yml", "json"))(prefix))


def add_input_flags(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """Adds the flags that say how an --input is read, and what becomes of records with an error.

    Args:
      parser: the parser of a verb.
      formats: the names of formats.
    """
    parser.add_argument(
        "--format",
        default="auto",
        choices=formats,
        help="of the input; default: what its name and content show",
    )
    parser.add_argument(
        "--encoding",
        default="auto",
        help="of the input, such as cp1252; default UTF-8, or UTF-16 if it shows",
    )
    parser.add_argument(
        "--delimiter",
        default="auto",
        help="between values of a table, such as ';' or tab; default: what it shows",
    )
    parser.add_argument(
        "--max_text",
        type=int,
        default=files.MAX_TEXT,
        help=f"bytes of a text, line, row or sentence; longer ones are refused; default {files.MAX_TEXT:,}",
    )
    parser.add_argument(
        "--on_error",
        default="stop",
        choices=("stop", "record"),
        help="a record with an error ends the command (default), or is written with the error; "
        "the answers before it are written in both cases",
    )


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that make a command one of several processes."""
    group = parser.add_argument_group(
        "several processes",
        "the same command on each host; TPU slices and Slurm are recognised without flags",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 runs, and a free port there"
    )
    group.add_argument("--num_processes", metavar="N", type=int, help="how many there are")
    group.add_argument("--process_id", metavar="I", type=int, help="which this is, from 0")
    seconds: dict[str, Any] = {"metavar": "SECONDS", "type": int}
    group.add_argument(
        "--start_timeout", **seconds, default=300, help="to wait for all to start; default 300"
    )
    group.add_argument(
        "--peer_timeout",
        **seconds,
        default=60,
        help="without a sign of life, after which a process counts as lost and the others stop; default 60",
    )
