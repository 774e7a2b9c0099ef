"""Lines of JSON are those of json.dumps, also of lists that are never whole; lists of errors are safe to open in a
spreadsheet."""

import itertools
import json

import pytest

from jaxft.tasks.lines import complete_lists, error_lines, render_json_line


@pytest.mark.parametrize("count", [0, 1, 1024, 2500])
def test_a_record_with_iterators_is_the_line_of_its_lists(count):
    items = [{"start": index, "text": f"é{index}"} for index in range(count)]

    def record():
        return {
            "first": iter(items),
            'a "key"': {"b": [1.5, None]},
            "tasks": {"tags": iter(items), "none": {}},
            "last": iter([]),
        }

    lists = {**record(), "first": items, "tasks": {"tags": items, "none": {}}, "last": []}
    assert complete_lists(record()) == lists
    pieces = list(render_json_line(record()))
    assert b"".join(pieces).decode() == json.dumps(lists, ensure_ascii=False) + "\n"
    assert max(map(len, pieces)) < 50_000  # a list of 2,500 items has 77,000
    assert b"".join(render_json_line({})) == b"{}\n"


def test_a_list_is_written_while_it_is_made():
    pieces = render_json_line({"text": "\ud83d", "numbers": itertools.count()})
    line = b"".join(itertools.islice(pieces, 4)).decode()  # half a surrogate pair is escaped
    assert line.startswith('{"text": "\\ud83d", "numbers": [0, 1, ') and line.endswith(", 2047")


@pytest.mark.parametrize(
    "text", ["=1+1", "=HYPERLINK(A1)", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1+1"]
)
def test_text_that_a_spreadsheet_would_compute_is_escaped(text):
    _, line = error_lines([{"text": text, "label": "a"}], ["text", "label"])
    assert line == f"'{text.strip()}\ta\n"


@pytest.mark.parametrize("text", ["-1", "-0.25", "+1e-05", "-", "=", "a=1", "B-LOC", ""])
def test_other_cells_stay(text):
    assert list(error_lines([{"text": text}], ["text"]))[1] == f"{text}\n"
