"""Question answering as a user runs it: it learns, resumes to the bit, answers line by line, and torch agrees."""

import argparse
import csv
import json
import random
import re

import numpy as np
import pytest

from jaxft.cli import use
from jaxft.data.sources.questions import Question
from jaxft.errors import UserError
from jaxft.export.writer import export_run
from jaxft.inference import model as inference
from jaxft.inference.predict import predict_file, predict_stream
from jaxft.tasks.registry import make_data
from jaxft.training.loop import train
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import settings_from_config
from tests.interruption import assert_a_stopped_run_ends_bit_identically

FILLERS = "a b c d e f g h i j".split()
NUMBERS = "1 2 3 4".split()


def example(rng, index, longest=12):
    """A number among letters, which the question asks for, or in a quarter of them none."""
    words = [rng.choice(FILLERS) for _ in range(rng.randint(4, longest))]
    if rng.random() < 0.75:
        words.insert(rng.randint(0, len(words)), rng.choice(NUMBERS))
    context = " ".join(words)
    answers = [{"text": word, "answer_start": context.index(word)} for word in words if word in NUMBERS]
    return {"id": f"q{index}", "question": "which number?", "context": context, "answers": answers}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """SQuAD 2.0's JSON to train on; JSON lines for dev and test, every tenth context longer than a window."""
    folder = tmp_path_factory.mktemp("questions")
    rng = random.Random(0)
    for name, count in (("train", 400), ("dev", 60), ("test", 60)):
        examples = [example(rng, i, 70 if i % 10 == 0 else 12) for i in range(count)]
        if name == "test":
            examples[-1]["id"] = "q0"  # an id that stands twice
        if name != "train":
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in examples))
            continue
        paragraphs = []
        for record in examples:
            qa = {key: record[key] for key in ("id", "question", "answers")} | {
                "is_impossible": not record["answers"]
            }
            paragraphs.append({"context": record["context"], "qas": [qa]})
        data = {"version": "v2.0", "data": [{"title": "letters", "paragraphs": paragraphs}]}
        (folder / "train.json").write_text(json.dumps(data))
    return folder


def config_for(folder, tiny_bert, **changed):
    config = settings_from_config(
        {
            "task": "question_answering",
            "model.checkpoint": str(tiny_bert),
            "model.unroll": "no",  # quick to compile
            "data.train": str(folder / "train.json"),
            "data.dev": str(folder / "dev.jsonl"),
            "data.test": str(folder / "test.jsonl"),
            "data.cache_dir": "off",
            "data.max_length": 40,
            "data.stride": 8,
            "batch.rows": 8,
            "train.steps": 100,
            "optim.lr": 0.005,
            "optim.warmup": 5,
            "eval.every_steps": 50,
            "eval.rows": 8,
            "eval.bootstrap": 50,
            "log.tensorboard": False,
        }
        | {key.replace("__", "."): value for key, value in changed.items()}
    )
    return config


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory, tiny_bert):
    """With accumulation and dropout; (folder, config, summary)."""
    run = tmp_path_factory.mktemp("runs") / "qa"
    config = config_for(folder, tiny_bert, batch__accumulate=2, checkpoint__every_steps=25)
    return run, config, train(config, run)


def read_json(path):
    return json.loads(path.read_text())


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_learns_and_tells_what_it_found(trained, folder):
    run, _, summary = trained
    test = summary["test"]
    # By chance an eighth of the answers; by saying that there is none, a quarter of all.
    assert test["exact_match"] > 0.8 and test["no_answer_f1"] > 0.6 and test["has_answer_f1"] > 0.8
    assert summary["selected_by"] == "f1" and summary["late_compiles"] == 0
    evaluation = read_json(run / "eval/test.json")
    assert evaluation["metrics"] == test and evaluation["examples"] == 60
    assert evaluation["method"] == "contexts whole, long ones in windows of 40 tokens"
    low, high = evaluation["intervals"]["f1"]
    assert low <= test["f1"] <= high
    threshold = read_json(run / "model/tuned.json")["null_threshold"]
    assert all(
        read_json(run / f"eval/{name}.json")["null_threshold"] == threshold for name in ("dev", "test")
    )
    gold = read_lines(folder / "test.jsonl")
    lines = read_lines(run / "predictions/test.jsonl")
    right = 0
    for record, line in zip(gold, lines, strict=True):
        texts = [answer["text"] for answer in record["answers"]]
        assert (line["id"], line["question"], line["answers"]) == (record["id"], record["question"], texts)
        answer_text = line["predicted_answer"]
        right += answer_text in texts if texts else answer_text == ""
        if answer_text:
            assert record["context"][line["start"] : line["end"]] == answer_text
        else:
            assert line["start"] is line["end"] is None
        assert 1 < len(line["n_best"]) <= 21 and line["score"] in [other["score"] for other in line["n_best"]]
        assert sum(other["score"] for other in line["n_best"]) == pytest.approx(1, abs=1e-4)
    assert right / 60 == pytest.approx(test["exact_match"])
    answers = {line["id"]: line["predicted_answer"] for line in lines[:-1]}
    assert read_json(run / "predictions/test.json") == answers | {"q0#2": lines[-1]["predicted_answer"]}
    errors = list(csv.DictReader(open(run / "errors/test.tsv"), delimiter="\t"))
    assert len(errors) == 60 - right == sum(evaluation["errors"].values())


@pytest.mark.sweep  # the loader and the state are those of test_resume
def test_a_stopped_run_ends_bit_identically(trained, tmp_path, monkeypatch):
    workdir, config, _ = trained
    assert_a_stopped_run_ends_bit_identically(config, workdir, tmp_path / "run", monkeypatch, at=70)


def test_evaluation_gives_the_runs_own_numbers(trained, folder, tmp_path):
    """On test at the threshold of dev, which the run's folder keeps."""
    names = ("format", "word_column", "tag_column", "layout", "stride")
    flags = {"run": trained[0], "data": str(folder / "test.jsonl"), "output": str(tmp_path / "out")}
    metrics = use.run_evaluate(argparse.Namespace(**flags, **dict.fromkeys(names)))
    assert metrics == pytest.approx(trained[2]["test"], rel=1e-5)
    actual, expected = (read_json(path / "predictions/test.json") for path in (tmp_path / "out", trained[0]))
    assert actual == expected


def test_answers_of_lines_and_of_documents_are_those_of_the_run(trained, folder, predicted):
    """Line for line from stdin, whatever else a line holds; and of SQuAD's JSON, with its ids."""
    expected = read_lines(trained[0] / "predictions/test.jsonl")
    content = (folder / "test.jsonl").read_bytes()
    lines = predicted(trained[0], content.replace(b"\n", b"\n\n").replace(b'"answers"', b'"score"')).split(
        b"\n"
    )
    assert lines[1::2] == [b""] * 60
    keys = ("predicted_answer", "start", "end")
    for line, prediction, example in zip(
        lines[::2], expected, read_lines(folder / "test.jsonl"), strict=False
    ):
        record = json.loads(line)
        assert [record[key] for key in keys] == [prediction[key] for key in keys]
        assert record["predicted_score"] == pytest.approx(prediction["score"], abs=1e-4)
        assert record["score"] == example["answers"] and record["context"] == example["context"]
    paragraphs = [
        {"context": record["context"], "qas": [record]} for record in map(json.loads, content.splitlines())
    ]
    output = predicted(trained[0], json.dumps({"data": [{"paragraphs": paragraphs}]}).encode(), "in.json")
    answers = [json.loads(line) for line in output.splitlines()]
    texts = read_json(trained[0] / "predictions/test.json").values()
    assert [record["predicted_answer"] for record in answers] == list(texts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"question": "which?"}\n',
            "a.jsonl, line 1: no key 'context' in .*config.data.columns",
        ),
        ("a.jsonl", b'{"question": "which?", "context": " "}\n', "line 1, key 'context': an empty context"),
        ("", b'{"question": "", "context": "a"}\n', "<stdin>, line 1, key 'question': an empty question"),
        ("", b"which number?\n", "<stdin>, line 1, column 1: not valid JSON"),
        (
            "a.json",
            b'{"data": [{"paragraphs": [{}]}]}',
            r"a.json, data\[0\].paragraphs\[0\]: no key 'context'",
        ),
        ("a.csv", b"question,context\na,b\n", "predictions are for jsonl, json, parquet, squad, not csv"),
        ("a.txt", b"a\n", "tells its format; set --format to squad, jsonl"),
    ],
)
def test_bad_input_of_predictions(name, content, message, predicted, trained, tmp_path):
    with pytest.raises(UserError, match=message):
        predicted(trained[0], content, name)
    assert not (tmp_path / "output").exists()


@pytest.mark.sweep
def test_a_long_context_takes_little_memory(trained, memory_of_long_text):
    run, record = trained[0], {"question": "who will open it ?"}
    assert memory_of_long_text(run, "in.jsonl", lambda text: json.dumps(record | {"context": text})) < 115


def test_a_stream_is_read_no_further_than_a_chunk(trained):
    model = inference.open_model(open_run(trained[0]), print)
    read = done = furthest = 0

    def stream():
        nonlocal read
        for index in range(600):
            read += 1
            yield Question(str(index), "which number?", "a b 1 c", None, f"x:{index}")

    def outputs(windows):
        loader = model.loader(windows, pack=True)
        for step in range(loader.steps_per_epoch):
            batch = loader.batch(step)
            yield batch, {"logits": np.zeros((*batch.shape[:2], 2), np.float32)}

    data = make_data(model.run.config)
    for chunk in predict_stream(model, data, outputs, stream(), max_words=300):
        furthest = max(furthest, read - done)
        for example, _ in chunk:
            assert example.origin == f"x:{done}"
            done += 1
    assert done == read == 600 and furthest <= 51


def test_an_export_opens_in_transformers_and_answers_the_same(trained, folder, tmp_path):
    """Its logits, checked by --verify; and the answers of the code in its card, long contexts in windows."""
    from transformers import AutoModelForQuestionAnswering

    run, _, _ = trained
    export_run(run, tmp_path / "model", verify=True)
    model, report = AutoModelForQuestionAnswering.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(report.values()) and model.config.architectures == ["BertForQuestionAnswering"]
    assert model.config.null_threshold == read_json(run / "model/tuned.json")["null_threshold"]
    text = (tmp_path / "model/README.md").read_text()
    assert "torch's logits differed from jaxft's by" in text and "pipeline_tag: question-answering" in text
    assert str(folder) not in text
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(code.replace("PATH_OF_THIS_FOLDER", str(tmp_path / "model")), names)
    long = 0
    lines = read_lines(run / "predictions/test.jsonl")
    for example, line in zip(read_lines(folder / "test.jsonl"), lines, strict=True):
        assert names["answer"](example["question"], example["context"]) == line["predicted_answer"]
        long += len(example["context"].split()) > 31 and line["predicted_answer"] != ""
    assert long >= 3
    # A question of three quarters of a window, which keeps half; and no context, which only the card's code is given.
    asked, read = " ".join("abcdefghij" * 3), example["context"] * 5
    (tmp_path / "in.jsonl").write_text(json.dumps({"question": asked, "context": read}) + "\n")
    flags = {"run": run, "input": str(tmp_path / "in.jsonl"), "output": str(tmp_path / "out.jsonl")}
    predict_file(flags["run"], flags["input"], flags["output"])
    [answered] = read_lines(tmp_path / "out.jsonl")
    assert names["answer"](asked, read) == answered["predicted_answer"]
    assert names["answer"](asked, " ") == ""


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        (
            "train",
            {},
            "train: .*train.jsonl: none of 1 questions has an answer, so there is nothing to learn; is it",
        ),
        (
            "dev",
            {},
            "dev: .*dev.jsonl: none of 1 questions has an answer, so there is nothing to choose weights by",
        ),
        ("", {"data__stride": 30}, "config.data.stride=30: expected 0 to 18 with config.data.max_length=40"),
        (
            "",
            {"eval__metric": "accuracy"},
            "config.eval.metric='accuracy' was not measured; measured: exact_match, ",
        ),
        ("", {"data__format": "conll"}, "format='conll' is not for questions"),
        (
            "",
            {"loss__r_drop": 1.0},
            "config.loss.r_drop is a setting of token_classification and sequence_classification",
        ),
    ],
)
def test_bad_data_and_settings(folder, tiny_bert, tmp_path, name, changed, message):
    if name:
        path = tmp_path / f"{name}.jsonl"
        path.write_text('{"question": "which number?", "context": "a b", "answers": []}\n')
        changed = {f"data__{name}": str(path)}
    with pytest.raises(UserError, match=message):
        train(config_for(folder, tiny_bert, **changed), tmp_path / "run")
