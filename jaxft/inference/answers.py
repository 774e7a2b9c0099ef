"""Answers the records of an input as they arrive, and writes each answer in its place."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from jaxft.data.sources.files import Log
from jaxft.errors import UserError
from jaxft.inference.input_records import Item


class AnswerWriter(Protocol):
    """Turns answers into the lines of an output, or pieces of lines; see `output_formats`."""

    def render(self, item: Item, example: Any, answer: Any) -> Iterable[bytes]:
        """Returns the lines for an item, its example and its answer, and the lines of the input before it."""

    def render_error(self, item: Item, error: UserError) -> Iterable[bytes]:
        """Returns the lines for an item that has no answer because of an error."""

    def render_rest(self) -> list[bytes]:
        """Returns the lines of the input after the last item."""


class Counts(NamedTuple):
    """The number of records that were answered, and of those with an error."""

    answers: int
    errors: int


def log_counts(counts: Counts, noun: str, seconds: float, log: Log) -> None:
    """Logs how many records were answered; `noun` is the name of one."""
    errors = f", {counts.errors:,} with an error" if counts.errors else ""
    count = counts.answers + counts.errors
    log(f"{count:,} {noun}{'' if count == 1 else 's'} in {seconds:.1f} s{errors}")


def answer_items(
    items: Iterable[Item | None],
    parse: Callable[[Item], Any],
    answer: Callable[[Iterator[Any]], Iterator[list[tuple[Any, Any]]]],
    writer: AnswerWriter,
    put: Callable[[Iterable[bytes]], None],
    *,
    on_error: str,
    log: Log,
) -> Counts:
    """Answers items and writes them in order.

    The answers before an error are always written. Nothing waits for an item that has not arrived.

    Args:
      items: the items; None where the next one has not arrived yet.
      parse: makes an example of an item without an error.
      answer: answers a stream of examples; yields lists of (example, answer) in order. None among the examples asks for
        the answers to all before it.
      writer: makes the lines of the output.
      put: writes pieces of lines.
      on_error: "stop" raises the first error of an item; "record" writes it in the place of the answer and goes on.
      log: prints a line about an error that is written.

    Raises:
      UserError: an item has an error and `on_error` is "stop"; or an error that is not an item's.
    """
    unwritten: deque[tuple[Item, Any]] = deque()  # items, each with its example or its error
    fatal: list[UserError] = []
    unwritable: list[UserError] = []
    answer_count = error_count = 0

    def render_errors() -> Iterator[bytes]:
        """Yields the lines of the errors before the first item that waits for its answer."""
        while unwritten and isinstance(unwritten[0][1], UserError):
            yield from writer.render_error(*unwritten.popleft())

    def render_answers(answers: Iterable[tuple[Any, Any]]) -> Iterator[bytes]:
        """Yields the lines of the answers to the first items, and of the errors between and after them."""
        for example, value in answers:
            yield from writer.render(unwritten.popleft()[0], example, value)
            yield from render_errors()

    def put_lines(lines: Iterable[bytes]) -> None:
        """Writes lines. An error of the output, or of its header, is no item's."""
        try:
            put(lines)
        except UserError as error:
            unwritable.append(error)
            raise

    def put_answers(stream: Iterator[Any]) -> None:
        """Answers examples and writes the answers, and the errors between them."""
        nonlocal answer_count
        for answers in answer(stream):
            put_lines(render_answers(answers))
            answer_count += len(answers)

    def note_error(error: UserError) -> UserError:
        """Counts and logs an error that is recorded, or raises it."""
        nonlocal error_count
        if on_error == "stop":
            raise UserError(f"{error} (--on_error=record writes such errors down and goes on)") from None
        log(f"error: {error}")
        error_count += 1
        return error

    def examples() -> Iterator[Any]:
        try:
            for item in items:
                if item is None:
                    yield None
                    continue
                try:
                    if isinstance(item.value, UserError):
                        raise item.value
                    example = parse(item)
                except UserError as error:
                    unwritten.append((item, note_error(error)))
                    put_lines(render_errors())
                else:
                    unwritten.append((item, example))
                    yield example
        except UserError as error:  # raised once the examples before it are answered
            fatal.append(error)

    stream = examples()
    while True:
        try:
            put_answers(stream)
            break
        except UserError:
            if unwritable or not unwritten:
                raise
        # An example that cannot be encoded has failed with those next to it. One by one, the others are answered.
        for _ in range(len(unwritten)):
            item, example = unwritten[0]
            try:
                put_answers(iter([example]))
            except UserError as error:
                if unwritable:
                    raise
                unwritten[0] = item, note_error(error)
                put_lines(render_errors())
            if not unwritten:
                break
    if fatal:
        raise fatal[0]
    put(writer.render_rest())
    return Counts(answer_count, error_count)
