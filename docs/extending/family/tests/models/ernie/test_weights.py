"""ERNIE against transformers: logits, gradients, tensors that come back bit for bit, and a run that is exported."""

import json

import pytest
from transformers import BertTokenizerFast, ErnieConfig, ErnieModel

from jaxft.export.writer import export_run
from jaxft.io.files import read_json
from jaxft.models.ernie.weights import HEADS
from jaxft.training.loop import train
from jaxft.training.settings import settings_from_config
from tests.models import torch_parity

WORDS = {"anna": "B-PER", "oslo": "B-LOC", "sees": "O", "in": "O", "rome": "B-LOC", "bob": "B-PER"}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def tiny_ernie(folder):
    """Writes the folder of a random ERNIE with ReLU."""
    config = ErnieConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=16,
        hidden_act="relu",
        initializer_range=0.2,
    )
    ErnieModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", HEADS)
def test_ernie_is_torch_in_logits_and_gradients_and_comes_back(kind):
    config = torch_parity.example_shape("ernie", seed=0)
    torch_parity.assert_is_torchs(config, kind, seed=0, dtype="float64")
    torch_parity.assert_file_comes_back(config, kind, seed=0)


def test_a_run_of_an_ernie_learns_and_its_export_is_torchs(tmp_path):
    folder = tiny_ernie(tmp_path / "ernie")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sentences = ["anna sees bob in oslo", "bob sees rome", "rome in anna", "oslo sees anna"] * 8
    lines = "\n\n".join("\n".join(f"{word}\t{WORDS[word]}" for word in text.split()) for text in sentences)
    (tmp_path / "train.conll").write_text(lines + "\n")
    settings = {
        "task": "token_classification",
        "model.checkpoint": str(folder),
        "data.train": str(tmp_path / "train.conll"),
        "data.dev": str(tmp_path / "train.conll"),
        "data.max_length": 16,
        "data.cache_dir": "off",
        "batch.rows": 4,
        "train.steps": 40,
        "optim.lr": 0.01,
        "eval.every_steps": 40,
        "log.tensorboard": False,
    }
    train(settings_from_config(settings), tmp_path / "run")
    assert read_json(tmp_path / "run/eval/dev.json")["metrics"]["entity_f1"] == 1.0
    export_run(tmp_path / "run", tmp_path / "exported", verify=True)
    config = json.loads((tmp_path / "exported/config.json").read_text())
    assert config["architectures"] == ["ErnieForTokenClassification"]
