"""Defines the verbs that help to choose what to run: `plan`, `settings`, `recipes` and `init`."""

import argparse
import shlex
import sys
from pathlib import Path

from jaxft.cli.command import check_overrides, log_to_stderr
from jaxft.cli.flags import add_config_flag, complete_recipes, make_parser
from jaxft.cli.streams import tell_terminal
from jaxft.config.recipe_catalog import describe_recipes, find_recipe_file, read_docstring
from jaxft.config.reference import help_text
from jaxft.errors import EXIT_DOES_NOT_FIT, EXIT_INTERRUPTED, UserError, exit_on_user_error
from jaxft.io.files import write_atomically
from jaxft.tasks.registry import TASKS, schema_of
from jaxft.training.log.waits import announced
from jaxft.training.settings import all_schemas, load_settings


def plan_parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags of `plan`."""
    parser = make_parser(
        "plan",
        "Compiles a run's train step for devices that need not be here and tells what it takes.",
        "Any setting: --config.batch.rows=256. Exit code 4: it doesn't fit.",
    )
    add_config_flag(parser)
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


def plan(argv: list[str] | None = None) -> None:
    """Plans and prints as the arguments say. Exits with `EXIT_DOES_NOT_FIT` if the step does not fit."""
    flags, overrides = plan_parser().parse_known_args(argv)
    # Slow imports come after --help has been answered.
    from jaxft.planning.plans import print_plans

    with exit_on_user_error():
        check_overrides(overrides)
        _check_plan_flags(flags)
        config = load_settings(flags.config, overrides)
        try:
            with announced("compiling, which may take minutes", tell_terminal):
                does_fit = print_plans(flags, config, log_to_stderr)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
    if not does_fit:
        sys.exit(EXIT_DOES_NOT_FIT)


def _check_plan_flags(flags: argparse.Namespace) -> None:
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


def settings_parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags of `settings`."""
    parser = make_parser(
        "settings", "Lists settings with their defaults. A run takes each as --config.NAME=VALUE."
    )
    parser.add_argument("task", nargs="?", choices=list(TASKS), help="settings of this task; default all")
    return parser


def settings(argv: list[str] | None = None) -> None:
    """Lists the settings of the task that the arguments name, or of all tasks."""
    flags = settings_parser().parse_args(argv)
    print(help_text([schema_of(flags.task)] if flags.task else all_schemas()))


def recipes_parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags of `recipes`."""
    parser = make_parser("recipes", "Lists recipes and the results that they were measured with.")
    name = parser.add_argument(
        "recipe", nargs="?", help="all about this recipe; default a few lines about each"
    )
    name.completer = complete_recipes  # type: ignore[attr-defined]  # where argcomplete looks for it
    return parser


def recipes(argv: list[str] | None = None) -> None:
    """Lists the recipes, or prints all about the recipe that the arguments name."""
    flags = recipes_parser().parse_args(argv)
    with exit_on_user_error():
        if not flags.recipe:
            print(describe_recipes())
            return
        path, _ = find_recipe_file(flags.recipe, f"jaxft recipes {flags.recipe}")
        print(read_docstring(path))


def init_parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags of `init`."""
    parser = make_parser("init", "Copies a recipe into a file of your own, for you to edit.")
    name = parser.add_argument("recipe", help="the recipe to copy; `jaxft recipes` lists them")
    name.completer = complete_recipes  # type: ignore[attr-defined]  # where argcomplete looks for it
    parser.add_argument("--output", help="the new file; default configs/RECIPE.py")
    return parser


def init(argv: list[str] | None = None) -> None:
    """Copies the recipe that the arguments name. Raises `UserError` if the new file is there already."""
    flags = init_parser().parse_args(argv)
    with exit_on_user_error():
        source, variant = find_recipe_file(flags.recipe, f"jaxft init {flags.recipe}")
        output = Path(flags.output or f"configs/{source.name}")
        if output.exists():
            other = output.with_stem(f"{output.stem}_2")
            raise UserError(f"{output} is there already; name another file, --output={other}")
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(output, source.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{output} cannot be written: {error}; name another file, --output=FILE"
            ) from None
    address = f"{output}:{variant}" if variant else str(output)
    print(f"{output}: a copy of {source.name}; edit it, then: jaxft train --config {shlex.quote(address)}")
