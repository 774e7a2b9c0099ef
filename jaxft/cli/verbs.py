"""Lists the verbs, and runs a verb as the command of this process."""

import importlib
from collections.abc import Sequence

from jaxft.cli import startup

# Each verb is a module of this package with a `main(argv)`. These functions prepare its process before slow imports:
# `use_huge_pages` starts the process again, and `leave_torch_out` imports transformers.
VERBS = {
    "train": (startup.use_huge_pages, startup.leave_torch_out),
    "evaluate": (startup.leave_torch_out,),
    "predict": (startup.leave_torch_out,),
    "generate": (startup.leave_torch_out,),
    "export": (),
    "plan": (),
}


def run_verb(verb: str, argv: Sequence[str]) -> None:
    """Prepares the process for `verb`, one of `VERBS`, and runs it with the arguments `argv`."""
    if not {"-h", "--help"} & set(argv):
        for prepare in VERBS[verb]:
            prepare()
    importlib.import_module(f"jaxft.cli.{verb}").main(list(argv))
