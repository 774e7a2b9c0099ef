"""Labels keep the order that data or settings declare, and labels that cannot be right are refused or told."""

import json

import datasets
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examine
from hypothesis import strategies as st

from jaxft.data.sources.labels import MULTI, NUMBER, SINGLE
from jaxft.errors import UserError
from jaxft.hub.processors import TextProcessor
from jaxft.tasks.base import Split
from jaxft.tasks.sequence_classification.data import LabelledTexts
from jaxft.training.settings import settings_from_config
from tests.data.tiny_text import tokenizer


def read(path, problem=SINGLE, dev=None, **changed):
    """Reads and checks training and dev data as a run does; returns the labels, the examples of train and the log."""
    values = {"task": "sequence_classification", "model.problem_type": problem, "data.max_length": 16}
    config = settings_from_config(values | {f"data.{key}": value for key, value in changed.items()})
    data, lines = LabelledTexts(config), []

    def read_split(name, source):
        examples = data.read(name, str(source), lines.append)
        return Split(name, str(source), examples, None)

    splits = [read_split(name, source) for name, source in (("train", path), ("dev", dev)) if source]
    train = splits[0].examples
    labels = data.make_labels(json.loads(json.dumps(data.find_labels(train))))  # as other processes get them
    for split in splits:
        windows = data.encode(split.examples, labels, TextProcessor(tokenizer()), cached=False)
        data.check(Split(split.name, split.source, split.examples, windows), labels, train, lines.append)
    return labels, train, "\n".join(lines)


@pytest.fixture
def write(tmp_path):
    """Writes a text for each label, or the lines of a table, to a file and returns its path."""

    def write_file(content, name="train.jsonl"):
        path = tmp_path / name
        if name.endswith("jsonl"):
            content = [json.dumps({"text": f"a b {n}", "label": label}) for n, label in enumerate(content)]
        path.write_text("\n".join(content) + "\n")
        return path

    return write_file


NAMES = ["sad", "happy", "angry"]  # not sorted


def write_class_labels(path, numbers, feature):
    columns = {"text": [f"a b {n}" for n in range(len(numbers))], "label": numbers}
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    return path


@examine(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=9).filter(lambda numbers: len(set(numbers)) > 1))
def test_a_schema_names_and_orders_labels(tmp_path, numbers):
    """The model's label ids are the data's integers, also where a label has no text."""
    path = write_class_labels(tmp_path / "x.parquet", numbers, datasets.ClassLabel(names=NAMES))
    labels, examples, log = read(path)
    assert labels == NAMES and [labels.index(e.label) for e in examples] == numbers
    assert "the model's labels: sad, happy, angry (in the order that the data declares)" in log
    unused = [name for n, name in enumerate(NAMES) if n not in numbers]
    assert ("warning: no text of train has the label angry" in log) == (unused == ["angry"])
    lists = [[n] for n in numbers] + [[0, 1]]
    path = write_class_labels(tmp_path / "y.parquet", lists, datasets.List(datasets.ClassLabel(names=NAMES)))
    labels, examples, _ = read(path, MULTI)
    assert labels == NAMES and [[labels.index(name) for name in e.label] for e in examples] == lists
    # A file without a schema that has the same names agrees with it.
    dev = tmp_path / "dev.jsonl"
    dev.write_text(json.dumps({"text": "a", "label": "happy"}))
    assert (
        read(tmp_path / "x.parquet", dev=dev)[0] == NAMES if "happy" in [NAMES[n] for n in numbers] else True
    )


def test_settings_name_and_order_labels(write):
    labels, examples, log = read(write([0, 1, "2", 1.0]), label_names=tuple(NAMES))
    assert labels == NAMES and [e.label for e in examples] == ["sad", "happy", "angry", "happy"]
    assert "(in the order of config.data.label_names)" in log
    labels, examples, _ = read(write([[0, 1, 1], [0, 1, 0]]), MULTI, label_names=tuple(NAMES))
    assert labels == NAMES and [e.label for e in examples] == [("happy", "angry"), ("happy",)]
    table = ["text,toxic,insult,a b", "a,0,1,1", "b,1,0,0", "c,0,0,0"]
    labels, examples, log = read(write(table, "t.csv"), MULTI, label="toxic,insult,a b")
    assert labels == ["toxic", "insult", "a b"] and [e.label for e in examples] == [
        ("insult", "a b"),
        ("toxic",),
        (),
    ]
    assert "the model's labels: toxic, insult, a b (in the order of config.data.label)" in log


def test_the_order_of_other_labels_is_told(write):
    labels, _, log = read(write(["10", "9", "1.5"]))
    assert labels == ["1.5", "9", "10"]
    assert (
        "the model's labels: 1.5, 9, 10 (sorted by number; config.data.label_names sets another order)" in log
    )
    labels, _, log = read(write(NAMES))
    assert labels == sorted(NAMES) and "(sorted by name; config.data.label_names" in log


def table(*rows, header="text,label"):
    return [header, *rows]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (table(*(f"text {n},text {n}" for n in range(3))), {},
         "the label of 3 of 3 texts is the text itself; is config.data.label='label' right?"),
        (table(*(f"text {n},id{n}" for n in range(30))), {},
         "30 different labels for 30 texts, such as 'id0', so that no label can be learnt; is config.data"),
        (table(*(f"text {n},{n / 8}" for n in range(30))), {}, "To predict numbers, set .*problem_type='regression'"),
        (table('a,"0,1"', 'b,"[1, 0]"', 'c,"0,1"'), {"problem": MULTI},
         r"all 3 texts have the same labels \(0, 1\), so there is nothing to learn; .*in config.data.label_names"),
        (table('a,"0,1"', 'b,"1,0"', 'c,"0,1"'), {}, "labels such as '0,1' have a 0 or 1 for each of 2 labels, but"),
        (table("a,0 1", "b,1 0", "c,0 1"), {}, "labels such as '0 1' have .* config.data.label_names=\\('a', 'b'\\)"),
        (table("a,x", "b,y", header="review,stars"), {},
         "line 2: no keys 'text' and 'label' in \\['review', 'stars'\\]; name the ones that are meant in config.data"
         ".text and config.data.label, such as config.data.text=review and config.data.label=stars \\(tables"),
        (table("1,a,0,1", header="id,comment_text,toxic,insult"), {"text": "comment_text"},
         "no key 'label' .* meant in config.data.label, such as config.data.label=toxic,insult "),
        (table("a,0", header="text,toxic"), {"label": "toxic,insult", "problem": MULTI}, "no key 'insult' in"),
        (table("a,x"), {"label": "text"}, "config.data.label='text': expected another key than that of config.dat"),
        (table("a,x"), {"label_names": ("x", "x")}, "label_names=.*: expected two or more labels, each once"),
        (table("a,x"), {"label_names": ("x", "y"), "problem": NUMBER}, "label_names=.*: expected \\(\\), because"),
        (table("a,x"), {"label_names": ("x", "y"), "label": "x,y"}, "names several keys, which are the labels"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_right_are_refused(write, content, options, message):
    with pytest.raises(UserError, match=message):
        read(write(content, "train.csv"), **options)


def test_a_dev_set_without_any_label_of_train_is_refused(write):
    with pytest.raises(
        UserError, match=r"dev: none of its labels \(0, 1\) is a label of the model \(neg, pos\)"
    ):
        read(write(["neg", "pos"]), dev=write([0, 1, 1], "dev.jsonl"))
    log = read(write(["neg", "pos"]), dev=write(["neg", "so-so"], "dev.jsonl"))[2]
    assert "warning: dev has labels that train has not; they count as wrong: so-so 1" in log
    assert "warning: no text of dev has the label pos; its scores say nothing about that" in log


def test_labels_that_seem_to_be_several_are_told(write):
    log = read(write(["a|b", "a", "c", "b"]))[2]
    setting = "config.model.problem_type='multi_label_classification' and config.data.label_separator='|'"
    assert (
        f"train: 1 label seems to be several with '|' between, such as 'a|b'; if it is, set {setting}" in log
    )
    log = read(write(["a;b", "a", "c"]), MULTI)[2]
    assert "such as 'a;b'; if it is, set config.data.label_separator=';'" in log
    assert "seem to be several" not in read(write(["Rome, Italy", "Milan, Italy"]))[2]


@examine(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    st.lists(st.integers(-9, 19), min_size=2, max_size=20).filter(lambda values: len(set(values)) > 1),
    st.integers(-5, 5),
    st.integers(1, 9),
)
def test_numbers_outside_the_range_are_counted(write, values, low, size):
    log = read(write(values), NUMBER, label_range=(low, low + size))[2]
    outside = [value for value in values if not low <= value <= low + size]
    if outside:
        assert (
            f"warning: train: {len(outside)} of {len(values)} numbers are outside config.data.label_range="
            in log
        )
        assert f"the first {outside[0]} at " in log and f"run from {min(values)} to {max(values)}" in log
    else:
        assert "are outside" not in log
