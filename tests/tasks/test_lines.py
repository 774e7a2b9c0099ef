"""Lists of errors are safe to open in a spreadsheet."""

import pytest

from jaxft.tasks.lines import error_lines


@pytest.mark.parametrize(
    "text", ["=1+1", "=HYPERLINK(A1)", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1+1"]
)
def test_text_that_a_spreadsheet_would_compute_is_escaped(text):
    _, line = error_lines([{"text": text, "label": "a"}], ["text", "label"])
    assert line == f"'{text.strip()}\ta\n"


@pytest.mark.parametrize("text", ["-1", "-0.25", "+1e-05", "-", "=", "a=1", "B-LOC", ""])
def test_other_cells_stay(text):
    assert list(error_lines([{"text": text}], ["text"]))[1] == f"{text}\n"
