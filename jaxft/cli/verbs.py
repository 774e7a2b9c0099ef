"""Lists the verbs, and runs a verb as the command of this process."""

import importlib
from collections.abc import Sequence

from jaxft.cli import startup, streams
from jaxft.training.log.waits import announced

# Each verb is a module of this package with a `main(argv)`. These functions prepare its process before slow imports:
# `use_huge_pages` starts the process again, and `leave_torch_out` imports transformers. Verbs whose results are files
# outlive the readers of their messages.
VERBS = {
    "train": (startup.use_huge_pages, streams.outlive_readers, startup.leave_torch_out),
    "evaluate": (streams.outlive_readers, startup.leave_torch_out),
    "predict": (startup.leave_torch_out,),
    "generate": (startup.leave_torch_out,),
    "export": (streams.outlive_readers,),
    "plan": (),
}


def run_verb(verb: str, argv: Sequence[str]) -> None:
    """Prepares the process for `verb`, one of `VERBS`, and runs it with the arguments `argv`."""
    streams.open_closed_streams()
    with announced("importing transformers", streams.tell_terminal):
        for prepare in (streams.outlive_readers,) if {"-h", "--help"} & set(argv) else VERBS[verb]:
            prepare()
    importlib.import_module(f"jaxft.cli.{verb}").main(list(argv))
