"""Predictions: what goes in comes out in its order with predictions added, as a stream, or not at all."""

import dataclasses
import functools
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from jaxft.cli.command import EXIT_BROKEN_PIPE
from jaxft.config.settings import replace
from jaxft.data.sources import files
from jaxft.data.sources.formats import FileFormat
from jaxft.data.sources.tagged_sentences import tag_schemes
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.errors import UserError
from jaxft.inference import model as inference
from jaxft.inference.predict import predict_file, predict_stream
from jaxft.tasks.registry import make_data
from jaxft.tasks.token_classification.answers import iterate_labelled_spans
from jaxft.tasks.token_classification.evaluation import Prediction
from jaxft.training.run_folder.workdir import open_run


@pytest.fixture(scope="module")
def model(finished_run):
    return inference.open_model(open_run(finished_run), print)


@pytest.fixture(scope="module")
def predictor(model):
    return model.make_predictor()


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "make_input", "most"),
    [
        ("text.jsonl", lambda text: json.dumps({"text": text}), 85),
        ("tokens.jsonl", lambda text: json.dumps({"tokens": text.split()}), 90),
        ("sentence.conll", lambda text: text.replace(" ", "\n"), 150),  # a line for each word
        ("sentences.conll", lambda text: text.replace(". ", ".\n\n").replace(" ", "\n"), 40),
    ],
)
def test_a_long_text_takes_little_memory(name, make_input, most, finished_run, memory_of_long_text):
    assert memory_of_long_text(finished_run, name, make_input) < most


@pytest.fixture
def tag(predicted, finished_run, predictor, monkeypatch):
    """Runs predict on bytes, from a file or, without a name, from stdin; gives the bytes of the output file."""
    monkeypatch.setattr(inference.Model, "make_predictor", lambda self: predictor)
    return functools.partial(predicted, finished_run)


def records(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.decode().splitlines()]


def test_tags_are_those_that_the_run_wrote(finished_run, corpus, tag):
    with open(corpus["test"], "rb") as file:
        output = tag(file.read(), "test.conll").decode()
    expected = (finished_run / "predictions/test.conll").read_text(encoding="utf-8")
    assert output.rstrip("\n") == expected.rstrip("\n")
    predicted = [line.rpartition("\t")[2] for line in expected.splitlines()]
    assert sum(tag.startswith("B-") for tag in predicted) > 10  # or there is nothing to compare


ODD = (
    "\ufeff# a comment before all\n"
    "\n"
    "-DOCSTART- -X- O\n"
    "\n\n"
    "Peter\tNNP\tB-PER\n"
    "#\tNN\tO\n"  # a word
    "left\tVBD\tO\n"
    "   \n"
    "# sent_id = 2\n"
    "Anna Berg\tB-PER\r\n"  # a word with a space, CRLF, two columns
    "\r\n"
    "met\n"
    "  \n"
    "-DOCSTART-\n"
    "\u200b\t\n"  # tokenizes to nothing; an empty column
    "Oslo\t\n"
    "\n"
    "# the end is nigh"
)
WORDS = ["Peter\tNNP\tB-PER", "#\tNN\tO", "left\tVBD\tO", "Anna Berg\tB-PER", "met", "\u200b\t", "Oslo\t"]


@pytest.mark.parametrize("name", ["odd.conll", ""])
def test_conll_gets_a_column_and_keeps_all_else(tag, model, name):
    output = tag(ODD.encode(), name, "conll").decode()
    before, after = ODD.split("\n"), output.split("\n")
    assert len(before) == len(after)
    tagged = []
    for old, new in zip(before, after, strict=True):
        if old == new:
            continue
        body, end = (old[:-1], "\r") if old.endswith("\r") else (old, "")
        assert new.startswith(body) and new.endswith(end)
        column = new[len(body) :].removesuffix(end)
        assert column[0] == "\t" and column[1:] in model.run.labels
        tagged.append(body)
    assert tagged == WORDS


def test_word_column(tag):
    plain, numbered = b"Peter\nleft\nOslo\n", b"1\tPeter\n2\tleft\n3\tOslo\n"
    tags = [line.split(b"\t")[1] for line in tag(plain, "plain.conll").splitlines()]
    output = tag(numbered, "numbered.conll", word_column=1)
    assert [line.split(b"\t")[2] for line in output.splitlines()] == tags


def test_records_keep_their_keys_and_places(tag):
    lines = [
        {"id": 7, "tokens": ["Peter", "left", "Oslo"], "tags": ["O", "O", "O"], "scores": [1]},
        {"tokens": [], "nested": {"a": [1.5, None, "\ud83d"]}},
        {"text": "", "entities": ["gold"]},
        {"text": "Peter left Oslo"},
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).replace("\n", "\n\n", 1)
    raw = tag(content.encode(), format="jsonl")
    assert raw.decode().split("\n")[1] == ""  # the blank line
    first, empty, text, last = [json.loads(line) for line in raw.decode().splitlines() if line]
    for old, new in zip(lines, (first, empty, text, last), strict=True):
        assert old.items() <= new.items()
    assert first.keys() == {*lines[0], "predicted_tags", "predicted_scores"}
    assert len(first["predicted_tags"]) == len(first["predicted_scores"]) == 3
    assert empty["predicted_tags"] == empty["scores"] == []
    assert text["predicted_entities"] == []
    # The same words as text and as tokens: the entities follow from the tags.
    spans = tag_schemes.extract_entities(first["predicted_tags"])
    scores = [round(float(np.mean(first["predicted_scores"][a:b])), 5) for _, a, b in spans]
    assert [e["label"] for e in last["entities"]] == [kind for kind, _, _ in spans]
    assert [e["score"] for e in last["entities"]] == pytest.approx(scores, abs=2e-5)


def test_text_gives_entities_with_offsets_line_by_line(tag, corpus):
    sentences = list(itertools.islice(read_sentences(corpus["train"]), 60))
    lines = ["  " + "  ".join(s.words) + " 😀\u200b" for s in sentences]
    lines[3] = lines[7] = ""
    output = records(tag("\r\n".join(lines).encode(), "text.txt"))
    assert [r["text"] for r in output] == lines
    assert [r["text"] for r in records(tag("\n".join(lines).encode()))] == lines  # stdin is text
    assert sum(len(r["entities"]) for r in output) > 20
    for record in output:
        end = 0
        for entity in record["entities"]:
            assert record["text"][entity["start"] : entity["end"]] == entity["text"] == entity["text"].strip()
            assert end <= entity["start"] < entity["end"] and 0 < entity["score"] <= 1
            end = entity["end"]


def test_entities_are_read_as_conlleval_does_with_the_mean_score():
    text = "Anna Berg, Oslo"
    offsets = [(0, 4), (5, 9), (9, 10), (11, 15)]
    sentence = Sentence([text[a:b] for a, b in offsets], None, 0, "x:1", text, offsets)
    prediction = Prediction(["I-PER", "I-PER", "O", "I-LOC"], np.array([0.5, 0.75, 0.9, 1], np.float32))
    assert list(iterate_labelled_spans(sentence, prediction, True)) == [
        {"start": 0, "end": 9, "label": "PER", "text": "Anna Berg", "score": 0.625},
        {"start": 11, "end": 15, "label": "LOC", "text": "Oslo", "score": 1.0},
    ]
    both = dataclasses.replace(prediction, tags=["B-PER", "B-PER", "O", "O"])
    assert [e["text"] for e in iterate_labelled_spans(sentence, both, True)] == ["Anna", "Berg"]


def test_a_sentence_of_any_length_is_tagged_whole(tag):
    words = [f"word{i}" if i % 7 else "Peter" for i in range(5000)] + ["x" * 3000, "Oslo"]
    (record,) = records(tag(json.dumps({"tokens": words}).encode(), "long.jsonl"))
    assert len(record["predicted_tags"]) == len(record["scores"]) == len(words)


def test_a_stream_is_read_no_further_than_a_chunk(model):
    """However long the input, what is held is a chunk: here the model is a stub, and what is read is counted."""
    read = done = furthest = 0

    def stream():
        nonlocal read
        for index in range(6_000):
            read += 1
            yield Sentence(["Peter", "left"] * (1 + index % 3), None, index // 10, f"x:{index}")

    def outputs(windows):
        loader = model.loader(windows, pack=True)
        for step in range(loader.steps_per_epoch):
            batch = loader.batch(step)
            shape = batch.arrays["input_ids"].shape
            yield batch, {"label": np.zeros(shape, np.int32), "score": np.ones(shape, np.float32)}

    data = make_data(replace(model.run.config, {"data.context": True}))
    for chunk in predict_stream(model, data, outputs, stream(), max_words=500):
        furthest = max(furthest, read - done)
        for sentence, prediction in chunk:
            assert sentence.origin == f"x:{done}" and len(prediction.tags) == len(sentence.words)
            done += 1
    assert done == read == 6_000
    assert furthest <= 500  # sentences: 500 words, and a window of context behind them


def test_chunks_change_nothing(model, predictor, corpus):
    """With document context too, which then comes from neighbouring chunks. Small chunks take smaller batches."""
    config = replace(model.run.config, {"data.context": True})
    sentences = [
        dataclasses.replace(s, document=i // 8)
        for i, s in enumerate(read_sentences(corpus["train"], tagged=False))
    ]

    def predictions(max_words):
        chunks = predict_stream(model, make_data(config), predictor, sentences, max_words=max_words)
        return [prediction for chunk in chunks for _, prediction in chunk]

    unchunked, chunked = predictions(10**6), predictions(60)
    assert [p.tags for p in chunked] == [p.tags for p in unchunked]
    for actual, expected in zip(chunked, unchunked, strict=True):
        np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-5)
    config = replace(config, {"data.context": False})
    assert [p.scores.tolist() for p in predictions(60)] != [p.scores.tolist() for p in chunked]


def test_text_computes_as_few_slots_as_it_needs_and_large_files_compile_once(model, monkeypatch):
    length, processor = model.run.config.data.max_length, model.run.checkpoint.processor
    assert (model.rows, length) == (8, 64)

    def slots(predictor, texts):
        sentences = [Sentence(text.split(), None, n, f"x:{n}") for n, text in enumerate(texts)]
        windows = make_data(model.run.config).encode(sentences, model.run.labels, processor, cached=False)
        return [arrays["label"].size for _, arrays in predictor(windows)]

    compiled = []

    def compile_and_count(net, shapes, *, compile_eval=inference.compile_eval, **options):
        compiled.extend((shape.rows, shape.length) for shape in shapes)
        return compile_eval(net, shapes, **options)

    monkeypatch.setattr(inference, "compile_eval", compile_and_count)
    short, longer, much = ["Peter left"], ["Peter left Oslo"] * 16, ["Peter left Oslo"] * 200
    predictor = model.make_predictor()
    assert slots(predictor, short) == [length] and compiled == [(1, length)]
    assert slots(predictor, longer) == [4 * length] and compiled == [(1, length), (4, length)]
    assert slots(predictor, short) == [length] and len(compiled) == 2
    compiled.clear()
    predictor = model.make_predictor()
    assert set(slots(predictor, much)) == {8 * length}
    assert slots(predictor, longer) == [8 * length] and compiled == [
        (8, length)
    ]  # as at the end of a large file
    assert slots(predictor, longer) == [4 * length] and compiled == [(8, length), (4, length)]


def test_output_flows_while_input_still_comes(finished_run, environment):
    """Through a pipe that stays open, line by line; and a reader that leaves early, as `head` does, is no error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxft", "predict", "--run", str(finished_run), "--on_error=record"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for text in ("Peter left Oslo for Bergen .", "", "\tMaria", "x " * 500):
        process.stdin.write(text.encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["text"] == text
    process.stdin.write(b"K\xf6ln\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["line"] == "K\N{REPLACEMENT CHARACTER}ln"
    process.stdout.close()
    try:
        for _ in range(100):
            process.stdin.write(b"Peter left Oslo for Bergen .\n" * 100)
            process.stdin.flush()
    except BrokenPipeError:
        pass
    stderr = process.stderr.read()
    process.stderr.close()
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass
    assert process.wait(60) == EXIT_BROKEN_PIPE
    described, error = stderr.decode().splitlines()
    assert described.startswith("<stdin>: read as plain text; set --format")
    assert error.startswith("error: <stdin>, line 5, byte 2")


@pytest.mark.parametrize(
    ("name", "content", "message", "kept"),
    [
        ("bad.conll", b"Peter\tO\n\nleft\tO\nOslo\n", r"bad.conll, line 4: 1 column", 1),
        ("bad.jsonl", b'{"text": "Peter"}\n{"text": 5}\n', r"bad.jsonl, line 2, key 'text': a number", 1),
        ("bad.jsonl", b'{"text": "Peter"}\n{"tex\n', r"bad.jsonl, line 2, column 6: not valid JSON", 1),
        ("bad.jsonl", b'{"text": "Peter"}\n\n[1]\n', r"bad.jsonl, line 3: a list where an object", 1),
        ("bad.txt", b"Peter\nOslo\nK\xf6ln\n", r"bad.txt, line 3, byte 2 of the line: 0xf6 is not UTF-8", 2),
        ("bad.txt", b"K\xf6ln\nPeter\n", r"bad.txt, line 1, byte 2 .* --encoding", 0),
        ("empty.txt", b"", r"empty.txt: empty", 0),
        ("table.csv", b"tokens\nPeter\n", r"table.csv: predictions are for conll, .*, not csv", 0),
        ("text.data", b"Peter\n", r"text.data: neither .* its content tells its format; set --format", 0),
    ],
)
def test_bad_input_is_named_and_costs_no_answer_before_it(tag, tmp_path, name, content, message, kept):
    logged = []
    with pytest.raises(UserError, match=message):
        tag(content, name, log=logged.append)
    unfinished = tmp_path / "output.unfinished"
    assert {path.name for path in tmp_path.iterdir()} == {name, *(["output.unfinished"] if kept else [])}
    if kept:
        assert len(unfinished.read_bytes().splitlines()) == kept
        assert logged[-1] == f"--output {tmp_path / 'output'}: unfinished; what is done is in {unfinished}"


def test_an_error_is_written_in_the_place_of_the_answer(tag):
    """And nothing else changes: the other answers are those of an input without the errors."""
    names = ["Peter left Oslo", "Maria met Anna", "Anna"]
    good = [json.dumps({"text": text, "id": number}).encode() for number, text in enumerate(names)]
    bad = [
        b'{"text": 5, "id": 7}',
        b"{",
        b"[]",
        b'{"text": "K\xf6ln"}',
        b'{"entities": 1, "predicted_entities": 2}',
    ]
    lines = [bad[0], good[0], *bad[1:3], good[1], b"", bad[3], bad[4], good[2], bad[0]]
    logged = []
    output = tag(b"\n".join(lines), "in.jsonl", on_error="record", log=logged.append).split(b"\n")[:-1]
    assert [b'"error"' in line for line in output] == [line in bad for line in lines]
    answered = [json.loads(line) for line in output if b'"entities"' in line and b'"error"' not in line]
    for actual, expected in zip(answered, records(tag(b"\n".join(good), "in.jsonl")), strict=True):
        assert actual["id"] == expected["id"] and actual["text"] == expected["text"]
        assert [e["label"] for e in actual["entities"]] == [e["label"] for e in expected["entities"]]
    first, broken = json.loads(output[0]), json.loads(output[2])
    assert first["text"] == 5 and first["id"] == 7 and "line 1, key 'text'" in first["error"]
    assert broken["line"] == "{" and "line 3" in broken["error"]
    assert sum(line.startswith("error: ") for line in logged) == 6
    assert logged[-1].startswith("9 sentences in ") and logged[-1].endswith(", 6 with an error")
    with pytest.raises(UserError, match="CoNLL columns, which have no place for an error"):
        tag(b"Peter\tO\n", "in.conll", on_error="record")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"run_folder": "nowhere"}, "--run nowhere: no jaxft run there"),
        ({"source": "nowhere.txt"}, "nowhere.txt: no such file"),
        (
            {"source": "i*.txt"},
            r"--input i\*.txt: a pattern, of 1 files; answers are written for one: give one file after",
        ),
        ({"source": "demo:ner/dev"}, "demo:ner/dev: answers are for files and stdin"),
        (
            {"output": "nowhere/out.txt"},
            "--output nowhere/out.txt: cannot be written: No such file or directory; make its folder first$",
        ),
        ({"output": "."}, "--output .: is a folder"),
        (
            {"output": "out.csv"},
            "--output out.csv: the answers to in.txt are written as JSON lines; expected a name that ends in .jsonl$",
        ),
        (
            {"output": "/dev/full"},
            "--output /dev/full: cannot be written: No space left on device; make room",
        ),
    ],
)
def test_bad_names(finished_run, tag, tmp_path, monkeypatch, changed, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("Peter left\n")
    arguments = {"run_folder": finished_run, "source": "in.txt", "output": "out"}
    with pytest.raises(UserError, match=message):
        predict_file(**{name: type(arguments[name])(value) for name, value in (arguments | changed).items()})
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_a_name_of_another_format_is_for_no_columns(finished_run, tmp_path, name):
    (tmp_path / "in.conll").write_text("Peter\tO\n")
    message = rf"{name}: the answers to .*in.conll are written as CoNLL columns; expected a name that ends in .conll$"
    with pytest.raises(UserError, match=message):
        predict_file(finished_run, str(tmp_path / "in.conll"), str(tmp_path / name))
    assert not (tmp_path / name).exists()


def test_an_earlier_output_stays_until_the_new_one_is_whole(tag, tmp_path):
    tag(b"Peter left\n", "good.txt")
    kept = (tmp_path / "output").read_bytes()
    with pytest.raises(UserError):
        tag(b"Peter\n\xff", "bad.txt")
    assert (tmp_path / "output").read_bytes() == kept
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["bad.txt", "good.txt", "output", "output.unfinished"]


def test_the_input_may_be_its_own_output(tag, tmp_path):
    assert tag(b"Peter\nleft\n", "output", "conll").count(b"\t") == 2


def test_a_sentence_in_columns_is_as_long_as_the_flag_allows(tag):
    content = b"Peter\nleft\nOslo\n"
    assert tag(content, "long.conll", FileFormat("conll", max_text=20)).count(b"\t") == 3
    with pytest.raises(
        UserError, match="long.conll, line 1: the sentence .* longer than 10 bytes.*--max_text"
    ):
        tag(content, "long.conll", FileFormat("conll", max_text=10))
    document = b'[{"text": "Peter left"}, {"text": "Peter left Oslo for good"}]'
    with pytest.raises(UserError, match="long.json:2, text: the text is longer than 12 bytes.*--max_text"):
        tag(document, "long.json", FileFormat("json", max_text=12))


def test_unknown_flag(command):
    done = command("predict", "--run", "x", "--outptu", "y")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --outptu: unknown flag; did you mean --output? jaxft predict --help lists those there are\n"
    )
    assert files.source_name("-") == "<stdin>"  # what `Input` replaces in messages
