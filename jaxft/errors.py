"""Defines the exceptions that end a run on purpose, and exit codes.

Two exit codes are in cli/command.py: those for SIGPIPE and SIGTERM in verbs that use a trained model.
"""

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence

EXIT_USER_ERROR = 2  # bad input: one sentence on stderr, no stack trace
EXIT_NON_FINITE = 3  # the loss became NaN or infinite; the last good checkpoint is kept
EXIT_DOES_NOT_FIT = 4  # a plan found that the step needs more memory than the devices have
EXIT_INTERRUPTED = 130  # Ctrl-C, the code that shells use
# SIGTERM in `train` (the state is saved), or a lost process: start the same command again (EX_TEMPFAIL of sysexits.h).
EXIT_PREEMPTED = 75


MESSAGE_CHARACTERS = 4000  # of a message at most
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class UserError(Exception):
    """A mistake that the user can correct. The message says where it is, what was found and what to do.

    Example:
      >>> jaxft.load_config("ner", optim={"rate": 3e-5})  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      jaxft.errors.UserError: settings: there is no setting config.optim.rate...
    """


class NonFiniteLoss(UserError):
    """The error of a step whose loss or gradient is NaN or infinite."""


class Preempted(Exception):
    """The end of a run that SIGTERM has stopped. Its state is saved. This is not a mistake."""


def printable(text: str) -> str:
    """Returns a message as a terminal may show it: of bounded length, and without characters that control terminals.

    Control characters but newlines and tabs, marks that turn the direction of text, and halves of surrogate pairs
    become escapes. A long text loses its middle, with a note of how much.
    """
    if len(text) > MESSAGE_CHARACTERS:
        head, tail = MESSAGE_CHARACTERS * 3 // 4, MESSAGE_CHARACTERS // 4
        text = f"{text[:head]} ... ({len(text) - head - tail:,} characters left out) ... {text[-tail:]}"
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def list_names(names: Sequence[object], most: int = 12) -> str:
    """Returns the first `most` names for a message, with commas between, and dots for the others."""
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type's name if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def exit_on_user_error(who: str = "") -> Iterator[None]:
    """Turns a `UserError` in a command's body into one line on stderr and an exit code.

    Args:
      who: the text before the message in the line, such as "process 1: ".
    """
    try:
        yield
    except NonFiniteLoss as error:
        print(printable(f"error: {who}{error}"), file=sys.stderr, flush=True)
        sys.exit(EXIT_NON_FINITE)
    except UserError as error:
        print(printable(f"error: {who}{error}"), file=sys.stderr, flush=True)
        sys.exit(EXIT_USER_ERROR)
