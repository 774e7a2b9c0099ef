"""Finds the files that a pattern means, and deals them to the parts of a run's data."""

import glob
import heapq
import os
import re
from collections.abc import Sequence

from jaxft.errors import UserError

_PART = re.compile(r"(?P<source>.+)#(?P<number>\d+)/(?P<count>\d+)")


def split_shard_suffix(source: str) -> tuple[str, tuple[int, int] | None]:
    """("part-*.txt", (2, 4)) of "part-*.txt#2/4", the second of four parts; None for the whole.

    Raises `UserError` for a part that there is not.
    """
    part = None if os.path.exists(source) else _PART.fullmatch(source)
    if part is None:
        return source, None
    number, count = int(part["number"]), int(part["count"])
    if not 1 <= number <= count:
        raise UserError(f"{source}: there is no part {number} of {count}; expected 1 to {count}")
    return part["source"], (number, count)


def find_files(source: object) -> list[str] | None:
    """The files that `source` means, by name, where it is a pattern ("part-*.txt") or a part of one; else None.

    Of parts see `split_part` and `dealt`; those of the hub's data sets are no files. "?" is any character, unless a
    choice of records follows it ("data.jsonl?fold=1").

    Raises `UserError` for a pattern that no file matches, one with a choice of records, and a part that there is not.
    """
    if not isinstance(source, str) or os.path.exists(source) or source.startswith("hub:"):
        return None
    pattern, part = split_shard_suffix(source)
    if part is None and os.path.exists(pattern.rpartition("?")[0]):
        return None
    address, _, choice = pattern.rpartition("?")
    if not address or "=" not in choice or "/" in choice:
        address, choice = pattern, ""
    pathname = address.replace("[", "[[]")  # which are characters of names
    found = sorted(name for name in glob.glob(pathname, recursive=True) if os.path.isfile(name))
    if part is None and "*" not in address and not ("?" in address and found):
        return None
    if choice and part:
        raise UserError(
            f"{pattern}: ?{choice} chooses records, which no part is made of; write those to files, and deal these to "
            "parts"
        )
    if choice:
        raise UserError(f"{pattern}: ?{choice} chooses records of a file, {address} is a pattern of several")
    if os.path.isdir(address):
        raise UserError(
            f"{pattern}: a folder; to deal its files to parts, give a pattern such as {address}/*.txt"
        )
    if not found:
        hint = ", or hub:NAME/SPLIT; only these have parts" if part else ""
        raise UserError(
            f"{pattern}: no file matches (in {os.getcwd()}); expected a pattern such as part-*.txt, in which only *, ? "
            f"and ** stand for other characters{hint}"
        )
    if part is None:
        return found
    number, count = part
    if len(found) < count:
        raise UserError(
            f"{pattern}: {len(found)} {'file' if len(found) == 1 else 'files'} for {count} parts; a part is one file "
            "or more: split the data into more files (`split -n l/8 --additional-suffix=.jsonl data.jsonl part-` does "
            "where an item is a line; for CoNLL see README, Several hosts), or have fewer parts (config.data.shards)"
        )
    return deal_files(found, [os.path.getsize(name) for name in found], count)[number - 1]


def check_single_file(source: str) -> None:
    """Raises `UserError` where `source`, an input whose lines are answered one by one, is a pattern of files."""
    if found := find_files(source):
        raise UserError(
            f"--input {source}: a pattern, of {len(found)} files; answers are written for one: give one file after the "
            "other"
        )


def read_file_sizes(pattern: str) -> dict[str, int]:
    """What dealing a pattern's files depends on: their names and sizes in bytes."""
    return {f"the size of {name}": os.path.getsize(name) for name in find_files(f"{pattern}#1/1") or []}


def deal_files(files: Sequence[str], sizes: Sequence[int], count: int) -> list[list[str]]:
    """Files in `count` parts of about the same size, each with one at least if there are as many, by name.

    The largest first, each goes to the part that has least so far: a function of names and sizes in bytes only.
    """
    parts: list[list[str]] = [[] for _ in range(count)]
    least = [(0, 0, index) for index in range(count)]  # bytes, files, part
    for size, name in sorted(zip(sizes, files, strict=True), key=lambda pair: (-pair[0], pair[1])):
        held, number, index = heapq.heappop(least)
        parts[index].append(name)
        heapq.heappush(least, (held + size, number + 1, index))
    return [sorted(part) for part in parts]
