"""Sharded data in one process (test_several_processes.py has several): each example once an epoch, labels of all."""

import collections
import json

import numpy as np
import pytest

from jaxft.errors import UserError
from jaxft.io.files import read_json
from jaxft.parallel import processes
from jaxft.tasks.registry import make_data, make_task
from jaxft.training.loop import train
from jaxft.training.prepare import make_train_loader
from jaxft.training.settings import settings_from_config
from jaxft.training.splits import collect_labels, encode_splits, read_run_splits

FILES, PARTS = 5, 3
INTENTS = ("intents", (("task", "sequence_classification"), ("data.label", "intent")))
SLOTS = ("slots", (("task", "token_classification"),))
KINDS = {
    "words": {"task": "token_classification", "data__scheme": "iob2"},
    "texts": {"task": "sequence_classification", "data__label": "intent"},
    "numbers": {
        "task": "sequence_classification",
        "model__problem_type": "regression",
        "data__label": "size",
    },
    "questions": {"task": "question_answering"},
    "documents": {"task": "causal_lm"},
    "targets": {"task": "causal_lm", "data__template": "{text} : {intent}", "eval__max_new_tokens": 16},
    "several": {"task": "multi_task", "tasks": (INTENTS, SLOTS), "data__scheme": "iob2"},
}
LABELS = {  # intents i1 and i2 are in all files, the others in one each
    "words": ["O", *(f"{prefix}-s{number}" for number in range(1, 6) for prefix in "BI")],
    "texts": [f"i{number}" for number in range(1, 7)],
    "numbers": ["value"],
}
LABELS["several"] = [f"intents/{label}" for label in LABELS["texts"]] + [
    f"slots/{label}" for label in LABELS["words"]
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records for all tasks in files of different sizes, each with a type of spans and an intent of its own."""
    folder = tmp_path_factory.mktemp("files")
    for index, name in enumerate(["dev", *(f"part-{number}" for number in range(FILES))]):
        with open(folder / f"{name}.jsonl", "w") as file:
            for row in range(10 + 4 * index):
                words = [f"{chr(97 + row * step % 26)}{index}" for step in range(1, 4 + row % 9)]
                text, intent = " ".join(words), 1 + row % 2 + (row == 8) * index
                span = {"start": 0, "end": 2, "label": f"s{max(index, 1)}"}
                answer = {"text": text[:2], "answer_start": 0}
                record = {"text": text, "intent": f"i{intent}", "size": row + 0.5, "spans": [span]}
                record |= {"question": f"{row}?", "context": text, "answers": [answer]}
                print(json.dumps(record), file=file)
    return folder


@pytest.fixture
def config_for(folder, tiny_bert, tiny_gpt2):
    def make(kind: str, **changed):
        values = {
            "model__checkpoint": str(tiny_gpt2 if KINDS[kind]["task"] == "causal_lm" else tiny_bert),
            "model__unroll": "no",
            "data__train": f"{folder}/part-*.jsonl",
            "data__dev": f"{folder}/dev.jsonl",
            "data__shards": PARTS,
            "data__cache_dir": "off",
            "data__max_length": 48,
            "batch__rows": 6,
            "log__tensorboard": False,
            "log__every_steps": 1,
        }
        values |= KINDS[kind] | changed
        return settings_from_config({key.replace("__", "."): value for key, value in values.items()})

    return make


def segments_of_an_epoch(config):
    """How often each segment comes in an epoch, by all that the arrays of a batch say of it; and the labels."""
    data = make_data(config)
    shards, _ = read_run_splits(data, config, range(config.data.shards), lambda line: None)
    checkpoint = make_data(config).open_model(())
    labels = collect_labels(data, shards)
    task = make_task(labels, config, head_dropout=0.0)
    encoded, _ = encode_splits(data, labels, shards, {}, checkpoint.processor, config, lambda line: None)
    loader = make_train_loader(
        {number: part.windows for number, part in encoded.items()},
        config,
        only=np.arange(config.batch.rows),
        max_length=config.data.max_length,
        seed=3,
        **task.batch_spec.loader_options(),
    )
    counts = collections.Counter()
    for step in range(loader.steps_per_epoch, 2 * loader.steps_per_epoch):
        batch = loader.batch(step)
        assert batch.shape in loader.shapes
        for row, segment in zip(*np.nonzero(batch.windows >= 0), strict=True):
            inside = batch.arrays["segment_ids"][row] == segment + 1
            values = [
                values[row, segment] if task.batch_spec.arrays[name].per == "segment" else values[row][inside]
                for name, values in sorted(batch.arrays.items())
                if name not in ("segment_ids", "starts")
            ]
            counts[tuple(value.tobytes() for value in values)] += 1
    return counts, task.labels


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_of_shards_has_the_windows_and_labels_of_the_whole(kind, config_for):
    unsharded, labels = segments_of_an_epoch(config_for(kind, data__shards=1))
    sharded, same = segments_of_an_epoch(config_for(kind))
    assert sum(unsharded.values()) >= 110 and sharded == unsharded
    assert same == labels and labels == LABELS.get(kind, labels)


@pytest.mark.parametrize("kind", ["targets", pytest.param("several", marks=pytest.mark.sweep)])
def test_a_run_learns_from_all_shards(kind, config_for, tmp_path, capsys):
    """Also where a step's scales depend on all shards' rows, and text is cut into blocks, a shard's by themselves."""
    layout = {"data__layout": "blocks", "data__template": None} if kind == "targets" else {}
    config = config_for(kind, train__epochs=8.0, optim__lr=0.01, batch__accumulate=2, **layout)
    summary = train(config, tmp_path / "run")
    output = capsys.readouterr().out
    assert [line for line in output.splitlines() if line.startswith("train") and "#3/3: " in line]
    rows = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == summary["steps"] and sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert summary["late_compiles"] == 0 and 0 < summary["padding_fraction"] < 0.5
    if kind == "several":
        assert read_json(tmp_path / "run/model/labels.json") == LABELS["several"]
        assert summary["dev"]["slots/entity_f1"] > 0.5


def test_several_processes_are_told_of_shards(config_for, folder, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    pattern = f"{folder}/part-*.jsonl"
    for kind, source in ("documents", pattern), ("several", f"intents={pattern};slots={pattern}"):
        lines = []
        config = config_for(kind, data__shards=1, data__train=source)
        read_run_splits(make_data(config), config, [0], lines.append)
        assert lines[0] == f"every process reads all files of {source}; config.data.shards=3 deals them"
        one_file = config_for(kind, data__shards=1, data__train=f"{folder}/dev.jsonl")
        read_run_splits(make_data(config), one_file, [0], lines.append)
        assert len([line for line in lines if "deals them" in line]) == 1


def test_of_labels_all_shards_count(config_for, tmp_path):
    """A shard without entities is no sign of a wrong column, nor are many labels next to one shard's few texts."""
    for index in range(3):
        texts = [{"text": f"a{row}", "intent": f"i{6 * index + row // 2}", "spans": []} for row in range(12)]
        if index == 0:
            texts[0]["spans"] = [{"start": 0, "end": 2, "label": "s"}]
        (tmp_path / f"part-{index}.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    for kind in ("words", "texts"):
        config = config_for(kind, data__train=f"{tmp_path}/part-*.jsonl")
        lines = []
        data = make_data(config)
        shards, others = read_run_splits(data, config, range(3), lines.append)
        labels = collect_labels(data, shards)
        processor = make_data(config).open_model(()).processor
        encode_splits(data, labels, shards, {}, processor, config, lines.append)
        assert not [line for line in lines if "warning" in line and "train" in line], lines


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("words", {"batch__rows": 8}, r"config.data.shards=3: expected a divisor of config.batch.rows=8"),
        ("words", {"data__shards": 0}, r"config.data.shards=0: expected 1 or more"),
        ("words", {"data__pack": False}, r"config.data.shards=3: expected 1 without config.data.pack"),
        (
            "words",
            {"data__dev": None},
            r"config.data.shards=3: expected 1 without config.data.dev: name a dev set",
        ),
        (
            "words",
            {"data__scheme": "auto"},
            r"expected 1 unless config.data.scheme says how the data is tagged",
        ),
        (
            "several",
            {"data__scheme": "auto"},
            r"expected 1 unless config.data.scheme says how the data is tagged",
        ),
        ("several", {"data__mix": "temperature"}, r"expected 1 where data sets are mixed in other ways"),
        (
            "documents",
            {"model__checkpoint": "new:gpt2"},
            r"expected 1 with a new model, whose tokenizer is trained",
        ),
    ],
)
def test_settings_that_shards_do_not_go_with(kind, changed, message, config_for):
    with pytest.raises(UserError, match=message):
        config_for(kind, **changed)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "dev.jsonl",
            r"dev.jsonl: 1 file for 3 shards; a shard is one file or more: split the data into more",
        ),
        ("", r"config.data.train='' leaves a data set out; give a file"),
        ("none-*.jsonl", r"none-\*.jsonl: no file matches"),
        ("demo:ner/train", r"demo:ner/train: no file matches .*; only these have shards"),
    ],
)
def test_data_that_has_no_shards(source, message, config_for, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message):
        segments_of_an_epoch(config_for("words", data__train=source))


def test_a_part_that_is_too_short_is_named(config_for, tmp_path):
    for index, text in enumerate(("one two " * 60, "one", "one two " * 60)):
        (tmp_path / f"{index}.txt").write_text(text + "\n")
    config = config_for("documents", data__train=f"{tmp_path}/?.txt", data__layout="blocks")
    with pytest.raises(
        UserError, match=r"\?.txt#3/3: the text has 4 tokens, .*; or have fewer shards, of more data each"
    ):
        train(config, tmp_path / "run")
