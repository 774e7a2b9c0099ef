"""The report shows the numbers of the JSON record, and odd words never break the columns of a prediction file."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jaxft.metrics.entities import EntityState
from jaxft.tasks.token_classification.entity_errors import find_errors
from jaxft.tasks.token_classification.report import (
    conll_lines,
    error_lines,
    evaluation_record,
    render_brief,
    render_report,
)

WORDS = [["Anna", "met", "Bo"], ["in", "Rome"]]
GOLD = [["B-PER", "O", "B-PER"], ["O", "B-LOC"]]
PREDICTED = [["B-PER", "O", "O"], ["O", "B-[bold]"]]  # a type that is markup to rich


def printed(result: dict, render=render_report) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(render(result))
    return console.file.getvalue()


def test_report_from_json_has_every_number():
    state = EntityState()
    state.update(GOLD, PREDICTED, loss_sum=1.0, weight_sum=4.0)
    errors = find_errors(WORDS, GOLD, PREDICTED, {("Rome",): {"LOC"}})
    result = evaluation_record(state, data="dev.conll", intervals=state.intervals(samples=50), errors=errors)
    assert result["metrics"]["entity_f1"] == pytest.approx(0.4) and result["sentences"] == 2
    read_back = json.loads(json.dumps(result, allow_nan=False))
    assert read_back == result
    text = printed(read_back)
    assert "dev.conll: 2 sentences, 5 words, 3 entities; token accuracy 60.00%; loss 0.2500" in text
    rows = [
        [cell.strip() for cell in line.strip("│┃ ").split("│")] for line in text.splitlines() if "│" in line
    ]
    assert rows.count(["PER", "100.00", "50.00", "66.67", "2", "1"]) == 2  # strict and lenient
    assert rows.count(["micro", "50.00", "33.33", "40.00", "3", "2"]) == 2
    assert ["[bold]", "0.00", "0.00", "0.00", "0", "1"] in rows
    assert ["type", "1", "0", "1", "0"] in rows and ["missed", "0", "1", "-", "-"] in rows
    assert "50 resamples of 2" in " ".join(text.split())


def test_a_brief_report_has_the_most_frequent_types_and_fits_a_screen():
    gold = [[f"B-T{number}"] for number in range(30) for _ in range(number + 1)]
    state = EntityState()
    state.update(gold, gold[1:] + gold[:1], loss_sum=1.0, weight_sum=4.0)
    errors = find_errors([["word"]] * len(gold), gold, gold[1:] + gold[:1], {})
    result = evaluation_record(state, data="dev", intervals=state.intervals(samples=10), errors=errors)
    text = printed(result, render_brief)
    assert len(text.splitlines()) <= 25 and "; 10 of 30 types" in text
    assert all((f"│ T{number} " in text) == (number >= 20) for number in range(30))
    assert "entities that are wrong: boundary 0, type 30, missed 0, spurious 0" in text
    assert printed(result).count("│ T3 ") == 2  # the full report has all


def test_report_of_nothing_and_of_a_loss_that_is_not_finite():
    state = EntityState()
    assert "0 sentences" in printed(evaluation_record(state, data="empty"))
    state.update([["O"]], [["O"]], loss_sum=float("nan"), weight_sum=1.0)
    result = evaluation_record(state, data="dev")
    assert result["metrics"]["loss"] is None and "loss not finite" in printed(result)


def test_conll_lines():
    assert "".join(conll_lines(WORDS, GOLD, PREDICTED)) == (
        "Anna\tB-PER\tB-PER\nmet\tO\tO\nBo\tB-PER\tO\n\nin\tO\tO\nRome\tB-LOC\tB-[bold]\n\n"
    )
    with pytest.raises(ValueError):
        list(conll_lines([["a", "b"]], [["O", "O"]], [["O"]]))


@given(
    st.lists(
        st.text() | st.sampled_from(["", "\t", "a\u2028b", "\xa0", "\ufeff", "\ud800", "\x1c", "#"]),
        min_size=1,
    )
)
def test_any_words_keep_three_columns(words):
    tags = ["O"] * len(words)
    data = "".join(conll_lines([words], [tags], [tags])).encode("utf-8")
    lines = data.decode("utf-8-sig").splitlines()
    assert len(lines) == len(words) + 1 and lines[-1] == ""
    for word, line in zip(words, lines[:-1], strict=True):
        assert len(line.split("\t")) == len(line.split()) == 3
        if word.isalnum():
            assert line.split("\t")[0] == word


def test_error_lines_are_a_table():
    words = [["Anna\tB", "met", "Bo\n"], ["in", "Rome"]]
    lines = list(error_lines(find_errors(words, GOLD, PREDICTED, {("Rome",): {"LOC", "ORG"}})))
    header, *rows = [line.rstrip("\n").split("\t") for line in lines]
    assert all(line.count("\n") == 1 for line in lines) and all(len(row) == len(header) for row in rows)
    records = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(r["category"], r["side"], r["type"], r["other_type"]) for r in records] == [
        ("missed", "gold", "PER", "-"),
        ("type", "gold", "LOC", "[bold]"),
        ("type", "predicted", "[bold]", "LOC"),
    ]
    assert records[0]["context"] == "Anna␣B met [Bo␣]" and records[0]["seen_in_training_as"] == "-"
    assert records[1]["sentence"] == "2" and records[1]["words"] == "2-2"
    assert records[1]["seen_in_training_as"] == "LOC,ORG"
