"""CRF tagging through whole runs: what only a chain can learn, sentences of many windows, resume, predict, export."""

import argparse
import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxft.cli import use
from jaxft.config.settings import replace
from jaxft.data.batching.choice import make_loader
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.data.sources.tagged_sentences.tag_schemes import convert_tags_to_iob2
from jaxft.errors import UserError
from jaxft.export import heads, with_torch
from jaxft.export.writer import export_run
from jaxft.inference.predict import predict_file
from jaxft.layers.heads.crf import Chain
from jaxft.tasks.base import Split
from jaxft.tasks.registry import make_data, make_evaluator, make_task
from jaxft.training.loop import train
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import load_settings
from tests.conftest import REPOSITORY, write_conll
from tests.interruption import assert_a_stopped_run_ends_bit_identically

CYCLE = ("B-X", "I-X", "O")
SETTINGS = {
    "data.max_length": 16,  # 14 words at most; longer sentences are cut
    "data.test": "none",
    "batch.rows": 16,
    "train.steps": 40,
    "optim.freeze": ("^backbone/",),
    "eval.every_steps": 20,
    "checkpoint.every_steps": 15,
    "model.unroll": "no",
    "log.tensorboard": False,
}


def cycle(length: int) -> list[str]:
    return [CYCLE[i % 3] for i in range(length)]


@pytest.fixture(scope="module")
def flags(tiny_bert, tmp_path_factory):
    """Sentences of one word over and over, to a model that sees no positions: only the tag before tells the next."""
    folder = tmp_path_factory.mktemp("chain")
    checkpoint = shutil.copytree(tiny_bert, folder / "bert")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["embeddings.position_embeddings.weight"][:] = 0
    save_file(tensors, checkpoint / "model.safetensors")
    lengths = {"train": [1 + i % 12 for i in range(150)] + [40] * 2, "dev": [5, 9, 12, 1, 40, 3, 90]}
    data = {
        name: write_conll(folder / f"{name}.conll", [Sentence(["x"] * n, cycle(n), 0, "") for n in values])
        for name, values in lengths.items()
    }
    values = SETTINGS | {"model.checkpoint": checkpoint, "data.cache_dir": "off", "optim.lr": 0.01}
    values |= {f"data.{name}": path for name, path in data.items()}
    return {key: f"--config.{key}={value}" for key, value in values.items()}


@pytest.fixture(scope="module")
def load(flags):
    def loaded(recipe="ner_crf", **changed):
        changed = {key: f"--config.{key}={value}" for key, value in changed.items()}
        return load_settings(str(REPOSITORY / f"configs/{recipe}.py"), list((flags | changed).values()))

    return loaded


@pytest.fixture(scope="module")
def start(load):
    return lambda workdir, *recipe, **changed: train(load(*recipe, **changed), workdir)


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("crf") / "run"
    return workdir, start(workdir)


def test_it_learns_from_the_chain_what_a_softmax_cannot(finished, start, tmp_path):
    """In dev sentences of seven windows too: the chain goes on where a window ends."""
    workdir, summary = finished
    assert summary["dev"]["entity_f1"] == 1 and summary["dev"]["token_accuracy"] == 1
    assert summary["late_compiles"] == 0 and summary["selected_by"] == "entity_f1"
    without = start(tmp_path / "softmax", "ner", **{"train.steps": 15, "eval.every_steps": 15})
    assert without["dev"]["entity_f1"] < 0.5 and without["dev"]["token_accuracy"] < 0.5


def test_predict_and_evaluate(finished, flags, tmp_path):
    workdir, summary = finished
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"tokens": ["x"] * n}) + "\n" for n in (7, 0, 200, 1))
    )
    names = {"run": workdir, "input": str(tmp_path / "in.jsonl"), "output": str(tmp_path / "out.jsonl")}
    predict_file(names["run"], names["input"], names["output"])
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["predicted_tags"] for r in records] == [cycle(n) for n in (7, 0, 200, 1)]
    assert all(0 < score <= 1 for r in records for score in r["scores"])
    assert np.mean(records[0]["scores"]) > 0.5
    names = dict.fromkeys(("format", "word_column", "tag_column", "layout", "stride"))
    data = flags["data.dev"].partition("=")[2]
    metrics = use.run_evaluate(
        argparse.Namespace(run=workdir, data=data, output=str(tmp_path / "evaluated"), **names)
    )
    assert metrics == pytest.approx(summary["dev"], rel=1e-5)


@pytest.mark.sweep  # the loader and the state are those of test_resume
def test_a_stopped_run_ends_bit_identically(finished, load, tmp_path, monkeypatch):
    assert_a_stopped_run_ends_bit_identically(load(), finished[0], tmp_path / "run", monkeypatch, at=22)


def test_exported_to_torch_it_finds_the_same_tags(finished, tmp_path, capsys):
    from transformers import AutoModelForTokenClassification

    folder = tmp_path / "exported"
    export_run(finished[0], folder, verify=True)
    output = capsys.readouterr().out
    assert "answers by heads_loader.py in torch: 0 of 7 of dev differ" in output  # two have several windows
    _, report = AutoModelForTokenClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    scores = load_file(folder / "heads.safetensors")
    shapes = {"weight": (3, 32), "bias": (3,), "transitions": (3, 3), "start": (3,), "end": (3,)}
    assert {name: value.shape for name, value in scores.items()} == {
        f"tags.{k}": v for k, v in shapes.items()
    }
    # I-X at first, and after O
    assert np.isneginf(scores["tags.start"][2]) and np.isneginf(scores["tags.transitions"][0, 2])
    card = (folder / "README.md").read_text()
    assert "from heads_loader import Model" in card and "linear-chain CRF over 3 IOB2 labels" in card
    ask = with_torch.load_exported(folder)
    assert [ask(["x"] * n)["tags"] for n in (0, 1, 11, 200)] == [cycle(n) for n in (0, 1, 11, 200)]
    assert len(ask(["x", "\u200b"])["tags"]) == 2  # which has no subword: [UNK] stands for it, as in training
    ask.tokenizer.unk_token = None
    with pytest.raises(ValueError, match="has no subword: leave it out"):
        ask(["x", "\u200b"])


def test_other_tags_in_torch_are_told_and_nothing_is_left(finished, tmp_path, monkeypatch):
    def wrong(tensors, path):
        save_file({name: np.zeros_like(value) for name, value in tensors.items()}, path)

    monkeypatch.setattr(heads, "save_file", wrong)
    with pytest.raises(UserError, match=r"other answers in torch than jaxft, \d+ of 7: .*out was not"):
        export_run(finished[0], tmp_path / "out", verify=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("constraints", [True, False])
def test_constraints_hold_in_predictions_of_a_model_that_knows_nothing(finished, constraints):
    """Random emissions for the words of whole sentences, though these come from several windows."""
    run = open_run(finished[0])
    run = dataclasses.replace(run, config=replace(run.config, {"model.constraints": constraints}))
    task, rng = make_task(run.labels, run.config, head_dropout=0.1), np.random.default_rng(0)
    sentences = [Sentence(["x"] * n, None, 0, "") for n in (50, 3, 1, 30)]
    windows = make_data(run.config).encode(sentences, run.labels, run.checkpoint.processor, cached=False)
    loader = make_loader(windows, rows=4, max_length=16, shuffle=False)
    model = types.SimpleNamespace(
        head=types.SimpleNamespace(chain=lambda: Chain(*map(np.zeros, ((3, 3), 3, 3))))
    )
    outputs = []
    for step in range(loader.steps_per_epoch):
        emissions = rng.normal(size=(4, 16, 3)).astype(np.float32)
        outputs.append((loader.batch(step), jax.device_get(task._outputs(model, emissions))))
    evaluator = make_evaluator(run.labels, run.config)
    predictions = evaluator.collect(Split("input", "input", sentences, windows), outputs)
    assert [len(p.tags) for p in predictions] == [50, 3, 1, 30]
    assert any(convert_tags_to_iob2(p.tags, "iob2")[1] for p in predictions) != constraints


@pytest.mark.parametrize(
    "changed, message",
    [
        *(
            (
                {f"loss.{key}": value},
                "config.loss.label_smoothing, .class_weights, .focal_gamma and .r_drop are not for",
            )
            for key, value in (
                ("label_smoothing", 0.1),
                ("class_weights", (("O", 0.5),)),
                ("focal_gamma", 2.0),
                ("r_drop", 1.0),
            )
        ),
        ({"data.label_subwords": "all"}, "config.data.label_subwords='all': .* over words, expected 'first'"),
    ],
)
def test_settings_that_a_chain_cannot_have(start, tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        start(tmp_path / "run", **changed)
