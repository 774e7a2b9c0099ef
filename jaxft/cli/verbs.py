"""Lists the verbs, and runs the verb that the arguments name as the command of this process."""

import argparse
import difflib
import importlib
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jaxft
from jaxft.cli import startup, streams
from jaxft.errors import EXIT_USER_ERROR
from jaxft.training.log.waits import announced


class Verb(NamedTuple):
    """A verb of the command.

    Attributes:
      module: the module of this package with the function `VERB(argv)`, which runs the verb, and `VERB_parser()`.
      summary: what the verb does, in a few words.
      example: a command that runs it.
      prepare: functions that prepare the process before slow imports: `use_huge_pages` starts the process again, and
        `leave_torch_out` imports transformers. Verbs whose results are files outlive the readers of their messages.
    """

    module: str
    summary: str
    example: str
    prepare: tuple[Callable[[], None], ...] = ()


VERBS = {
    "train": Verb(
        "train",
        "fine-tunes a model",
        "jaxft train --config ner --workdir runs/ner",
        (startup.use_huge_pages, streams.outlive_readers, startup.leave_torch_out),
    ),
    "evaluate": Verb(
        "use",
        "measures a run on other data",
        "jaxft evaluate --run runs/ner --data more.conll",
        (streams.outlive_readers, startup.leave_torch_out),
    ),
    "predict": Verb(
        "use",
        "labels texts or images, or answers questions",
        "jaxft predict --run runs/ner --input text.txt",
        (startup.leave_torch_out,),
    ),
    "generate": Verb(
        "use",
        "continues text",
        "jaxft generate --run runs/lm --prompt 'The town'",
        (startup.leave_torch_out,),
    ),
    "export": Verb(
        "use",
        "writes a model that transformers loads",
        "jaxft export --run runs/ner --output exported",
        (streams.outlive_readers,),
    ),
    "convert": Verb(
        "convert",
        "makes safetensors of pytorch_model.bin",
        "jaxft convert FOLDER --output NEW_FOLDER",
        (streams.outlive_readers,),
    ),
    "plan": Verb(
        "choose",
        "estimates memory and time of a step",
        "jaxft plan --config ner --topology cpu:8 --rows_per_device 1",
    ),
    "settings": Verb(
        "choose",
        "lists settings, of all tasks or of one",
        "jaxft settings",
        (streams.outlive_readers,),
    ),
    "recipes": Verb(
        "choose", "lists recipes with their results", "jaxft recipes", (streams.outlive_readers,)
    ),
    "init": Verb("choose", "copies a recipe for you to edit", "jaxft init ner"),
}


def main() -> None:
    """Runs the verb that the arguments of the process name."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks how the line may go on
        _complete()
    verb, *argv = sys.argv[1:] or [""]
    if verb in ("-h", "--help"):
        print(help_text())
    elif verb == "--version":
        print(f"jaxft {jaxft.__version__}")
    elif verb in VERBS:
        run_verb(verb, argv)
    else:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(VERBS)}"
        print(
            f"error: jaxft {verb}: no such verb; {hint}" if verb else help_text(), file=sys.stderr, flush=True
        )
        sys.exit(EXIT_USER_ERROR)


def help_text() -> str:
    """Returns the overview of the verbs, each with an example."""
    lines = [
        "usage: jaxft VERB [FLAGS]",
        "",
        "Fine-tunes pretrained transformers in JAX/Flax.",
        "",
        *(f"  {name:<9} {verb.summary:<39} {verb.example}" for name, verb in VERBS.items()),
        "",
        "  jaxft VERB --help    explains a verb and its flags",
        "  jaxft --version      prints the version",
        "",
        'Tab completes verbs, flags and settings after: eval "$(register-python-argcomplete jaxft)"',
    ]
    return "\n".join(lines)


def run_verb(verb: str, argv: Sequence[str]) -> None:
    """Prepares the process for `verb`, one of `VERBS`, and runs it with the arguments `argv`."""
    streams.open_closed_streams()
    startup.end_quickly()
    with announced("importing transformers", streams.tell_terminal):
        for prepare in (streams.outlive_readers,) if {"-h", "--help"} & set(argv) else VERBS[verb].prepare:
            prepare()
    streams.show_warnings()
    getattr(import_module(verb), verb)(list(argv))


def import_module(verb: str) -> types.ModuleType:
    """Imports the module that defines `verb`, one of `VERBS`."""
    return importlib.import_module(f"jaxft.cli.{VERBS[verb].module}")


def _complete() -> None:
    """Tells the shell how the command line in the environment may go on, and exits."""
    import argcomplete

    parser = argparse.ArgumentParser(prog="jaxft")
    parser.add_argument("--version", action="store_true")
    verbs = parser.add_subparsers()
    for name, verb in VERBS.items():
        is_typed = name in os.environ["COMP_LINE"].split()  # to import the flags of all verbs would be slow
        parents = [getattr(import_module(name), f"{name}_parser")()] if is_typed else []
        flags = verbs.add_parser(name, help=verb.summary, parents=parents, add_help=False)
        if "--config " in flags.format_usage():  # it takes settings
            _add_settings(flags)
    argcomplete.autocomplete(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds all settings as flags, for completion only."""
    from jaxft.training.settings import all_schemas

    for key, setting in {
        key: s for schema in all_schemas() for key, s in schema.declarations.items()
    }.items():
        parser.add_argument(
            f"--config.{key}", choices=setting.choices or None, help=setting.help.replace("%", "%%")
        )
