"""Names from data say in a model card what they are, and are no markup there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from jaxft.tasks.card_tables import code, escape, make_header, make_row

HOSTILE = [
    "# Injected <script>alert(1)</script> | a | [c](javascript:x)",
    "x\n---\nlicense: mit\n---",
    "`a` ``b`` | c",
    "**bold** ![i](http://evil)",
    "<!-- --> \\| \\",
    "[a]: http://evil",
    "pos_neg & B-PER",
    "_0_ __init__ &lt; ~~x~~",
]
PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def shown(markdown: str) -> list[str]:
    """Returns the text of each cell of the first column; fails for markup in it."""
    cells, is_first = [], False
    for token in PARSER.parse(markdown):
        if token.type == "inline" and is_first:
            kinds = {child.type for child in token.children}
            assert kinds <= {"text", "text_special", "code_inline", "softbreak"}, kinds
            cells.append("".join(child.content for child in token.children))
            is_first = False
        elif token.type == "tr_open":
            is_first = True
    return cells


@given(
    st.lists(
        st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1) | st.sampled_from(HOSTILE),
        min_size=1,
    )
)
def test_a_name_in_a_table_is_shown_as_it_is(names):
    for show in (escape, code):
        rows = [
            *make_header("name", ["count"]),
            *(make_row([show(name), "1"]) for name in names if name.split()),
        ]
        expected = [" ".join(name.split()) for name in names if name.split()]
        assert [cell.strip() for cell in shown("\n".join(rows))] == ["name", *expected]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_in_a_list_is_shown_as_it_is(name):
    for show in (escape, code):
        tokens = PARSER.parse(f"- Labels: {show(name)}, b\n")
        assert [token.type for token in tokens].count("inline") == 1
        [inline] = [token for token in tokens if token.type == "inline"]
        assert {child.type for child in inline.children} <= {"text", "text_special", "code_inline"}
