"""Labels are read as what they mean: names, rows of 0 and 1, several columns, numbers; nothing else becomes a name."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources.labels import (
    MULTI,
    NUMBER,
    SINGLE,
    LabelRules,
    declared_names,
    parse_label,
    sort_labels,
)
from jaxft.errors import UserError

ABC = ("a", "b", "c")


def parse(value, problem=SINGLE, names=(), integer_names=(), separator=","):
    rules = LabelRules(problem, separator, names, integer_names)
    return parse_label({"label": value}, "label", "x.jsonl, line 1", rules)


def test_labels_are_names_lists_or_numbers_by_problem():
    single = {"a": "a", 3: "3", True: "true", "3": "3", 2.0: "2", "[PAD]": "[PAD]", "0 1": "0 1"}
    assert [parse(value) for value in single] == list(single.values())
    assert [parse(value, MULTI, separator=";") for value in (["b", 1, "b"], [], "c; a", "")] == [
        ("b", "1"), (), ("c", "a"), ()
    ]  # fmt: skip
    assert [parse(value, NUMBER) for value in (1, "2.5", -0.5, "1e3")] == [1.0, 2.5, -0.5, 1000.0]


@pytest.mark.parametrize("write", [json.dumps, repr, lambda items: items])
def test_lists_in_strings_are_lists(write):
    """A table holds lists as JSON or, from pandas, as Python writes them."""
    assert parse(write(["a", "it's", 7]), MULTI) == ("a", "it's", "7")
    with pytest.raises(
        UserError, match="list of 2 where one label was expected; set config.model.problem_type='mu"
    ):
        parse(write(["a", "b"]))
    assert parse(write(["it's"])) == "it's"  # as annotation tools write a single label


# A row of flags as data sets write it: as numbers, as booleans, in strings of JSON, of Python and of numpy.
WRITERS = {
    "integers": lambda flags: [int(flag) for flag in flags],
    "floats": lambda flags: [float(flag) for flag in flags],
    "booleans": list,
    "json": lambda flags: json.dumps([int(flag) for flag in flags]),
    "json_floats": lambda flags: json.dumps([float(flag) for flag in flags]),
    "python": lambda flags: str(flags),
    "numpy": lambda flags: f"[{' '.join(str(int(flag)) for flag in flags)}]",
    "numpy_floats": lambda flags: f"[{' '.join(f'{int(flag)}.' for flag in flags)}]",
    "commas": lambda flags: ",".join(str(int(flag)) for flag in flags),
    "spaces": lambda flags: " ".join(str(int(flag)) for flag in flags),
}


@given(st.lists(st.booleans(), min_size=3, max_size=9), st.sampled_from(sorted(WRITERS)))
def test_rows_of_0_and_1_are_read_by_names_and_else_refused(flags, writer):
    names = tuple(f"label {n}" for n in range(len(flags)))
    chosen = tuple(name for name, flag in zip(names, flags, strict=True) if flag)
    value = WRITERS[writer](flags)
    assert parse(value, MULTI, names) == chosen
    for problem in (SINGLE, MULTI):
        with pytest.raises(
            UserError, match=r"has a 0 or 1 for each of \d labels, .* config.data.label_names=\('a', 'b'"
        ):
            parse(value, problem)
    if len(chosen) == 1:
        assert parse(value, SINGLE, names) == chosen[0]
    else:
        with pytest.raises(
            UserError, match=f"{len(chosen)} of {len(names)} labels are 1 .*exactly 1 .*problem_type"
        ):
            parse(value, SINGLE, names)
    with pytest.raises(UserError, match="where a 0 or 1 for each of the 2 config.data.label_names"):
        parse(value, MULTI, ("x", "y"))


@given(st.lists(st.booleans(), min_size=2, max_size=2), st.sampled_from(sorted(WRITERS)))
def test_rows_of_two_are_read_by_names(flags, writer):
    chosen = tuple(name for name, flag in zip("ab", flags, strict=True) if flag)
    assert parse(WRITERS[writer](flags), MULTI, ("a", "b")) == chosen


@given(st.sets(st.integers(0, 6)), st.booleans())
def test_lists_of_label_numbers_stay_numbers(numbers, declared):
    """Numbers of labels differ from each other. A schema, as of the hub, names them."""
    names = tuple("tuvwxyz") if declared else ()
    items = random.Random(0).sample(sorted(numbers), len(numbers))
    assert parse(items, MULTI, integer_names=names) == tuple(names[n] if names else str(n) for n in items)


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), st.booleans(), min_size=2, max_size=6),
    st.data(),
)
def test_columns_of_0_and_1_are_labels_in_the_order_of_the_setting(flags, data):
    writers = [int, float, str, bool, lambda flag: str(int(flag)), lambda flag: f"{int(flag)}.0"]
    record = {"text": "x"} | {key: data.draw(st.sampled_from(writers))(flag) for key, flag in flags.items()}
    keys = data.draw(st.permutations(list(flags)))
    setting = data.draw(st.sampled_from([",", ", "])).join(keys)
    chosen = tuple(key for key in keys if flags[key])
    assert parse_label(record, setting, "x", LabelRules(MULTI)) == chosen
    assert declared_names(record, setting, LabelRules(MULTI)) == tuple(keys)
    if len(chosen) == 1:
        assert parse_label(record, setting, "x", LabelRules(SINGLE)) == chosen[0]


def test_integers_stand_for_names():
    for value in (1, "1", 1.0, "1.0", "b"):
        assert parse(value, names=ABC) == "b"
    assert parse(2, names=("3", "2", "1")) == "2"  # a name that is a number is that number
    assert parse(True, names=("no", "yes")) == "yes"
    assert parse(2, integer_names=ABC) == "c" and parse("2", integer_names=ABC) == "2"
    assert parse(0, integer_names=("b", "a"), names=("a", "b")) == "b"  # the schema names, the setting orders
    record = {"label": 0, "x,y": 1}
    assert declared_names(record, "label", LabelRules(names=ABC, integer_names=("d", "e"))) == ABC
    assert declared_names(record, "label", LabelRules(integer_names=("d", "e"))) == ("d", "e")
    assert parse_label(record, "x,y", "x", LabelRules()) == "1"  # a key with a comma in it
    assert declared_names(record, "x,y", LabelRules()) == ()


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (None, {}, "x.jsonl, line 1, key 'label': null where a label was expected"),
        (float("nan"), {}, "NaN where a label was expected; leave out what has none"),
        ("  ", {}, "line 1, key 'label': an empty label; name it, or leave the record out"),
        (0.5, {}, "the number 0.5 where the name of a label was expected; write whole numbers or names, or set"),
        (["a", "b"], {}, "a list of 2 where one label was expected; set config.model.problem_type='multi_label"),
        ([], {}, "a list of 0 where one label was expected"),
        ({"a": 1}, {}, "an object where a label was expected"),
        ([[0, 4, "LOC"]], {}, "a list where a label was expected; for spans [start, end, label] choose a task that"),
        ("d", {"names": ABC}, "the label 'd' is none of config.data.label_names (a, b, c)"),
        (3, {"names": ABC}, "label 3 is outside 0..2 (a, b, c)"),
        ("-1", {"names": ABC}, "label -1 is outside 0..2 (a, b, c); test sets without labels often have -1"),
        ("1e999999999", {"names": ABC}, "is outside 0..2 (a, b, c)"),
        (-1, {"integer_names": ABC}, "label -1 is outside 0..2 (a, b, c)"),
        ([0, 2], {"problem": MULTI, "names": ABC}, "[0, 2] where a 0 or 1 for each of the 3 config.data.label_names"),
        (7, {"problem": MULTI}, "a number where a list of labels, or a string of them with ',' between, was expected"),
        ("['a'", {"problem": MULTI}, "a list that is not JSON"),
        ("[" * 100_000, {"problem": MULTI}, "a list that is not JSON"),
        ([{}], {"problem": MULTI}, "an object where a label was expected"),
        ("good", {"problem": NUMBER}, "'good' is not a finite number; config.model.problem_type='regression' learns"),
        (True, {"problem": NUMBER}, "a boolean is not a finite number"),
        ("nan", {"problem": NUMBER}, "'nan' is not a finite number"),
        (10**400, {"problem": NUMBER}, "a number is not a finite number"),
    ],
)  # fmt: skip
def test_bad_labels_are_named(value, options, message):
    with pytest.raises(UserError) as error:
        parse(value, **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("record", "problem", "message"),
    [
        ({"a": -1, "b": 0}, MULTI, "key 'a': '-1' where 0 or 1 was expected, because config.data.label names several"),
        ({"a": 0.4, "b": 0}, MULTI, "key 'a': '0.4' where 0 or 1"),
        ({"a": "", "b": 0}, MULTI, "key 'a': '' where 0 or 1"),
        ({"a": 0, "b": 0}, SINGLE, "0 of 2 labels are 1 where exactly 1 was expected; if a text may have none"),
        ({"a": 1, "b": 1}, SINGLE, "2 of 2 labels are 1 (a, b) where exactly 1 was expected"),
        ({"a": 1, "b": 1}, NUMBER, "config.data.label='a,b' names 2 keys where one number was expected"),
    ],
)  # fmt: skip
def test_bad_columns_are_named(record, problem, message):
    with pytest.raises(UserError) as error:
        parse_label(record, "a,b", "x.csv, line 2", LabelRules(problem))
    assert f"x.csv, line 2{', ' if message.startswith('key') else ': '}{message}" in str(error.value)


@pytest.mark.parametrize(
    "name", ["x" * 201, int("9" * 400), "x\n---\nlicense: mit", "a\tb", "\x1b[31mred", "a\ud800"]
)
def test_a_name_that_nothing_can_show_is_refused(name):
    """It went into model cards and tables, where a newline begins another field."""
    for value, problem in ((name, SINGLE), ([name], MULTI)):
        with pytest.raises(
            UserError, match="key 'label'.*(a name of [0-9]+ characters|control character|surrogate)"
        ):
            parse(value, problem)
    assert parse("x" * 200) == "x" * 200 and parse("Größe 😀 | [a](b) <c>") == "Größe 😀 | [a](b) <c>"


@given(st.lists(st.floats(-99, 99, width=16).map(str) | st.integers().map(str), unique=True))
def test_numbers_are_sorted_as_numbers(names):
    assert [float(name) for name in sort_labels(names)] == sorted(map(float, names))
    assert sort_labels([*names, "a"]) == sorted([*names, "a"])
    assert sort_labels(["10", "9", "-1", "1.5"]) == ["-1", "1.5", "9", "10"]
