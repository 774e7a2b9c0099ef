"""Resolves sources to files, assigns files to shards, and reads files line by line."""

import glob
import heapq
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Literal, Protocol, TypeVar, cast, overload

from jaxft.data.sources import encodings
from jaxft.errors import UserError

Log = Callable[[str], None]  # prints a line about a source, which begins with the source's name and a colon
PEEKED = 1 << 16  # bytes of a file that show its format and encoding
MAX_TEXT = 10_000_000  # bytes of a line, unless the user allows more
UNBOUNDED = sys.maxsize - 1

Source = TypeVar("Source")
Content = TypeVar("Content")  # a line, a record, an example

_SHARD = re.compile(r"(?P<source>.+)#(?P<number>\d{1,9})/(?P<count>\d{1,9})")


def log_nothing(line: str) -> None:
    """Prints nothing."""


def log_once(log: Log) -> Log:
    """Returns a log that prints a line once, even if several sources have it with different names before the colon."""
    printed = set()

    def log_line(line: str) -> None:
        text = line.partition(": ")[2] or line
        if text not in printed:
            printed.add(text)
            log(line)

    return log_line


class Stream(Protocol):
    """An open input: lines of bytes, and its name in messages."""

    name: str

    def __iter__(self) -> Iterator[bytes]:
        """Yields the lines, each with its line end."""


def source_name(source: str | Stream) -> str:
    """Returns the name of a source in messages: its path or name, or `<stdin>` for "-"."""
    if not isinstance(source, str):
        return source.name
    return "<stdin>" if source == "-" else source


def split_shard_suffix(source: str) -> tuple[str, tuple[int, int] | None]:
    """Splits a source into its address and its shard.

    Returns `("part-*.txt", (2, 4))` for "part-*.txt#2/4", the second of four shards, and `(source, None)` for a source
    without the suffix. Raises `UserError` for a shard number that does not exist.
    """
    match = None if os.path.exists(source) else _SHARD.fullmatch(source)
    if match is None:
        return source, None
    number, count = int(match["number"]), int(match["count"])
    if not 1 <= number <= count:
        raise UserError(f"{source}: there is no shard {number} of {count}; expected 1 to {count}")
    return match["source"], (number, count)


def find_files(source: object) -> list[str] | None:
    """Returns the files of a pattern ("part-*.txt") or of a shard of a pattern ("part-*.txt#2/4").

    In a pattern, "?" stands for any character unless a filter of records follows it ("data.jsonl?fold=1").

    Returns:
      The files, sorted by name; for a shard, the files that `deal_files` assigns to it. None if the source is not a
      pattern but a path, "-", a stream, a `demo:` corpus or a dataset of the hub.

    Raises:
      UserError: no file matches, the pattern has a filter of records, or the shard does not exist.
    """
    if not isinstance(source, str) or os.path.exists(source) or source.startswith("hub:"):
        return None
    pattern, shard = split_shard_suffix(source)
    if shard is None and os.path.exists(pattern.rpartition("?")[0]):
        return None
    address, _, record_filter = pattern.rpartition("?")
    if not address or "=" not in record_filter or "/" in record_filter:
        address, record_filter = pattern, ""
    pathname = address.replace("[", "[[]")  # brackets are part of file names here, not of the pattern
    paths = sorted(path for path in glob.glob(pathname, recursive=True) if os.path.isfile(path))
    if shard is None and "*" not in address and not ("?" in address and paths):
        return None
    if record_filter and shard:
        raise filtered_shard_error(pattern, record_filter)
    if record_filter:
        raise UserError(
            f"{pattern}: ?{record_filter} chooses records of a file, {address} is a pattern of several"
        )
    if os.path.isdir(address):
        raise UserError(
            f"{pattern}: a folder; to deal its files to shards, give a pattern such as {address}/*.txt"
        )
    if not paths:
        hint = ", or hub:NAME/SPLIT; only these have shards" if shard else ""
        raise UserError(
            f"{pattern}: no file matches (in {os.getcwd()}); expected a pattern such as part-*.txt, in which only *, ? "
            f"and ** stand for other characters{hint}"
        )
    if shard is None:
        return paths
    number, count = shard
    if len(paths) < count:
        raise UserError(
            f"{pattern}: {len(paths)} {'file' if len(paths) == 1 else 'files'} for {count} shards; a shard is one file "
            "or more: split the data into more files (`split -n l/8 --additional-suffix=.jsonl data.jsonl part-` does "
            "where an item is a line; for CoNLL see docs/hosts.md), or have fewer shards (config.data.shards)"
        )
    return deal_files(paths, [os.path.getsize(path) for path in paths], count)[number - 1]


def filtered_shard_error(source: str, record_filter: str) -> UserError:
    """Returns the error for a source that has both a shard and a filter of records."""
    return UserError(
        f"{source}: ?{record_filter} chooses records, which no shard is made of; write those to files, "
        "and deal these to shards"
    )


def check_single_file(source: str) -> None:
    """Raises `UserError` if `source` is a pattern, for inputs whose lines are answered one by one."""
    if paths := find_files(source):
        raise UserError(
            f"--input {source}: a pattern, of {len(paths)} files; answers are written for one: give one file after the "
            "other"
        )


def check_readable(source: str, alternative: str) -> None:
    """Raises `UserError` if `source` is neither "-" nor a file that can be read.

    Args:
      source: a path, or "-".
      alternative: another kind of source that the message names, for example "demo:ner/train".
    """
    if source == "-":
        return
    if not os.path.exists(source):
        raise UserError(
            f"{source}: no such file (in {os.getcwd()}); "
            f"expected a path, {alternative}, or hub:NAME/SPLIT for a dataset of the Hugging Face hub"
        )
    if os.path.isdir(source):
        raise UserError(f"{source}: a folder, where a data file was expected; name a file in it")
    if not os.access(source, os.R_OK):
        raise UserError(f"{source}: the file may not be read; check its permissions (`ls -l`)")


def read_file_sizes(pattern: str) -> dict[str, int]:
    """Returns the size in bytes of each file of a pattern, keyed by a line that names the file; for `deal_files`."""
    return {f"the size of {path}": os.path.getsize(path) for path in find_files(f"{pattern}#1/1") or []}


def deal_files(files: Sequence[str], sizes: Sequence[int], count: int) -> list[list[str]]:
    """Assigns files to `count` shards of about the same size. Each shard gets a file if there are enough.

    From the largest file to the smallest, each goes to the shard with the fewest bytes so far. The result depends only
    on the names and sizes of the files.

    Args:
      files: the names of the files.
      sizes: the size of each file in bytes.
      count: number of shards.

    Returns:
      The files of each shard, sorted by name.
    """
    shards: list[list[str]] = [[] for _ in range(count)]
    smallest_first = [(0, 0, index) for index in range(count)]  # a heap of (bytes, files, index of the shard)
    for size, name in sorted(zip(sizes, files, strict=True), key=lambda pair: (-pair[0], pair[1])):
        byte_count, file_count, index = heapq.heappop(smallest_first)
        shards[index].append(name)
        heapq.heappush(smallest_first, (byte_count + size, file_count + 1, index))
    return [sorted(shard) for shard in shards]


def stdin_bytes() -> io.BufferedReader:
    """Returns the bytes of stdin, which can be looked at before they are read."""
    return cast(io.BufferedReader, sys.stdin.buffer)  # its declared type has only what all binary files can


def peek(source: str) -> bytes:
    """Returns the first bytes of a file or of stdin ("-"), which stay unread.

    They are all bytes of a short file, those of stdin that have arrived, and none of a named pipe.
    """
    if source == "-":
        return stdin_bytes().peek(PEEKED)
    if not os.path.isfile(source):
        return b""
    with open(source, "rb") as file:
        return file.read(PEEKED)


def read_raw_lines(
    source: str | Stream, encoding: str = encodings.UTF8, max_bytes: int = UNBOUNDED
) -> Iterator[bytes]:
    """Yields the lines of a file, of stdin ("-") or of a stream in UTF-8, each with its line end.

    Only LF ends a line, because other Unicode line ends may occur inside a word; CR does in a file without LF. Lines of
    a file in UTF-8 are not checked. A longer line of a file than `max_bytes` is cut, but remains longer. Raises
    `UserError` if the bytes are not in another encoding.
    """
    if not isinstance(source, str):
        yield from source
        return
    stream = stdin_bytes() if source == "-" else cast(io.BufferedReader, open(source, "rb", PEEKED))
    try:
        if encodings.is_utf8(encoding) and not encodings.has_lone_returns(stream.peek(PEEKED)):
            yield from _read_cut_lines(stream, max_bytes)
        else:
            pieces = iter(lambda: stream.read1(PEEKED), b"")
            yield from encodings.split_lines(pieces, encoding, source_name(source), max_bytes)
    finally:
        if source != "-":
            stream.close()


def _read_cut_lines(stream: IO[bytes], max_bytes: int) -> Iterator[bytes]:
    """Yields the lines of a binary file. The end of a line after `max_bytes + 1` bytes is dropped while it is read."""
    while line := stream.readline(max_bytes + 1):
        yield line
        while len(line) > max_bytes and not line.endswith(b"\n"):
            line = stream.readline(max_bytes + 1)


@overload
def read_lines(
    source: str | Stream,
    encoding: str = ...,
    *,
    keeps_errors: Literal[False] = ...,
    max_bytes: int = ...,
) -> Iterator[tuple[int, str]]: ...


@overload
def read_lines(
    source: str | Stream, encoding: str = ..., *, keeps_errors: bool, max_bytes: int = ...
) -> Iterator[tuple[int, str | UserError]]: ...


def read_lines(
    source: str | Stream,
    encoding: str = encodings.UTF8,
    *,
    keeps_errors: bool = False,
    max_bytes: int = UNBOUNDED,
) -> Iterator[tuple[int, str | UserError]]:
    """Yields `(number from 1, line)` of a file, of stdin ("-") or of a stream. Keeps line ends, removes a BOM.

    See `read_raw_lines` for line ends. Raises `UserError` with line and byte if the bytes are not in the encoding, or
    if a line has more than `max_bytes` bytes of UTF-8; with `keeps_errors`, yields the error of a line in its place.
    """
    for number, raw in enumerate(read_raw_lines(source, encoding, max_bytes), 1):
        try:
            if len(raw) > max_bytes:
                raise too_long_error(f"{source_name(source)}, line {number}: the line is", max_bytes)
            line = _decode_line(raw, f"{source_name(source)}, line {number}")
        except UserError as error:
            if not keeps_errors:
                raise
            yield number, error
            continue
        yield number, line.removeprefix("\ufeff") if number == 1 else line


def _decode_line(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}, byte {error.start + 1} of the line: 0x{raw[error.start]:02x} is not UTF-8; "
            f"{encodings.advise(raw, error.start)}"
        ) from None


def too_long_error(what: str, max_bytes: int) -> UserError:
    """Returns the error for a line, sentence or text with more than `max_bytes` bytes; `what` ends in a verb."""
    return UserError(
        f"{what} longer than {max_bytes:,} bytes, which takes much memory; divide it, or set config.data.max_text to "
        "more"
    )


def check_size(path: str, max_bytes: int) -> None:
    """Raises `UserError` if a file that holds a single text has more than `max_bytes` bytes."""
    if os.path.getsize(path) > max_bytes:
        raise too_long_error(f"{path}: the text is", max_bytes)


def open_each(
    read: Callable[[Source], Iterator[Content]], sources: Sequence[Source]
) -> Iterator[Iterator[Content]]:
    """Yields the result of `read` for each source. The first source is opened at once, the others one by one."""
    return itertools.chain([read(sources[0])], map(read, sources[1:]))
