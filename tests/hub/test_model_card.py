"""Model cards of checkpoints: the licence and languages that they name, and nothing that they do not."""

import pytest

from jaxft.hub.model_card import read_card_fields


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("---\nlanguage: en\nlicense: mit\ntags:\n- x\n---\n# T", {"license": "mit", "language": ["en"]}),
        ("\ufeff---\nlanguage:\n- no\n- sv\n---\n", {"language": ["no", "sv"]}),
        ("---\nlanguage: no\n---\n", {"language": ["no"]}),
        (
            "---\nlicense: other\nlicense_name: n\nlicense_link: LICENSE\n---\n",
            {"license": "other", "license_name": "n", "license_link": "LICENSE"},
        ),
        ("---\ntags: []\n---\nlicense: mit\n---\n", {}),  # below the header
        ("# A model\n\n---\nlicense: mit\n---\n", {}),
        ("---\nlicense: [mit\n---\n", {}),
        ("---\njust text\n---\n", {}),
        ("---\nlicense: mit\n", {}),
        ("---\nlicense: " + "[" * 5000 + "]" * 5000 + "\n---\n", {}),
        ("---\nlicense: mit\nlanguage: 2020-13-45\n---\n", {}),  # no date
        ("---\nlicense: " + "9" * 5000 + "\n---\n", {}),
        ('---\nlicense: "\\ud800"\nlicense_name: "a\\nb"\nlanguage: [en]\n---\n', {"language": ["en"]}),
        ("---\na: &a [x]\nb: &b [*a, *a]\nlicense: *b\n---\n", {}),  # doubled ten times, it fills all memory
        ("", {}),
    ],
)
def test_the_header_is_read_and_nothing_else(text, fields, tmp_path):
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert read_card_fields(tmp_path) == fields


def test_without_a_card_there_are_no_fields(tmp_path):
    assert read_card_fields(tmp_path) == {}
