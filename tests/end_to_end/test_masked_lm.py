"""Masked language models from text to export: they learn, resume to the bit, and torch's pipeline gives their words."""

import json
import random

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import pipeline

from jaxft.errors import UserError
from jaxft.export.writer import export_run
from jaxft.inference.predict import predict_file
from jaxft.parallel.mesh import make_mesh
from jaxft.run import Run
from jaxft.tasks.registry import make_data
from jaxft.training import batch_rows
from jaxft.training.loop import train
from jaxft.training.network import initial_parameters
from jaxft.training.prepare import prepare_network, prepare_task
from jaxft.training.settings import settings_from_config
from tests.interruption import assert_a_stopped_run_ends_bit_identically

LETTERS = "abcdefghij"  # words of the vocabulary


def config_for(text, checkpoint, **changed):
    return settings_from_config(
        {
            "task": "masked_lm",
            "model.checkpoint": str(checkpoint),
            "data.train": str(text),
            "data.cache_dir": "off",
            "data.max_length": 32,
            "data.mask_probability": 0.2,
            "batch.rows": 8,
            "train.steps": 100,
            "optim.lr": 0.01,
            "optim.warmup": 5,
            "eval.rows": 8,
            "eval.every_steps": 50,
            "log.tensorboard": False,
        }
        | {key.replace("__", "."): value for key, value in changed.items()}
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Lines of one word each, repeated, and a few other words: what a line has says what its masks are."""
    path, rng = tmp_path_factory.mktemp("text") / "train.txt", random.Random(0)
    with open(path, "w") as file:
        for _ in range(300):
            line = [rng.choice(LETTERS)] * rng.randint(4, 40) + rng.sample("wxyz", 2)
            file.write(" ".join(rng.sample(line, len(line))) + "\n")
    return path


@pytest.fixture(scope="module")
def run(text, tiny_bert, tmp_path_factory):
    """A run with packing, accumulation and dropout; (folder, config, summary)."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = config_for(text, tiny_bert, batch__accumulate=2, checkpoint__every_steps=20)
    return folder, config, train(config, folder)


def test_a_large_step_is_computed_as_with_two_microbatches(run, text, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_rows, "LARGE_STEP", 1)
    train(config_for(text, tiny_bert, batch__accumulate=1), tmp_path / "run")

    def losses(folder):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows if row["kind"] == "train"]

    assert losses(tmp_path / "run") == losses(run[0])


def test_a_run_learns_and_leaves_what_users_read(run):
    folder, _, summary = run
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    dev = summary["dev"]
    assert summary["late_compiles"] == 0 and losses[0] > 2 > 1 > losses[-1]
    assert dev["token_accuracy"] > 0.7  # a uniform choice of ten words: about 0.1
    assert dev["perplexity"] == pytest.approx(np.exp(dev["loss"]))
    saved = json.loads((folder / "eval/dev.json").read_text())
    assert saved["metrics"] == dev
    assert saved["method"].startswith(
        "20% of the tokens masked, the same at each evaluation; documents, longer"
    )


def test_a_stopped_run_ends_bit_identically(run, tmp_path, monkeypatch):
    """Its masks are those that it would have had."""
    folder, config, _ = run
    assert_a_stopped_run_ends_bit_identically(config, folder, tmp_path / "run", monkeypatch, at=50)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The run's export, which was compared with torch."""
    folder = tmp_path_factory.mktemp("exports") / "model"
    export_run(run[0], folder, verify=True)
    return folder


def test_predict_export_and_the_pipeline_give_the_same_words(run, exported):
    folder, _, _ = run
    fill = pipeline("fill-mask", model=str(exported), top_k=5)
    texts = ["c c [MASK] c c", "d [MASK] d [MASK] x d d", "[MASK]"]
    answers = list(Run.open(folder).predict(texts))
    for text, answer in zip(texts, answers, strict=True):
        masks = fill(text) if text.count("[MASK]") > 1 else [fill(text)]
        assert answer["text"] == text
        assert answer["predicted_words"] == [[word["token_str"] for word in mask] for mask in masks]
        scores = [[word["score"] for word in mask] for mask in masks]
        np.testing.assert_allclose(answer["scores"], scores, atol=1e-5)
    assert answers[0]["predicted_words"][0][0] == "c"


def test_a_run_from_an_export_has_its_head_and_evaluations_repeat(run, exported, text):
    """Words that are added begin as the mean of the others, in the embeddings and in the head's bias."""
    config = config_for(text, exported, data__added_tokens=("zulu", "yankee"))
    checkpoint = make_data(config).open_model(())
    task = prepare_task(config, checkpoint.hf_config, [])
    net = prepare_network(task, config, checkpoint.hf_config, make_mesh(config))
    parameters, line = initial_parameters(net, config, checkpoint)
    assert "newly" not in line and "2 new words" in line
    for name, tensor in (
        ("backbone/embeddings/word/embedding", "bert.embeddings.word_embeddings.weight"),
        ("head/bias", "cls.predictions.bias"),
    ):
        known = load_file(exported / "model.safetensors")[tensor]
        expected = np.concatenate([known, np.stack([known.mean(axis=0)] * 2)])
        np.testing.assert_allclose(parameters[name], expected, atol=1e-6)

    first, second = (Run.open(run[0]).evaluate(str(text), output=exported.parent / name) for name in "ab")
    assert first == second and first["tokens"] > 1000


def test_predict_reads_files_and_says_where_a_mask_is_missing(run, tmp_path):
    folder, _, _ = run
    (tmp_path / "in.csv").write_text("text,id\ne [MASK] e [MASK],7\n")
    predict_file(folder, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"))
    header, row = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "text,id,predicted_words,scores"
    assert row.startswith("e [MASK] e [MASK],7,e ") and row.count(";") == 2
    (tmp_path / "in.txt").write_text("f [MASK] f\nf f\n")
    with pytest.raises(
        UserError, match=r"in.txt, line 2: the text has no \[MASK\]; put it in the place of each"
    ):
        predict_file(folder, str(tmp_path / "in.txt"), str(tmp_path / "out.jsonl"))
