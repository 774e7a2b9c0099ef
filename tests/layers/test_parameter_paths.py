"""Tests which parameters a user's pattern selects, and the errors of useless patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.errors import UserError
from jaxft.layers import parameter_paths
from jaxft.layers.parameter_paths import flatten, match_first, unflatten

KEYS = st.text("abc01_", min_size=1, max_size=3)
TREES = st.recursive(st.integers(), lambda node: st.dictionaries(KEYS, node, min_size=1, max_size=3))
NAMES = ["backbone/layers/mlp/up/kernel", "backbone/layers/mlp/up/bias", "head/kernel", "head/bias"]


@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_unflatten_gives_back_what_was_flattened(tree):
    assert unflatten(flatten(tree)) == tree


def test_paths_that_cannot_be_given_back_are_refused():
    with pytest.raises(ValueError, match="contains a slash"):
        flatten({"a/b": 1})
    with pytest.raises(ValueError, match="leaf"):
        unflatten({"a": 1, "a/b": 2})
    with pytest.raises(ValueError, match="leaf"):
        unflatten({"a/b": 2, "a": 1})


def test_first_rule_wins_and_is_searched_anywhere_in_the_name():
    values = match_first([("^head/", 10), ("kernel$", 1), ("head/bias", 99)], NAMES, what="rates")
    assert values == {"backbone/layers/mlp/up/kernel": 1, "head/kernel": 10, "head/bias": 10}


def test_a_rule_without_a_name_prints_both_sides():
    with pytest.raises(UserError, match=r"freeze: the pattern 'encoder' matches nothing; .*'head/bias'"):
        match_first([("encoder", 1)], NAMES, what="freeze")
    assert match_first([("encoder", 1)], NAMES, what="freeze", allow_unused=True) == {}


def test_a_name_without_a_rule_prints_both_sides():
    with pytest.raises(
        UserError, match=r"sharding: no pattern matches 'head/bias'; the patterns are 'kernel'"
    ):
        match_first([("kernel", 1), ("mlp", 2)], NAMES, what="sharding", require_cover=True)


def test_a_broken_pattern_is_named():
    with pytest.raises(UserError, match=r"freeze: the pattern '\(' is not a regular expression"):
        match_first([("(", 1)], NAMES, what="freeze")


@pytest.mark.parametrize("pattern", ["(", "a{" + "9" * 30 + "}", "(" * 10_000 + ")" * 10_000])
def test_patterns_that_python_cannot_compile_are_refused(pattern):
    with pytest.raises(UserError, match="is not a regular expression"):
        match_first([(pattern, 1)], ["head/kernel"], what="config.optim.freeze")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(\w+/?)*[!?]", "matches nothing"),
        (r"(\w+/?)+(\w+/?)+(\w+/?)+\3[!?]", "takes more than 0.1 s to search 'a"),
    ],
)
def test_patterns_that_never_end_are_refused(pattern, message, monkeypatch):
    """Python's `re` searches the first, in a name of 40 letters, for hours."""
    monkeypatch.setattr(parameter_paths, "PATIENCE_S", 0.1)
    with pytest.raises(UserError, match="config.optim.freeze: the pattern .*") as error:
        match_first(
            [(pattern, 1)],
            ["backbone/layers/0/attention/query/kernel", "a" * 200],
            what="config.optim.freeze",
        )
    assert pattern in str(error.value).replace("\\\\", "\\") and message in str(error.value)
