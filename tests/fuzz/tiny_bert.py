"""Writes the folder of a tiny random BERT, without torch."""

import json
from pathlib import Path

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from jaxft.hub.weights import save_weights
from jaxft.layers import parameter_paths
from jaxft.models.bert import weights
from jaxft.models.bert.config import BertConfig
from jaxft.models.bert.network import Bert
from tests.data.tiny_text import VOCABULARY


def write_tiny_bert(folder: Path) -> Path:
    """Writes config.json, a tokenizer and weights; returns the folder."""
    folder.mkdir(parents=True)
    letters = [token for token in VOCABULARY if token not in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")]
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]) + "\n"
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    config = {
        "model_type": "bert",
        "vocab_size": len(letters) + 5,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
        "type_vocab_size": 2,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config))
    state = nnx.to_pure_dict(nnx.state(nnx.Dict(backbone=Bert(BertConfig.from_hf(config), rngs=nnx.Rngs(0)))))
    parameters = {name: np.asarray(value) for name, value in parameter_paths.flatten(state).items()}
    save_file(save_weights(weights.TABLE, parameters), folder / "model.safetensors")
    return folder
