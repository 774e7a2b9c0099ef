"""Messages fit a terminal, and cannot control it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.errors import EXIT_USER_ERROR, MESSAGE_CHARACTERS, UserError, exit_on_user_error, printable


@given(st.text(st.characters(), max_size=300))
def test_no_character_of_a_message_controls_a_terminal(text):
    shown = printable(text)
    assert {unicodedata.category(character) for character in shown} & {"Cc", "Cs"} <= {"Cc"}
    assert {character for character in shown if unicodedata.category(character) == "Cc"} <= {"\n", "\t"}
    assert not set("\u202e\u2066\u2028\u200f") & set(shown)
    assert shown == text or len(shown) > len(text)
    shown.encode("utf-8")


def test_what_is_written_is_unchanged():
    for text in ("naïve 北京 😀 a\tb\nc", "", "x" * MESSAGE_CHARACTERS):
        assert printable(text) == text


def test_an_error_of_half_a_million_characters_keeps_its_ends(capsys):
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        raise UserError("data.csv, line 7: \x1b[31m" + "x" * 489_000 + "; write it shorter")
    shown = capsys.readouterr().err
    assert ended.value.code == EXIT_USER_ERROR and len(shown) < MESSAGE_CHARACTERS + 100
    assert shown.startswith("error: data.csv, line 7: \\x1b[31mxxx") and shown.endswith(
        "xxx; write it shorter\n"
    )
    assert "characters left out" in shown
