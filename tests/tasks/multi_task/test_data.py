"""Texts of one record that tasks read from different keys are encoded each, and answered under one record."""

from jaxft.hub.processors import TextProcessor
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.tasks.base import Split
from jaxft.tasks.multi_task.data import divide_by_task
from jaxft.tasks.multi_task.evaluation import Predictions
from jaxft.tasks.registry import make_answers, make_data
from jaxft.tasks.run_facts import RunFacts
from jaxft.training.settings import settings_from_config
from tests.data.tiny_text import tokenizer

KIND = ("task", "sequence_classification")
TASKS = (("a", (KIND,)), ("b", (KIND, ("data.text", "title"))), ("c", (("task", "token_classification"),)))
LABELS = ["a/x", "a/y", "b/p", "b/q", "c/O", "c/B-Z", "c/I-Z"]


def test_tasks_that_read_different_texts_of_a_record_get_their_own_windows():
    config = settings_from_config({"task": "multi_task", "tasks": TASKS, "data.max_length": 16})
    data = make_data(config)
    answers = make_answers(
        RunFacts(config, PretrainedModel("", None, {}, TextProcessor(tokenizer())), LABELS, {})
    )
    texts = [
        answers.parse("x, line 1", "x:1", {"text": "a b", "title": "c d e"}),
        answers.parse("x, line 2", "x:2", {"text": "a"}),  # a line of plain text, which all tasks read
    ]
    windows = data.encode(texts, LABELS, TextProcessor(tokenizer()), cached=False)
    assert sorted(windows.lengths.tolist()) == [3, 4, 5]  # with two special tokens: "a", "a b", "c d e"
    divided = divide_by_task(Split("input", "input", texts, windows), "abc")
    lengths = {
        name: dict(zip(split.windows.sentence.tolist(), split.windows.lengths.tolist(), strict=True))
        for name, (split, _) in divided.items()
    }
    assert lengths == {"a": {0: 4, 1: 3}, "b": {0: 5, 1: 3}, "c": {0: 4, 1: 3}}


def test_predictions_of_tasks_are_those_of_each_text():
    predictions = Predictions([("a", "b"), ("b",), ("a",)], {"a": [1, 2], "b": "pq"}, {})
    assert list(predictions) == [{"a": 1, "b": "p"}, {"b": "q"}, {"a": 2}]
