"""Each family of encoders trains every task that reads text; runs go on to the bit, exports have torch's logits."""

import json
import pathlib

import numpy as np
import pytest
from transformers import AutoConfig, AutoModel

from jaxft.export.writer import export_run
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.registry import FAMILIES
from jaxft.training.loop import train
from jaxft.training.settings import settings_from_config
from tests.data.vocabularies import make_tokenizer
from tests.interruption import assert_a_stopped_run_ends_bit_identically
from tests.models import torch_parity

TAGS = {"anna": "B-PER", "bob": "B-PER", "oslo": "B-LOC", "rome": "B-LOC"}
WORDS = [*TAGS, "sees", "in", "and", "wakes", "me", "at", "seven"]
TINY = {
    "data.max_length": 24,
    "data.cache_dir": "off",
    "batch.rows": 4,
    "train.steps": 3,
    "eval.rows": 4,
    "eval.bootstrap": 0,
    "log.tensorboard": False,
}
TASKS = (("words", (("task", "token_classification"), ("model.crf", True))),)
TASKS += (("texts", (("task", "sequence_classification"), ("data.label", "label"))),)
RUNS = {
    "words": {"task": "token_classification", "data.train": "words.conll"},
    "texts": {"task": "sequence_classification", "data.train": "texts.jsonl"},
    "pairs": {"task": "sequence_classification", "data.train": "texts.jsonl", "data.text_pair": "pair"},
    "mean": {"task": "sequence_classification", "data.train": "texts.jsonl", "model.pool": "mean"},
    "questions": {"task": "question_answering", "data.train": "questions.jsonl"},
    "masks": {"task": "masked_lm", "data.train": "texts.jsonl"},
    "both": {"task": "multi_task", "tasks": TASKS, "data.train": "texts=texts.jsonl;words=words.conll"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Texts, tagged words and questions of random words."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    sentences = [rng.choice(WORDS, size=rng.integers(2, 20)).tolist() for _ in range(30)]
    texts = [
        {"text": " ".join(words), "pair": words[0], "label": "place" if "oslo" in words else "none"}
        for words in sentences
    ]
    questions = [
        {
            "question": f"who is {words[0]}",
            "context": " ".join(words),
            "answers": {"text": [words[0]], "answer_start": [0]},
        }
        for words in sentences
    ]
    for name, records in (("texts", texts), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    blocks = ("\n".join(f"{word}\t{TAGS.get(word, 'O')}" for word in words) for words in sentences)
    (folder / "words.conll").write_text("\n\n".join(blocks))
    return folder


@pytest.fixture(scope="module")
def checkpoint(request, tmp_path_factory) -> pathlib.Path:
    """A tiny random model of a family, with a tokenizer of its kind."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    tokenizer = make_tokenizer({"distilbert": "bert", "electra": "bert"}.get(name, name))
    shape = torch_parity.example_shape(name, seed=1).to_hf() | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 40,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.2,
    }
    AutoModel.from_config(AutoConfig.for_model(**shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ENCODERS = [name for name, family in FAMILIES.items() if HeadKind.QUESTION in family.heads]


@pytest.mark.sweep
@pytest.mark.parametrize("checkpoint", ENCODERS, indirect=True)
@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_exported_with_the_same_logits(checkpoint, run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    values = RUNS[run] | {"data.dev": RUNS[run]["data.train"], "model.checkpoint": str(checkpoint)}
    train(settings_from_config(TINY | values), tmp_path / "run")
    # Raises if logits or answers differ.
    export_run(tmp_path / "run", tmp_path / "exported", verify=True)


@pytest.mark.sweep
@pytest.mark.parametrize("checkpoint", ENCODERS, indirect=True)
def test_a_run_that_was_stopped_ends_bit_identically(checkpoint, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    values = TINY | RUNS["words"] | {"data.dev": "words.conll", "model.checkpoint": str(checkpoint)}
    config = settings_from_config(values | {"train.steps": 6})
    train(config, tmp_path / "run")
    assert_a_stopped_run_ends_bit_identically(
        config, tmp_path / "run", tmp_path / "stopped", monkeypatch, at=3
    )
