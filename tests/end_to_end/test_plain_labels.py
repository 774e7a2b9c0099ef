"""Labels of words that form no entities, parts of speech for instance: kept as they are, scored by themselves."""

import argparse
import itertools
import json

import pytest
from sklearn import metrics

from jaxft.cli import use
from jaxft.data.demo import ner
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError
from jaxft.export import with_torch
from jaxft.export.writer import export_run
from jaxft.inference.predict import predict_file
from jaxft.training.loop import train
from jaxft.training.settings import load_settings
from tests.conftest import write_conll
from tests.interruption import assert_a_stopped_run_ends_bit_identically


def part_of_speech(word: str) -> str:
    """A made-up tag set without O, in which X-LONG is no prefix and a type."""
    if not word[0].isalpha():
        return "NUM" if word[0].isdigit() else "PUNCT"
    return "NAME" if word[0].isupper() else "SHORT" if len(word) < 4 else "X-LONG"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pos")
    sentences = (
        Sentence(s.words, [part_of_speech(word) for word in s.words], 0, "")
        for s in ner.generate_sentences("train")
    )
    return {
        name: write_conll(folder / f"{name}.conll", itertools.islice(sentences, size))
        for name, size in (("train", 200), ("dev", 40))
    }


@pytest.fixture(scope="module")
def flags(tiny_flags, files):
    values = {f"data.{name}": path for name, path in files.items()} | {"data.test": "none"}
    values |= {"train.steps": 60, "eval.every_steps": 60, "checkpoint.every_steps": 60, "model.unroll": "no"}
    values |= {"batch.accumulate": 1, "data.cache_dir": "off"}
    return [*tiny_flags[2:], *(f"--config.{key}={value}" for key, value in values.items())], tiny_flags[1]


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("plain") / "run"
    return workdir, train(load_settings(flags[1], flags[0]), workdir)


def columns(path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines() if line]


def test_a_run_keeps_the_labels_and_scores_them_as_scikit_learn_does(finished, files):
    workdir, summary = finished
    _, gold, predicted = zip(*columns(workdir / "predictions/dev.conll"), strict=True)
    assert list(gold) == [line[1] for line in columns(files["dev"])]
    labels = json.loads((workdir / "model/labels.json").read_text())
    assert labels == sorted(labels) and set(predicted) <= set(labels) == {
        "NAME",
        "NUM",
        "PUNCT",
        "SHORT",
        "X-LONG",
    }
    values = summary["dev"]
    assert summary["selected_by"] == "token_accuracy" and values["token_accuracy"] > 0.8
    assert max(map(gold.count, labels)) / len(gold) < 0.5  # which the most frequent label would reach
    assert not any("entity" in name or "lenient" in name for name in values)
    assert values["token_accuracy"] == metrics.accuracy_score(gold, predicted)
    report = metrics.classification_report(gold, predicted, output_dict=True, zero_division=0)
    for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        for average in ("macro", "weighted"):
            assert values[f"token_{ours}_{average}"] == pytest.approx(report[f"{average} avg"][theirs])
        for label in labels:
            assert values[f"token_{ours}/{label}"] == pytest.approx(report[label][theirs])
    result = json.loads((workdir / "eval/dev.json").read_text())
    low, high = result["intervals"]["token_accuracy"]
    assert low <= values["token_accuracy"] <= high and high - low < 0.2
    assert not (workdir / "errors").exists()


@pytest.mark.sweep  # the loader and the state are those of test_resume
def test_a_stopped_run_ends_bit_identically(finished, flags, tmp_path, monkeypatch):
    config = load_settings(flags[1], flags[0])
    assert_a_stopped_run_ends_bit_identically(config, finished[0], tmp_path / "run", monkeypatch, at=40)


def test_predict_evaluate_and_export_keep_them_too(finished, files, tmp_path, capsys):
    workdir, summary = finished

    def predicted(content: str, name: str) -> str:
        (tmp_path / name).write_text(content)
        flags = {"run": workdir, "input": str(tmp_path / name), "output": str(tmp_path / "out")}
        predict_file(flags["run"], flags["input"], flags["output"])
        return (tmp_path / "out").read_text()

    expected = columns(workdir / "predictions/dev.conll")
    lines = predicted(files["dev"].read_text(), "dev.conll").splitlines()
    assert [line.split("\t")[2] for line in lines if line] == [line[2] for line in expected]
    tokens = json.loads(predicted('{"tokens": ["Anna", "left", "."]}\n', "tokens.jsonl"))
    text = json.loads(predicted("Anna left.\n", "in.txt"))
    assert [w["label"] for w in text["words"]] == tokens["predicted_tags"] and "entities" not in text
    assert [(w["start"], w["end"], w["text"]) for w in text["words"]] == [
        (0, 4, "Anna"),
        (5, 9, "left"),
        (9, 10, "."),
    ]
    names = dict.fromkeys(("format", "word_column", "tag_column", "layout", "stride"))
    names |= {"run": workdir, "data": str(files["dev"]), "output": str(tmp_path / "evaluated")}
    assert use.run_evaluate(argparse.Namespace(**names)) == pytest.approx(summary["dev"], rel=1e-5)
    assert "Words by tag, %" in (output := capsys.readouterr().out) and "Entities" not in output
    export_run(workdir, tmp_path / "exported", verify=True)
    assert "answers by heads_loader.py in torch: 0 of 40 of dev differ" in capsys.readouterr().out
    ask = with_torch.load_exported(tmp_path / "exported")
    assert ask(["Anna", "left", "."])["tags"] == tokens["predicted_tags"]
    card = (tmp_path / "exported/README.md").read_text()
    assert "joins neighbouring words of one label" in card and "from heads_loader import Model" in card
    assert f"{100 * summary['dev']['token_accuracy']:.2f} (" in card and "- Labels: NAME, NUM" in card


@pytest.mark.parametrize(
    "changed, message",
    [
        (
            {"eval.metric": "entity_f1"},
            r"'entity_f1' was not measured; measured: loss, token_accuracy, .*token_f1/NAME",
        ),
        (
            {"data.dev": "entities"},
            r"dev .*: tags such as 'B-PER', but the model's labels are NAME, .* do not mix",
        ),
        (
            {"data.train": "entities"},
            r"dev .*: tags such as '\w+', but the model's labels are O, B-PER.* do not mix",
        ),
    ],
)
def test_what_does_not_fit_is_named(flags, tmp_path, changed, message):
    (path := tmp_path / "entities.conll").write_text("Anna\tB-PER\nleft\tO\n")
    changed = {key: path if value == "entities" else value for key, value in changed.items()}
    config = load_settings(flags[1], [*flags[0], *(f"--config.{key}={v}" for key, v in changed.items())])
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run")


def test_labels_with_prefixes_stay_as_they_are_where_that_is_asked_for(tmp_path, flags):
    """Only as far as the labels: scheme "none" over tags that would be read as IOB2."""
    from jaxft.tasks.registry import make_data, make_evaluator

    config = load_settings(flags[1], [*flags[0], "--config.data.scheme=none"])
    path = write_conll(tmp_path / "x.conll", [Sentence(list("abc"), ["I-X", "O", "B-X"], 0, "")])
    log_lines = []
    data = make_data(config)
    sentences = data.read("train", str(path), log_lines.append)
    assert sentences[0].tags == ["I-X", "O", "B-X"]
    assert log_lines[1:] == [
        f"train: {path}: 1 sentences, 3 words, labels of no scheme; labels: B-X 1, I-X 1, O 1"
    ]
    labels = data.make_labels(data.find_labels(sentences))
    assert make_evaluator(labels, config).selection_metric == "token_accuracy"
    assert set(labels) == {"B-X", "I-X", "O"}
