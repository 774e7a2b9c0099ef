"""Text classification as a user runs it: it learns, resumes to the bit, predicts line by line, and torch agrees."""

import argparse
import csv
import io
import json
import random
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import ElectraConfig, ElectraModel

from jaxft.cli import use
from jaxft.data.encoding.labelled_texts import cut_into_windows
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.errors import UserError
from jaxft.export import with_torch
from jaxft.export.heads_loader import cut_texts
from jaxft.export.writer import export_run
from jaxft.inference import model as inference
from jaxft.inference.predict import predict_stream
from jaxft.tasks.registry import load_card, make_data
from jaxft.training.loop import train
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import settings_from_config
from tests.interruption import assert_a_stopped_run_ends_bit_identically

MULTI, NUMBER = "multi_label_classification", "regression"
FILLERS = "a b c d e f g h i j".split()


def words(rng, *markers):
    """A few letters with markers among them."""
    text_words = [rng.choice(FILLERS) for _ in range(rng.randint(3, 9))]
    for marker in markers:
        text_words.insert(rng.randint(0, len(text_words)), marker)
    return " ".join(text_words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One of three digits to be found (CSV), any of four (JSON lines), or two to be added up (TSV, pairs)."""
    folder = tmp_path_factory.mktemp("texts")
    rng = random.Random(0)
    for name, count in (("train", 400), ("dev", 60), ("test", 60)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "review", "stars"])
            for index in range(count):
                star = rng.choice("123")
                writer.writerow([index, words(rng, star).replace("j", ',"\n'), star])
        with open(folder / f"{name}.jsonl", "w") as file:
            for _ in range(count):
                labels = [label for label in "pqrs" if rng.random() < 0.4]
                file.write(json.dumps({"text": words(rng, *labels), "label": labels}) + "\n")
        with open(folder / f"{name}.tsv", "w") as file:
            file.write("first\tsecond\tscore\n")
            for _ in range(count):
                first_number, second_number = rng.choice("024"), rng.choice("01")
                score = 10 * (int(first_number) + int(second_number))
                file.write(f"{words(rng, first_number)}\t{words(rng, second_number)}\t{score}\n")
    return folder


def config_for(folder, tiny_bert, suffix="csv", **changed):
    config = settings_from_config(
        {
            "task": "sequence_classification",
            "model.checkpoint": str(tiny_bert),
            "model.unroll": "no",  # quick to compile
            **{f"data.{name}": str(folder / f"{name}.{suffix}") for name in ("train", "dev", "test")},
            "data.cache_dir": "off",
            "data.max_length": 48,
            "batch.rows": 8,
            "train.steps": 80,
            "optim.lr": 0.01,
            "optim.warmup": 5,
            "eval.metric": "accuracy",
            "eval.every_steps": 40,
            "eval.rows": 8,
            "eval.bootstrap": 50,
            "log.tensorboard": False,
        }
        | {key.replace("__", "."): value for key, value in changed.items()}
    )
    return config


def trained(folder, tmp_path_factory, tiny_bert, name, suffix, **changed):
    run = tmp_path_factory.mktemp("runs") / name
    config = config_for(folder, tiny_bert, suffix, **changed)
    return run, config, train(config, run)


@pytest.fixture(scope="module")
def single(folder, tmp_path_factory, tiny_bert):
    """With accumulation, dropout and windows over long texts; (folder, config, summary)."""
    options = {"batch__accumulate": 2, "checkpoint__every_steps": 20, "data__truncation": "windows"}
    columns = {"data__text": "review", "data__label": "stars"}
    return trained(folder, tmp_path_factory, tiny_bert, "single", "csv", **options, **columns)


@pytest.fixture(scope="module")
def several(folder, tmp_path_factory, tiny_bert):
    options = {"model__problem_type": MULTI, "eval__metric": "f1_micro", "eval__thresholds": "label"}
    return trained(folder, tmp_path_factory, tiny_bert, "several", "jsonl", train__steps=120, **options)


@pytest.fixture(scope="module")
def number(folder, tmp_path_factory, tiny_bert):
    options = {"model__problem_type": NUMBER, "eval__metric": "spearman", "data__label_range": (0.0, 50.0)}
    columns = {"data__text": "first", "data__text_pair": "second", "data__label": "score"}
    return trained(
        folder, tmp_path_factory, tiny_bert, "number", "tsv", train__steps=160, **options, **columns
    )


def read_json(path):
    return json.loads(path.read_text())


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_label_is_learnt_and_told(single):
    run, _, summary = single
    assert summary["test"]["accuracy"] > 0.9  # by chance: a third
    assert summary["late_compiles"] == 0 and summary["padding_fraction"] < 0.1
    evaluation = read_json(run / "eval/test.json")
    assert evaluation["metrics"] == summary["test"] and evaluation["examples"] == 60
    assert (
        evaluation["method"]
        == "texts whole, long ones by the mean of the logits of their windows of 48 tokens"
    )
    low, high = evaluation["intervals"]["accuracy"]
    assert low <= summary["test"]["accuracy"] <= high
    counts = np.array(evaluation["confusion"]["counts"])
    assert evaluation["confusion"]["labels"] == ["1", "2", "3"] and counts.sum() == 60
    assert counts.trace() / 60 == pytest.approx(summary["test"]["accuracy"])
    lines = read_lines(run / "predictions/test.jsonl")
    assert [line.keys() for line in lines] == [{"text", "label", "predicted_label", "score"}] * 60
    wrong = [line for line in lines if line["label"] != line["predicted_label"]]
    errors = (run / "errors/test.tsv").read_text().splitlines()
    assert errors[0] == "gold\tpredicted\tscore\ttext" and len(errors) == 1 + len(wrong)


def test_what_stands_beyond_the_first_window_is_learnt(tmp_path, tmp_path_factory, tiny_bert):
    """Of 60 words, in two windows, the one that tells is among the last ten: the beginning tells nothing."""
    rng = random.Random(0)
    for name, count in (("train", 300), ("dev", 60), ("test", 60)):
        with open(tmp_path / f"{name}.csv", "w") as file:
            file.write("text,label\n")
            for index in range(count):
                star, text_words = (
                    rng.choice("123"),
                    rng.choices(FILLERS[:5], k=59 if index % 2 or name == "test" else 9),
                )
                text_words.insert(len(text_words) - rng.randint(0, 9), star)
                file.write(f"{' '.join(text_words)},{star}\n")
    options = {
        "data__truncation": "windows",
        "train__steps": 100,
        "model__pool": "mean",
        "eval__every_steps": 100,
    }
    _, _, summary = trained(tmp_path, tmp_path_factory, tiny_bert, "long", "csv", **options)
    assert summary["test"]["accuracy"] > 0.7  # by chance: a third


def test_several_labels_are_learnt_at_thresholds_of_dev(several):
    run, _, summary = several
    assert (
        summary["test"]["f1_micro"] > 0.9 and summary["test"]["subset_accuracy"] > 0.6
    )  # by chance: 0.4 and 0.07
    thresholds = read_json(run / "model/tuned.json")["thresholds"]
    assert thresholds.keys() == set("pqrs")
    for name in ("dev", "test"):
        assert read_json(run / f"eval/{name}.json")["thresholds"] == thresholds
        for line in read_lines(run / f"predictions/{name}.jsonl"):
            assert line["predicted_labels"] == list(line["scores"])
            assert all(score >= round(thresholds[label], 6) for label, score in line["scores"].items())
    # Those of each label that are best on dev, not the plain 0.5.
    assert summary["dev"]["f1_macro"] >= summary["test"]["f1_macro"] - 0.1
    assert set(thresholds.values()) != {0.5}


def test_numbers_are_learnt_in_their_own_scale(number):
    run, _, summary = number
    assert summary["test"]["pearson"] > 0.9
    lines = read_lines(run / "predictions/test.jsonl")
    gold, ours = np.array([(line["label"], line["predicted_value"]) for line in lines]).T
    assert gold.max() == 50 and np.abs(gold - ours).mean() < 8
    assert summary["test"]["mse"] == pytest.approx(np.mean((gold - ours) ** 2), rel=1e-4)
    assert summary["test"]["mse"] / 50**2 == pytest.approx(summary["test"]["loss"], rel=1e-4)


@pytest.mark.sweep  # the loader and the state are those of test_resume
def test_a_stopped_run_ends_bit_identically(single, tmp_path, monkeypatch):
    workdir, config, _ = single
    assert_a_stopped_run_ends_bit_identically(config, workdir, tmp_path / "run", monkeypatch, at=45)


def run_evaluate(run, data, output):
    names = ("format", "word_column", "tag_column", "layout", "stride")
    flags = argparse.Namespace(run=run, data=str(data), output=str(output), **dict.fromkeys(names))
    return use.run_evaluate(flags)


@pytest.mark.parametrize(("kind", "suffix"), [("several", "jsonl"), ("number", "tsv")])
def test_evaluation_gives_the_runs_own_numbers(kind, suffix, request, folder, tmp_path):
    """On test; several labels at the thresholds of dev, which the run's folder keeps."""
    run, _, summary = request.getfixturevalue(kind)
    metrics = run_evaluate(run, folder / f"test.{suffix}", tmp_path / "out")
    assert metrics == pytest.approx(summary["test"], rel=1e-5)
    actual, expected = (read_lines(place / "predictions/test.jsonl") for place in (tmp_path / "out", run))
    assert actual == expected


def test_labels_that_train_lacks_are_told_and_count_as_wrong(single, several, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("review,stars\na b 1,1\na b 1,9\n")
    metrics = run_evaluate(single[0], tmp_path / "a.csv", tmp_path / "one")
    assert metrics["accuracy"] == 0.5 and metrics["support/9"] == 1
    assert "warning: a has labels that train has not; they count as wrong: 9 1" in capsys.readouterr().out
    (tmp_path / "b.jsonl").write_text('{"text": "a p", "label": ["p", "z"]}\n')
    metrics = run_evaluate(several[0], tmp_path / "b.jsonl", tmp_path / "two")
    assert metrics["subset_accuracy"] == 0 and metrics["recall/z"] == 0
    assert "they count as missed: z 1" in capsys.readouterr().out


def test_predictions_of_tables_are_those_of_the_run(single, folder, predicted):
    """Line for line: fields with quotes and line ends, blank lines, a header with a BOM, a column of our name."""
    expected = read_lines(single[0] / "predictions/test.jsonl")
    content = (folder / "test.csv").read_bytes()
    output = predicted(single[0], b"\xef\xbb\xbf\n" + content.replace(b"id,", b"score,", 1) + b"\n", "in.csv")
    assert output.startswith(b"\xef\xbb\xbf\nscore,review,stars,predicted_label,predicted_score\r\n")
    assert output.endswith(b"\n\n")
    rows = list(csv.DictReader(io.StringIO(output.decode("utf-8-sig").lstrip("\n"), newline="")))
    assert [row["review"] for row in rows] == [line["text"] for line in expected]
    assert [row["predicted_label"] for row in rows] == [line["predicted_label"] for line in expected]
    scores = [float(row["predicted_score"]) for row in rows]
    assert scores == pytest.approx([line["score"] for line in expected], abs=1e-5)
    original = io.StringIO(content.decode(), newline="")
    assert [row["score"] for row in rows] == [row["id"] for row in csv.DictReader(original)]


def test_predictions_of_records_and_of_plain_text(several, number, folder, predicted):
    expected = read_lines(several[0] / "predictions/test.jsonl")
    content = (folder / "test.jsonl").read_bytes()
    lines = predicted(several[0], content.replace(b"\n", b"\n\n"), "in.jsonl").split(b"\n")
    assert lines[1::2] == [b""] * 60
    records = [json.loads(line) for line in lines[:-1:2]]
    assert [line["predicted_labels"] for line in records] == [line["predicted_labels"] for line in expected]
    assert [line["label"] for line in records] == [line["label"] for line in expected]
    text = "".join(line["text"] + "\n" for line in expected[:5]) + "\n"
    plain = [json.loads(line) for line in predicted(several[0], text.encode()).splitlines()]
    assert [line["text"] for line in plain] == text.splitlines()
    assert [p["predicted_labels"] for p in plain[:5]] == [e["predicted_labels"] for e in expected[:5]]
    output = predicted(number[0], (folder / "test.tsv").read_bytes(), "in.tsv").decode().splitlines()
    assert output[0] == "first\tsecond\tscore\tpredicted_value"
    values = [float(line.split("\t")[3]) for line in output[1:]]
    expected = [line["predicted_value"] for line in read_lines(number[0] / "predictions/test.jsonl")]
    assert values == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", ["several", pytest.param("single", marks=pytest.mark.sweep)])
def test_a_long_text_takes_little_memory(kind, request, memory_of_long_text):
    run = request.getfixturevalue(kind)[0]  # the first keeps a text's head, the second cuts it into windows
    more = memory_of_long_text(run, "in.jsonl", lambda text: json.dumps({"text": text, "review": text}))
    assert more < 75  # 200 if the whole text is tokenized at once


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("single", "a.csv", b"text\nhello\n", "a.csv, line 2: no key 'review' in .* config.data.text"),
        ("single", "a.conll", b"a\n", "a.conll: .* tells its format; set --format"),
        ("single", "a.parquet", b"a\n", "a.parquet: "),
        ("single", "a.csv", b"review,id\na,1,2\n", "3 fields where the header has 2"),
        ("number", "", b"a\n", "<stdin>: predictions are for jsonl, .*, not text"),
    ],
)
def test_bad_input_of_predictions(kind, name, content, message, predicted, request, tmp_path):
    with pytest.raises(UserError, match=message):
        predicted(request.getfixturevalue(kind)[0], content, name)
    assert not (tmp_path / "output").exists()


def test_a_stream_is_read_no_further_than_a_chunk(single):
    model = inference.open_model(open_run(single[0]), print)
    read = done = furthest = 0

    def stream():
        nonlocal read
        for index in range(2_000):
            read += 1
            yield LabelledText("a b c", None, None, f"x:{index}")

    def outputs(windows):
        loader = model.loader(windows, pack=True)
        for step in range(loader.steps_per_epoch):
            batch = loader.batch(step)
            yield batch, {"logits": np.zeros((*batch.windows.shape, 3), np.float32)}

    data = make_data(model.run.config)
    for chunk in predict_stream(model, data, outputs, stream(), max_words=400):
        furthest = max(furthest, read - done)
        for example, _ in chunk:
            assert example.origin == f"x:{done}"
            done += 1
    assert done == read == 2_000 and furthest <= 101


@pytest.mark.parametrize("kind", ["single", "several", "number"])
def test_exports_open_in_transformers_and_answer_the_same(kind, request, folder, tmp_path):
    from transformers import AutoModelForSequenceClassification, pipeline

    run, config, _ = request.getfixturevalue(kind)
    export_run(run, tmp_path / "model", verify=True)
    model, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(report.values())
    assert model.config.problem_type == config.model.problem_type
    assert list(model.config.id2label.values()) == read_json(run / "model/labels.json")
    lines = read_lines(run / "predictions/test.jsonl")[:20]
    classify = pipeline("text-classification", model=str(tmp_path / "model"), device="cpu")
    texts = [
        {"text": line["text"]} | ({"text_pair": line["text_pair"]} if "text_pair" in line else {})
        for line in lines
    ]
    for line, answers in zip(lines, classify(texts, top_k=None), strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        if kind == "single":
            assert max(scores, key=scores.get) == line["predicted_label"]
            assert scores[line["predicted_label"]] == pytest.approx(line["score"], abs=1e-4)
        elif kind == "several":
            labels_above_threshold = {
                label for label, score in scores.items() if score >= model.config.thresholds[label]
            }
            assert labels_above_threshold == set(line["predicted_labels"])
        else:
            assert scores["value"] == pytest.approx(line["predicted_value"], abs=1e-2)
    text = (tmp_path / "model/README.md").read_text()
    assert "torch's logits differed from jaxft's by" in text and "pipeline_tag: text-classification" in text
    assert str(folder) not in text
    # The pipeline doesn't read long texts as this run did.
    assert (tmp_path / "model/heads_loader.py").exists() == ("heads_loader" in text) == (kind == "single")
    if kind == "several":
        assert f"p {model.config.thresholds['p']:.3f}" in text
    assert load_card("sequence_classification").describe_model(open_run(run), 7)


@pytest.fixture(scope="module")
def pooled(folder, tmp_path_factory, tiny_bert):
    """Pairs whose longer text goes over several windows, by an ELECTRA, whose head has two layers; a single step."""
    electra = tmp_path_factory.mktemp("electra")
    shutil.copytree(tiny_bert, electra, dirs_exist_ok=True)
    sizes = read_json(tiny_bert / "config.json") | {"model_type": "electra", "embedding_size": 16}
    ElectraModel(ElectraConfig(**sizes)).save_pretrained(electra)
    columns = {"data__text": "first", "data__text_pair": "second", "data__label": "score"}
    windows = {"data__max_length": 16, "data__truncation": "windows", "data__stride": 2, "data__test": None}
    options = {
        "model__problem_type": NUMBER,
        "eval__metric": "mse",
        "train__steps": 1,
        "eval__every_steps": 1,
    }
    more = {"model__pool": "mean", "optim__warmup": None} | columns | windows
    return trained(folder, tmp_path_factory, electra, "pooled", "tsv", **options, **more)[0]


@pytest.mark.parametrize("pool", ["cls", "mean", pytest.param("max", marks=pytest.mark.sweep)])
def test_windows_and_pools_that_transformers_lacks_are_exported_with_a_loader(
    pooled, folder, pool, tmp_path, capsys
):
    """--verify compares logits of each window, and answers of whole texts, by the loader that is exported."""
    run = shutil.copytree(pooled, tmp_path / "run")
    values = read_json(run / "config.json")
    values["model"]["pool"] = pool
    (run / "config.json").write_text(json.dumps(values))
    (run / "model/checksums.json").unlink()  # it changed on purpose
    export_run(run, tmp_path / "model", verify=True)
    output = capsys.readouterr().out
    difference, count = re.search(r"between jax and torch: (\S+) \((\d+) windows of dev", output).groups()
    assert float(difference) < 1e-4 and int(count) > 90  # of 60 texts
    assert "answers by heads_loader.py in torch: 0 of 60 of dev differ" in output
    name = "ElectraForSequenceClassification" if pool == "cls" else "ElectraModel"
    assert read_json(tmp_path / "model/config.json")["architectures"] == [name]
    ask = with_torch.load_exported(tmp_path / "model")
    assert (ask.heads["score"]["pool"], ask.heads["score"]["activation"]) == (pool, "gelu")
    if pool == "mean":  # what the run itself has written
        for line in read_lines(pooled / "predictions/dev.jsonl")[:5]:
            answer = ask(line["text"], line["text_pair"])["score"]
            assert answer == pytest.approx(line["predicted_value"], abs=1e-3)
    assert 'ask("...", "...")' in (tmp_path / "model/README.md").read_text()


@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(4, 20),
    st.sampled_from(["head", "tail", "head+tail", "windows"]),
    st.integers(0, 1),
)
def test_the_loader_cuts_texts_as_training_does(first, second, room, truncation, stride):
    texts = list(range(first)), list(range(100, 100 + second))
    ours = cut_into_windows(*texts, room, truncation, stride)
    assert cut_texts(*texts, room, truncation, stride) == ours


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data__label": "category"}, r"train.csv, line 2: no key 'category' in \['id', 'review', 'stars'\]"),
        ({"eval__metric": "f1"}, "config.eval.metric='f1' was not measured; measured: accuracy, .*f1_macro"),
        ({"eval__metric": "roc_auc"}, "config.eval.metric='roc_auc' was not measured"),  # of three labels
        (
            {"data__text": "id", "data__label": "review", "model__problem_type": NUMBER},
            "is not a finite number",
        ),
        ({"data__stride": 46}, "config.data.stride=46: expected 0 to 45"),
    ],
)
def test_bad_settings(folder, tiny_bert, tmp_path, changed, message):
    columns = {"data__text": "review", "data__label": "stars"}
    with pytest.raises(UserError, match=message):
        train(config_for(folder, tiny_bert, **columns | changed), tmp_path / "run")


def test_odd_data_is_told(folder, tiny_bert, tmp_path, capsys):
    """Empty texts, texts of train in dev, shortened texts, as many labels as texts; and texts that are all empty."""
    (tmp_path / "train.csv").write_text("text,label\n,a\na b,b\n" + "x " * 90 + ",c\nd,e\n")
    (tmp_path / "dev.csv").write_text("text,label\na b,a\n")
    options = {"train__steps": 1, "eval__every_steps": 1, "data__test": None, "optim__warmup": None}
    config = config_for(tmp_path, tiny_bert, **options)
    train(config, tmp_path / "run")
    output = capsys.readouterr().out
    for line in (
        "train.csv: 4 texts; 4 labels: a 1, b 1, c 1, e 1",
        f"warning: train: 1 of 4 texts are empty, and stay in; the first: {tmp_path}/train.csv:2",
        "warning: 4 labels for 4 texts; is config.data.label right?",
        "warning: 1 of 1 texts of dev stand word for word in train",
        "train: 1 of 4 texts are shortened, by 44 tokens at most, to fit config.data.max_length",
    ):
        assert line in output
    (tmp_path / "train.csv").write_text("text,label\n,a\n ,b\n")
    with pytest.raises(UserError, match="all 2 texts are empty; is config.data.text='text' right?"):
        train(config, tmp_path / "other")
