"""Inputs are read line by line: what a pipe has is given at once, whatever the file's encoding and line ends."""

import io
import itertools
import os
import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources.files import log_nothing
from jaxft.data.sources.formats import SENTENCES, TEXTS, FileFormat
from jaxft.errors import UserError
from jaxft.inference import input_records
from jaxft.inference.input_records import InputLines, name_flags, open_input


class Buffer(io.BytesIO):
    """Bytes of stdin, of which a read returns a few."""

    def peek(self, count: int) -> bytes:
        return self.getvalue()[:count]

    def read1(self, count: int = -1) -> bytes:
        return self.read(3)


def read_lines(monkeypatch, content: bytes, encoding: str = "utf-8") -> InputLines:
    monkeypatch.setattr(input_records.sys, "stdin", io.TextIOWrapper(Buffer(content)))
    return InputLines("-", encoding)


@given(st.lists(st.text("ab é\U0001f600\r", max_size=9), max_size=9), st.sampled_from(["utf-8", "utf-16"]))
def test_lines_are_those_of_the_file_in_any_pieces(lines, encoding):
    text = "\n".join(["first", *lines])
    with pytest.MonkeyPatch.context() as monkeypatch:
        stream = read_lines(monkeypatch, text.encode(encoding), encoding)
        actual = list(stream)
    assert b"".join(actual).decode() == text
    assert all(line.endswith(b"\n") for line in actual[:-1])
    assert [line for line in itertools.chain(stream.take(1), stream.take_rest())] == actual


def test_carriage_returns_end_lines_where_nothing_else_does(monkeypatch):
    assert list(read_lines(monkeypatch, b"a\rb\rc")) == [b"a\n", b"b\n", b"c"]
    assert list(read_lines(monkeypatch, b"a\r\nb\rc\r\n")) == [b"a\r\n", b"b\rc\r\n"]


def test_a_pipe_that_has_no_line_pauses(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    opened = []
    writer = threading.Thread(target=lambda: opened.append(open(tmp_path / "pipe", "wb", buffering=0)))
    writer.start()
    records = open_input(str(tmp_path / "pipe"), TEXTS, FileFormat("text"), log_nothing, keys=["text"])
    writer.join()
    [pipe] = opened
    items = records.read("text", read_columns=None)
    for content, texts in (
        (b"one\n", ["one"]),
        (b"\n", [""]),
        (b"two\nthree\nfo", ["two", "three"]),
        (b"ur\n", ["four"]),
    ):
        assert next(items) is None  # nothing is there
        pipe.write(content)
        assert [next(items).value for _ in texts] == [{"text": text} for text in texts]
    pipe.write(b"last")
    assert next(items) is None
    pipe.close()
    assert [(item.origin.rpartition(":")[2], item.value) for item in items] == [("6", {"text": "last"})]


def test_files_do_not_pause(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "a"}\n\n\n{"te\n[]\n{"text": "b"}')
    records = open_input(str(tmp_path / "in.jsonl"), TEXTS, FileFormat(), log_nothing, keys=["text"])
    first, broken, other, last = records.read("text", read_columns=None)
    assert (first.value, last.value) == ({"text": "a"}, {"text": "b"})
    assert last.where.endswith("in.jsonl, line 6") and last.origin.endswith("in.jsonl:6")
    assert isinstance(broken.value, UserError) and "line 4, column 5" in str(broken.value)
    assert isinstance(other.value, UserError) and "line 5: a list where" in str(other.value)


def test_the_format_is_that_of_training_and_named_with_flags(tmp_path):
    """A .txt file of columns was prose for predict."""
    logged = []
    (tmp_path / "conll03.txt").write_text("Peter NNP B-PER\nleft VBD O\n\nOslo NNP B-LOC\n")
    records = open_input(str(tmp_path / "conll03.txt"), SENTENCES, FileFormat(), logged.append, keys=["text"])
    assert records.source.format.name == "conll"
    assert "--format" in logged[0] and "config.data" not in logged[0]
    (tmp_path / "table.txt").write_text("id;text\n1;a\n2;b\n")
    records = open_input(str(tmp_path / "table.txt"), TEXTS, FileFormat(), logged.append, keys=["text"])
    assert records.source.format == FileFormat("csv", "utf-8", ";")
    assert [item.value["text"] for item in records.read("text", None)] == ["a", "b"]


def test_what_a_table_leaves_out_is_said_and_latin_1_that_is_windows_1252_is_refused(tmp_path):
    logged = []
    (tmp_path / "a.csv").write_text("id,text\n1,hello\nid,text\n2,foo\n")
    records = open_input(str(tmp_path / "a.csv"), TEXTS, FileFormat(), logged.append, keys=["text"])
    assert [item.value["id"] for item in records.read("text", None)] == ["1", "2"]
    assert "line 3: the header again" in logged[-1]
    (tmp_path / "b.csv").write_bytes(b"id,text\n1,it\x92s\n")
    with pytest.raises(UserError, match="0x92 is a control character in latin-1, and '’' in Windows-1252"):
        latin = FileFormat(encoding="latin-1")
        records = open_input(str(tmp_path / "b.csv"), TEXTS, latin, logged.append, keys=["text"])
        list(records.read("text", None))


def test_settings_are_flags_in_messages():
    text = "set config.data.format, .encoding or .tag_column and config.data.label=x"
    assert name_flags(text) == "set --format, --encoding or config.data.tag_column and config.data.label=x"


def test_a_line_of_50_mb_is_dropped_while_it_is_read_and_costs_only_itself(tmp_path):
    """It took gigabytes; the next record is answered."""
    path = tmp_path / "in.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"text": "a"}\n{"text": "')
        for _ in range(50):
            file.write(b"word " * 200_000)
        file.write(b'"}\n{"text": "b"}\n')
    tracemalloc.start()
    records = open_input(str(path), TEXTS, FileFormat(max_text=1_000_000), log_nothing, keys=["text"])
    first, long, last = records.read("text", read_columns=None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (first.value, last.value) == ({"text": "a"}, {"text": "b"}) and last.origin.endswith(":3")
    assert "line 2: the line is longer than 1,000,000 bytes" in str(long.value)
    assert "--max_text" in str(long.value) and peak < 8_000_000
