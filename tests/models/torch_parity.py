"""Holds any family's models to torch: logits, the gradient of every parameter, and files that come back bit for bit."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
import torch
import transformers
from flax import nnx
from hypothesis import strategies as st
from transformers.models.deberta_v2 import modeling_deberta_v2
from transformers.models.modernbert import modeling_modernbert

from jaxft.hub.weights import load_weights, save_weights
from jaxft.layers import parameter_paths
from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import Runtime
from jaxft.models.model_config import ModelConfig
from jaxft.models.modernbert.config import GLOBAL, LOCAL
from jaxft.models.registry import FAMILIES
from jaxft.tasks.base import Task
from jaxft.tasks.registry import TASKS, make_task
from jaxft.training.settings import settings_from_config

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TASK_LABELS = {
    HeadKind.TOKEN: LABELS,
    HeadKind.SEQUENCE: LABELS,
    HeadKind.QUESTION: ["start", "end"],
    HeadKind.IMAGE: LABELS,
}
# The lengths of the texts in each packed row, which ends with padding. In torch each text has its row.
Rows = tuple[tuple[int, ...], ...]
ROWS: Rows = ((11, 4), (2, 1, 7, 3))
LONGEST = 11
# Torch rounds the root by which it divides scores to float32, in float64 too.
modeling_deberta_v2.scaled_size_sqrt = lambda x, count: (
    torch.tensor(float(x.size(-1) * count)).double().sqrt()
)


def _turn_exactly(q, k, cos, sin, unsqueeze_dim=1):
    """Turns queries and keys without torch's rounding to float32, which it does in float64 too."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    turned = (x.double() * cos + modeling_modernbert.rotate_half(x.double()) * sin for x in (q, k))
    return tuple(x.to(q.dtype) for x in turned)


def _find_exact_angles(module, x, position_ids, layer_type):
    """Returns the cosines and sines of RoPE's angles in float64."""
    theta = module.config.rope_parameters[layer_type]["rope_theta"]
    width = module.config.hidden_size // module.config.num_attention_heads
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    angles = position_ids[..., None].double() / theta**exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


modeling_modernbert.apply_rotary_pos_emb = _turn_exactly
modeling_modernbert.ModernBertRotaryEmbedding.forward = _find_exact_angles
# If the output layer is not the word embeddings, it has a bias of its own, and these do nothing.
UNUSED = {"cls.predictions.bias", "lm_head.bias"}
# What fields may be in a tiny model, by jaxft's names. Widths follow from heads.
FIELDS = {
    "vocab_size": st.integers(20, 60),
    "num_layers": st.integers(1, 3),
    "intermediate_size": st.integers(5, 40),
    "max_positions": st.integers(LONGEST, 30),
    "type_vocab_size": st.integers(1, 3),
    "embedding_size": st.integers(4, 20),
    "padding_id": st.integers(0, 4),
    "activation": st.sampled_from(sorted(ACTIVATIONS)),
    "layer_norm_eps": st.sampled_from([1e-12, 1e-6, 1e-5, 1e-2]),
    "ties_word_embeddings": st.booleans(),
    "scale_by_inverse_layer": st.booleans(),
    "has_position_embeddings": st.booleans(),
    "has_distance_embeddings": st.sampled_from([True, True, True, False]),
    "products": st.sampled_from([(), ("c2p",), ("p2c",), ("c2p", "p2c")]),
    "max_distance": st.none() | st.integers(6, 40),
    "bucket_count": st.none() | st.integers(2, 9),
    "normalizes_distances": st.booleans(),
    "shares_projections": st.booleans(),
    "conv_size": st.sampled_from([0, 1, 3, 5]),
    "conv_groups": st.booleans(),  # one, or as many as heads
    "conv_activation": st.sampled_from(sorted(ACTIVATIONS)),
    "pooler_activation": st.sampled_from(sorted(ACTIVATIONS)),
    "has_legacy_head": st.booleans(),
    "layer_types": st.lists(st.sampled_from([GLOBAL, LOCAL]), min_size=1, max_size=3).map(tuple),
    "local_attention": st.integers(1, 2 * LONGEST + 2),
    "global_theta": st.sampled_from([10_000.0, 160_000.0]),
    "local_theta": st.sampled_from([1.0, 10_000.0]),
    "has_attention_bias": st.booleans(),
    "has_mlp_bias": st.booleans(),
    "has_norm_bias": st.booleans(),
    "has_decoder_bias": st.booleans(),
    "has_classifier_bias": st.booleans(),
    "classifier_activation": st.sampled_from(sorted(ACTIVATIONS)),
    "classifier_pooling": st.sampled_from(["cls", "mean"]),
}


def shapes(model_type: str) -> st.SearchStrategy[ModelConfig]:
    """Returns the strategy of tiny configs of a family, over the fields that its config.json has."""
    config_class = FAMILIES[model_type].config_class
    names = getattr(config_class, "hf_keys", [field.name for field in dataclasses.fields(config_class)])

    def build(heads: int, width: int, fields: dict) -> ModelConfig:
        if not fields.get("has_distance_embeddings", True):
            fields |= {"products": (), "normalizes_distances": False}
        if not fields.get("has_legacy_head", True):  # which takes the word embeddings for its words
            fields |= {"ties_word_embeddings": True, "embedding_size": None}
        if "conv_groups" in fields:
            fields["conv_groups"] = heads if fields["conv_groups"] else 1
        if "type_vocab_size" in fields and config_class().type_vocab_size == 0:  # and so may others have none
            fields["type_vocab_size"] -= 1
        if "layer_types" in fields:
            width += width % 2  # pairs of features are turned
        return config_class(num_heads=heads, hidden_size=heads * width, **fields)

    return st.builds(
        build,
        st.integers(1, 4),
        st.integers(
            4, 8
        ),  # two numbers that are normalized are 1 and -1, and their gradient is rounding alone
        st.fixed_dictionaries({name: values for name, values in FIELDS.items() if name in names}),
    )


def example_shape(model_type: str, seed: int) -> ModelConfig:
    """Returns a config of odd sizes, in which no two numbers that could be mixed up are the same."""
    config_class = FAMILIES[model_type].config_class
    names = getattr(config_class, "hf_keys", [field.name for field in dataclasses.fields(config_class)])
    rng = np.random.default_rng(seed)
    fields = {
        "vocab_size": 37,
        "num_layers": 2,
        "intermediate_size": 17,
        "max_positions": 13,
        "type_vocab_size": 2 + seed % 2,
        "embedding_size": 10,
        "padding_id": 3,
        "activation": str(rng.choice(sorted(ACTIVATIONS))),
        "layer_norm_eps": 1e-5,
        "ties_word_embeddings": bool(seed % 2),
        "scale_by_inverse_layer": True,
        "has_position_embeddings": bool(seed % 2),
        "has_distance_embeddings": True,
        "products": ("c2p", "p2c"),
        "max_distance": 9,
        "bucket_count": None if seed % 2 else 6,
        "normalizes_distances": not seed % 2,
        "shares_projections": not seed % 2,
        "conv_size": 3 * (seed % 2),
        "conv_groups": 3,
        "conv_activation": "relu",
        "pooler_activation": "silu",
        "layer_types": (GLOBAL, LOCAL),
        "local_attention": 5,
        "global_theta": 160.0,
        "local_theta": 10.0,
        "has_attention_bias": bool(seed % 2),
        "has_mlp_bias": bool(seed % 2),
        "has_norm_bias": bool(seed % 2),
        "has_decoder_bias": bool(seed % 2),
        "has_classifier_bias": bool(seed % 2),
        "classifier_activation": "silu",
        "classifier_pooling": "mean" if seed % 2 else "cls",
    }
    if "layer_types" in names:
        fields["num_layers"] = 5  # the first, and two periods
    return config_class(
        num_heads=3,
        hidden_size=18 if "layer_types" in names else 15,
        **{name: value for name, value in fields.items() if name in names},
    )


def make_torch(
    config: ModelConfig, kind: HeadKind, seed: int, dtype: torch.dtype = torch.float32
) -> torch.nn.Module:
    """Returns a random torch model with a head, whose weights are large enough for all of them to matter."""
    options = {"num_labels": len(TASK_LABELS[kind])} if kind in TASK_LABELS else {}
    if kind in (HeadKind.TOKEN, HeadKind.SEQUENCE):
        options |= {
            "id2label": dict(enumerate(LABELS)),
            "label2id": {label: index for index, label in enumerate(LABELS)},
        }
    fields = config.to_hf() | {"initializer_range": 0.2}
    fields.setdefault("pad_token_id", 0)
    hf_config = transformers.AutoConfig.for_model(**fields, **options, bos_token_id=1, eos_token_id=2)
    architecture = FAMILIES[config.model_type].heads[kind].architecture
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(hf_config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # biases of 0 and scales of 1 would hide mix-ups
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_abstract(
    config: ModelConfig, kind: HeadKind, runtime: Runtime
) -> tuple[Task, nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
    """Returns the task with a kind of head, the structure of its model, and the shape of each parameter."""
    name = next(name for name, entry in TASKS.items() if entry.head is kind)
    task = make_task(TASK_LABELS.get(kind, []), settings_from_config({"task": name}), head_dropout=0.0)
    graph, state = nnx.split(nnx.eval_shape(lambda: task.build_model(config, runtime, nnx.Rngs(0))))
    return task, graph, parameter_paths.flatten(nnx.to_pure_dict(state))


def random_batch(
    config: ModelConfig, seed: int, rows: Rows = ROWS
) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    """Returns the same random texts in packed rows, and each in a row for torch."""
    rng = np.random.default_rng(seed)
    names = ("input_ids", "segment_ids", "positions", "token_type_ids")
    packed = {name: np.zeros((len(rows), row_length(rows)), np.int32) for name in names}
    packed["starts"] = np.zeros((len(rows), max(map(len, rows))), np.int32)
    longest = max(map(max, rows))
    padding = getattr(config, "padding_id", 1 if config.model_type == "mpnet" else 0)
    texts = {name: [] for name in ("input_ids", "attention_mask", "token_type_ids")}
    for row, lengths in enumerate(rows):
        start = 0
        for segment, length in enumerate(lengths):
            ids = rng.integers(0, config.vocab_size - 1, length)
            ids += ids >= padding  # no real text holds it, and torch would not train it
            types = np.sort(rng.integers(0, getattr(config, "type_vocab_size", 0) or 1, length))
            place = row, slice(start, start + length)
            packed["input_ids"][place], packed["token_type_ids"][place] = ids, types
            packed["positions"][place], packed["segment_ids"][place] = np.arange(length), segment + 1
            packed["starts"][row, segment] = start
            for name, values, filler in (
                ("input_ids", ids, padding),
                ("attention_mask", np.ones(length, int), 0),
                ("token_type_ids", types, 0),
            ):
                texts[name].append(np.pad(values, (0, longest - length), constant_values=filler))
            start += length
    if not config.reads_token_types:
        del texts["token_type_ids"]
    return packed, {name: torch.tensor(np.stack(values)) for name, values in texts.items()}


def row_length(rows: Rows) -> int:
    """Returns the number of slots in each packed row."""
    return max(map(sum, rows)) + 1


def torch_logits(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns torch's logits, `[N, L, C]` or, of texts, `[N, C]`."""
    outputs = model(**inputs)
    if "start_logits" in outputs:
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
    return outputs.logits


def unpack(packed: np.ndarray, rows: Rows = ROWS) -> np.ndarray:
    """Takes packed rows, `[R, L, C]` or `[R, S, C]`, apart as torch has them: `[N, longest, C]` or `[N, C]`."""
    values, longest = [], max(map(max, rows))
    for row, lengths in zip(packed, rows, strict=True):
        start = 0
        for segment, length in enumerate(lengths):
            if packed.shape[1] == row_length(rows):
                values.append(np.pad(row[start : start + length], ((0, longest - length), (0, 0))))
            else:
                values.append(row[segment])
            start += length
    return np.stack(values)


def pack(values: np.ndarray, rows: Rows = ROWS) -> np.ndarray:
    """Undoes `unpack`."""
    per_token = values.ndim == 3
    shape = (len(rows), row_length(rows) if per_token else max(map(len, rows)), values.shape[-1])
    packed, remaining = np.zeros(shape, values.dtype), iter(values)
    for row, lengths in zip(packed, rows, strict=True):
        start = 0
        for segment, length in enumerate(lengths):
            place = slice(start, start + length) if per_token else segment
            row[place] = next(remaining)[:length] if per_token else next(remaining)
            start += length
    return packed


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the norm of a difference, in float64."""
    return float(np.linalg.norm(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)))


# By dtype: what part of its norm an error of logits may have, and of gradients its own norm and that of all.
TOLERANCES = {"float64": (1e-8, 1e-8, 1e-10), "float32": (1e-5, 1e-4, 1e-6)}


def assert_is_torchs(config: ModelConfig, kind: HeadKind, seed: int, dtype: str, rows: Rows = ROWS) -> None:
    """Asserts that packed texts have torch's logits, and every parameter torch's gradient, in float64 or float32."""
    of_logits, of_gradient, of_all = TOLERANCES[dtype]
    model = make_torch(config, kind, seed, getattr(torch, dtype))
    table = FAMILIES[config.model_type].table_with_head(kind, config)
    with jax.enable_x64(dtype == "float64"):
        task, graph, abstract = make_abstract(config, kind, Runtime(np.dtype(dtype)))
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, np.dtype(dtype)) for name, leaf in abstract.items()
        }
        tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        parameters, report = load_weights(table, tensors, abstract)
        assert not report.new
        batch, texts = random_batch(config, seed, rows)
        theirs = torch_logits(model, texts)
        # A weighted sum of the logits, for every one of them to have a gradient.
        weights = np.random.default_rng(seed).normal(size=theirs.shape).astype(dtype)
        is_token = texts["attention_mask"].numpy() > 0
        if theirs.ndim == 3:
            weights *= is_token[..., None]
        (theirs * torch.tensor(weights)).sum().backward()

        def loss(tree):
            logits = task.logits(nnx.merge(graph, tree), batch)
            return (logits * pack(weights, rows)).sum(), logits

        gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(parameter_paths.unflatten(parameters))
        assert logits.dtype == dtype
        ours, theirs = unpack(np.asarray(logits), rows), theirs.detach().numpy()
        if theirs.ndim == 3:
            theirs = theirs * is_token[..., None]
        assert distance(ours, theirs) <= of_logits * np.linalg.norm(theirs)
        their_gradients = {
            name: np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if name not in UNUSED or parameter.grad is not None
        }
        expected, _ = load_weights(table, their_gradients, abstract)
        for rule in table.rules:
            if rule.unused is not None and rule.parameter in expected:
                expected[rule.parameter][0] = 0  # the first layer does not read it
        ours = parameter_paths.flatten(gradients)
        total = np.sqrt(sum(float((gradient**2).sum()) for gradient in expected.values()))
        assert ours.keys() == expected.keys()
        for path, gradient in expected.items():
            norm = np.linalg.norm(gradient)
            assert distance(ours[path], gradient) <= of_gradient * norm + of_all * total, path


def assert_bfloat16_is_as_near_as_torchs(config: ModelConfig, kind: HeadKind, seed: int) -> None:
    """Asserts that logits in bfloat16 are at most twice as far from the exact ones as torch's in bfloat16."""
    model = make_torch(config, kind, seed)
    batch, texts = random_batch(config, seed)
    is_token = texts["attention_mask"].numpy() > 0
    table = FAMILIES[config.model_type].table_with_head(kind, config)
    task, graph, abstract = make_abstract(config, kind, Runtime(jax.numpy.dtype("bfloat16")))
    tensors = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    parameters, _ = load_weights(table, tensors, abstract)
    with torch.inference_mode():
        exact = torch_logits(model, texts).numpy()
        theirs = torch_logits(model.to(torch.bfloat16), texts).float().numpy()
    logits = jax.jit(lambda tree: task.logits(nnx.merge(graph, tree), batch))(
        parameter_paths.unflatten(parameters)
    )
    ours = unpack(np.asarray(logits))
    mask = is_token[..., None] if exact.ndim == 3 else 1
    assert 0 < distance(ours * mask, exact * mask) <= 2 * distance(theirs * mask, exact * mask)


def assert_file_comes_back(config: ModelConfig, kind: HeadKind, seed: int) -> None:
    """Asserts that tensors that are loaded and saved are the same, bit for bit, under the names of transformers."""
    model = make_torch(config, kind, seed)
    family = FAMILIES[config.model_type]
    _, _, abstract = make_abstract(config, kind, Runtime())
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    parameters, report = load_weights(family.table_with_head(kind, config), tensors, abstract)
    back = save_weights(family.table_with_head(kind, config), parameters)
    left_out = tensors.keys() - back.keys()
    assert back.keys() <= tensors.keys() and set(report.ignored) == left_out
    places = {
        tensors[name].ctypes.data for name in back
    }  # a tied layer is written once, under its other name
    assert all(name in UNUSED or tensors[name].ctypes.data in places for name in left_out)
    for name, tensor in back.items():
        assert tensor.dtype == np.float32 and tensor.tobytes() == tensors[name].tobytes(), name
