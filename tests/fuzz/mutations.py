"""Damages files at random: their bytes, their lines, the cells of their tables and the values of their JSON."""

import json
import random
from collections.abc import Callable
from typing import Any

# Bytes that readers have stumbled over, or might.
PIECES = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\x93", b"\xc3", b"\r", b"\n", b"\n\n", b"\t",
    b" ", b'"', b"'", b",", b";", b"|", b"[" * 10_000, b"{" * 10_000, b'{"a":' * 5000, b"1" * 400, b"1e999", b"NaN",
    b"-Infinity", b"-1", b"0", b"null", b"true", b"{}", b"[]", b"-DOCSTART- -X- O O\n", b"# comment\n", b"B-", b"I-",
    b"-LOC", b"\x1b[31m", "\u202e\u2066".encode(), "\u200b".encode(), "\U0001f600".encode(), b"=cmd|' /C calc'!A0",
    b"<script>",
    b"x" * 3000,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(10**30), int("9" * 400), 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "\x00", "\ud800", "\u202e", "x" * 3000, "O", "B-", "NaN", "1e999", "../../etc/passwd", [], {}, [[]],
    [None], ["\ud800"], [[0, 4, "LOC"]], {"start": 0, "end": 4, "label": "LOC"},
    {"text": ["x"], "answer_start": [0]},
]  # fmt: skip


def damage(content: bytes, rng: random.Random) -> bytes:
    """Returns the content of a file, changed in one to three places."""
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(_MUTATIONS)(content, rng)
    return content


def _flip(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return b"x"
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = rng.randint(0, len(content))
    return content[:place] + rng.choice(PIECES) + content[place:]


def _replace(content: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(content))
    return content[:start] + rng.choice(PIECES) + content[min(len(content), start + rng.randint(1, 20)) :]


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randint(0, len(content))]


def _drop(content: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(content))
    return content[:start] + content[start + rng.randint(1, 40) :]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(content))
    piece = content[start : start + rng.randint(1, 200)]
    return content[:start] + piece * rng.randint(2, 5) + content[start:]


def _mix_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines[: rng.randint(0, len(lines))] + lines[:1])


def _change_cell(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    index = rng.randrange(len(lines))
    for delimiter in (b"\t", b",", b" "):
        if delimiter in lines[index]:
            cells = lines[index].split(delimiter)
            cells[rng.randrange(len(cells))] = rng.choice(PIECES)
            lines[index] = delimiter.join(cells)
            break
    return b"\n".join(lines)


def _change_json(content: bytes, rng: random.Random) -> bytes:
    """Changes a value, a key or the end of an object in a JSON document or in a line of JSON."""
    lines = content.split(b"\n")
    index = rng.randrange(len(lines))
    try:
        try:
            document, index = json.loads(content), None
        except ValueError:
            document = json.loads(lines[index])
    except (ValueError, RecursionError):
        return content
    changed = json.dumps(_change_value(document, rng), ensure_ascii=rng.random() < 0.5)
    changed_bytes = changed.encode("utf-8", "surrogatepass")
    if index is None:
        return changed_bytes
    return b"\n".join([*lines[:index], changed_bytes, *lines[index + 1 :]])


def _change_value(value: Any, rng: random.Random) -> Any:
    """Returns a JSON value in which one value, at a random depth, is another."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if rng.random() < 0.05:
            return {("text" if name == key else name): item for name, item in value.items()}
        return value | {key: _change_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        index = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[:index] + value[index + 1 :]
        return [*value[:index], _change_value(value[index], rng), *value[index + 1 :]]
    return rng.choice(VALUES)


_MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    _flip, _insert, _replace, _cut, _drop, _repeat, _mix_lines, _change_cell, _change_json, _change_json, _change_json,
]  # fmt: skip
