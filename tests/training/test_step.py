"""The train step: the same mathematics however a batch is packed, cut or spread; frozen means untouched."""

import dataclasses
import functools
import operator
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.data.batching.batch import Shape
from jaxft.data.batching.output_positions import select_positions
from jaxft.errors import UserError
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.embedding import Embedding, _lookup
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import Runtime
from jaxft.layers.transformer.layer_stacks import stack
from jaxft.losses import cross_entropy
from jaxft.models.bert.config import BertConfig
from jaxft.models.pretrained_model import resolve_model
from jaxft.parallel import memory
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.token_classification.crf import CHAIN, CRFTagging
from jaxft.tasks.token_classification.task import TokenClassification
from jaxft.training import step
from jaxft.training.network import make_network
from jaxft.training.optimizer.chain import averaged_parameters, make_optimizer
from jaxft.training.settings import settings_from_config
from jaxft.training.train_state import to_saved
from jaxft.training.trainer import check_memory, make_trainer

LABELS = ["O", "B-X", "I-X"]
SHAPE = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=32,
    max_positions=16,
    hidden_dropout=0.2,
    attention_dropout=0.2,
    initializer_range=0.1,
)
ROWS, LENGTH = 8, 16
# With the usual tiny eps Adam's first steps are the gradient's sign, and where the gradient is nothing but
# rounding, as that of the keys' bias, so is the step.
SMOOTH = {"optim.lr": 0.01, "optim.eps": 1e-3, "seed": 7}


def config_with(**values):
    config = settings_from_config({"task": "token_classification"} | values)
    return config


def network(config=None, kind=TokenClassification, shape=SHAPE, **runtime):
    task = kind(LABELS, config or config_with(), head_dropout=0.2)
    mesh = make_mesh(config_with())
    return make_network(task, shape, Runtime(**runtime), mesh)


@functools.cache
def _start() -> dict[str, np.ndarray]:
    return jax.tree.map(np.array, jax.jit(network().new_parameters)(jnp.uint32(0)))


def parameters_of(net) -> dict[str, jax.Array]:
    """The same new parameters for every test; a CRF's chain is 0."""
    start = _start()
    return {
        name: jnp.array(start[name]) if name in start else jnp.zeros(leaf.shape)
        for name, leaf in net.abstract.items()
    }


def batch(seed: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Random rows of two segments and some padding; rows hold differing numbers of labelled tokens."""
    rng = np.random.default_rng(seed)
    cut, end = rng.integers(2, 8, rows), rng.integers(9, LENGTH + 1, rows)
    place = np.arange(LENGTH)[None]
    second = place >= cut[:, None]
    segments = np.where(place < end[:, None], 1 + second, 0)
    arrays = {
        "input_ids": rng.integers(1, 50, (rows, LENGTH)) * (segments > 0),
        "segment_ids": segments,
        "positions": (place - second * cut[:, None]) * (segments > 0),
        "token_type_ids": np.zeros((rows, LENGTH)),
        "labels": rng.integers(0, 3, (rows, LENGTH)),
    }
    weights = (rng.random((rows, LENGTH)) < rng.random((rows, 1))) * (segments > 0)
    return {k: v.astype(np.int32) for k, v in arrays.items()} | {"weights": weights.astype(np.float32)}


def unpack(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The segments of a batch in a row each."""
    rows = []
    for row in range(ROWS):
        for segment in (1, 2):
            slots = np.flatnonzero(packed["segment_ids"][row] == segment)
            alone = {k: np.zeros(LENGTH, v.dtype) for k, v in packed.items()}
            for name, value in packed.items():
                alone[name][: len(slots)] = value[row, slots]
            alone["segment_ids"][: len(slots)] = 1
            rows.append(alone)
    return {k: np.stack([r[k] for r in rows]) for k in packed}


def run(trainer, steps: int = 3, change=lambda arrays: arrays):
    """Metrics and the final state of a few steps. `change` returns the arrays of a batch with a change."""
    state = trainer.new_state(parameters_of(trainer.net))
    metrics = []
    for number in range(steps):
        state, values = trainer.train_step(state, change(batch(number)), trainer.hyperparameters)
        metrics.append({k: float(v) for k, v in values.items()})
    return metrics, state


@pytest.fixture(scope="module")
def plain():
    """A trainer without accumulation, compiled once."""
    return make_trainer(network(), config_with(**SMOOTH), total=10, warmup=0)


def test_microbatches_change_nothing(plain):
    """With dropout on: masks are those of the row in the whole batch."""
    config = config_with(**SMOOTH, **{"batch.accumulate": 4})
    metrics, state = run(make_trainer(network(), config, total=10, warmup=0))
    expected, expected_state = run(plain)
    for ours, theirs in zip(metrics, expected, strict=True):
        assert ours["weight"] == theirs["weight"] > 0
        assert ours == pytest.approx(theirs, rel=2e-5)
    for name, value in state.trainable.items():
        np.testing.assert_allclose(value, expected_state.trainable[name], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("kind", [TokenClassification, pytest.param(CRFTagging, marks=pytest.mark.sweep)])
def test_a_last_layer_of_the_labelled_positions_alone_changes_nothing(plain, kind):
    """Over microbatches, dropout on, and in the network that a CPU trains."""
    accumulate = 2
    config = config_with(**SMOOTH, **{"batch.accumulate": accumulate})
    net = network(kind=kind, unroll=True)
    trainer = make_trainer(net, config, total=10, warmup=0)
    assert net.prunes_outputs and trainer.form.unstacks_layers
    masks = [(batch(number)["weights"] > 0).reshape(accumulate, -1) for number in range(3)]
    count = max(mask.sum(axis=1).max() for mask in masks)
    assert count < ROWS * LENGTH / accumulate
    positions = iter([select_positions(mask, count) for mask in masks])
    metrics, state = run(trainer, change=lambda arrays: arrays | {"output_positions": next(positions)})
    if kind is CRFTagging:
        plain = make_trainer(network(kind=kind), config, total=10, warmup=0)
    expected, expected_state = run(plain)
    for ours, theirs in zip(metrics, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    for name, value in stack(state.trainable).items():
        np.testing.assert_allclose(value, expected_state.trainable[name], atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    "values",
    [
        {"remat": "dots"},
        pytest.param({"remat": "full"}, marks=pytest.mark.sweep),
        pytest.param({"unroll": "yes"}, marks=pytest.mark.sweep),  # the test above has unrolled layers too
        {"dtype": "bfloat16"},
    ],
)
def test_settings_of_the_computation_change_no_result(plain, values):
    """By rounding only, and far less where all is float32; parameters and their state are float32 always."""
    config = config_with(**SMOOTH, **{f"model.{key}": value for key, value in values.items()})
    hf_config = {"model_type": "bert", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2}
    hf_config |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
    _, runtime = resolve_model(config, hf_config)
    settings = {key: getattr(runtime, key) for key in ("remat", "unroll", "dtype")}
    assert settings["unroll"] == ("remat" not in values)  # by "auto" too
    assert {key: settings[key] for key in values} == values | ({"unroll": True} if "unroll" in values else {})
    metrics, state = run(make_trainer(network(**settings), config, total=10, warmup=0))
    expected, expected_state = run(plain)
    for ours, theirs in zip(metrics, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=0.03 if "dtype" in values else 1e-5)
    leaves = jax.tree.leaves((state.trainable, state.opt_state))
    assert {leaf.dtype.name for leaf in leaves if leaf.ndim} == {"float32"}
    for name, value in state.trainable.items():
        np.testing.assert_allclose(
            value, expected_state.trainable[name], atol=5e-3 if "dtype" in values else 1e-5, err_msg=name
        )


@pytest.mark.sweep  # the test of BERT's stack shows it once
def test_recomputing_saves_memory():
    """The compiler's temporaries shrink: XLA for CPUs would undo all of it in unrolled layers."""

    def temporaries(remat: str) -> int:
        config = config_with(**{"model.remat": remat})
        hf_config = {"model_type": "bert", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4}
        hf_config |= {"num_attention_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64}
        shape, runtime = resolve_model(config, hf_config)
        net = network(shape=shape, **dataclasses.asdict(runtime))
        compiled = make_trainer(net, config, total=10, warmup=0).compile(Shape(16, 64))
        return compiled.memory_analysis().temp_size_in_bytes

    none, dots, full = map(temporaries, ("none", "dots", "full"))
    assert none > 1.3 * dots > 1.3 * 1.3 * full


def test_recomputing_that_would_save_nothing_is_refused():
    with pytest.raises(
        UserError, match="remat=dots saves no memory on a CPU with config.model.unroll=yes; use"
    ):
        resolve_model(config_with(**{"model.remat": "dots", "model.unroll": "yes"}), {"model_type": "bert"})


def test_a_model_that_no_memory_holds_is_refused_before_it_is_made(monkeypatch):
    shape = dataclasses.replace(SHAPE, vocab_size=10**8, hidden_size=2**15, num_layers=1000)
    trainer = make_trainer(network(shape=shape), config_with(), total=10, warmup=0)
    message = (
        r"[\d,]+ parameters: weights, optimizer and gradients take [\d,.]+ GiB on each device, which has"
    )
    with pytest.raises(UserError, match=message):
        check_memory(trainer)
    trainer = make_trainer(network(), config_with(), total=10, warmup=0)
    check_memory(trainer)
    monkeypatch.setattr(memory, "CGROUP_LIMIT", pathlib.Path("/dev/null/none"))  # no container
    assert memory.device_memory() > 2**20
    needed = memory.shard_bytes((trainer.abstract, trainer.abstract.trainable))
    assert 0 < needed - 4 * 4 * network().parameter_count < 50  # four arrays of float32, and counters
    monkeypatch.setattr("jaxft.training.trainer.device_memory", lambda: needed - 1)
    with pytest.raises(UserError, match=message):
        check_memory(trainer)


def test_a_state_with_its_layers_apart_is_the_same_state():
    """A state after some steps is stacked, as checkpoints hold it, and taken apart again without a change."""
    stacked_trainer, unstacked_trainer = (
        make_trainer(network(unroll=unroll), config_with(**SMOOTH), total=10, warmup=0)
        for unroll in (False, True)
    )
    assert not stacked_trainer.form.unstacks_layers and unstacked_trainer.form.unstacks_layers
    _, state = run(unstacked_trainer)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(lambda leaf: leaf.shape, unstacked_trainer.abstract)
    name = "backbone/layers/mlp/up/kernel"
    assert isinstance(state.trainable[name], tuple) and isinstance(state.opt_state[0].mu[name], tuple)
    saved = to_saved(state)
    for trainer in (stacked_trainer, unstacked_trainer):
        assert jax.tree.map(jnp.shape, saved) == jax.tree.map(lambda leaf: leaf.shape, trainer.saved)
    back = unstacked_trainer.form.from_saved(saved)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    resaved = to_saved(stacked_trainer.form.from_saved(saved))
    assert all(map(operator.is_, jax.tree.leaves(resaved), jax.tree.leaves(saved)))
    assert (
        state.model_state == {} and "model_state" not in saved._fields
    )  # older checkpoints have no place for it


def test_gradients_in_bfloat16(plain):
    """The matrices' are, before devices or microbatches are added up; parameters and their state stay float32."""
    config = config_with(**SMOOTH, **{"optim.gradients": "bfloat16", "batch.accumulate": 2})
    trainer = make_trainer(network(), config, total=10, warmup=0)
    program = str(trainer.train_step.trace(trainer.abstract, batch(0), trainer.hyperparameters).jaxpr)
    held = re.findall(r":(\w+)\[[\d,]*\] = sharding_constraint\[", program)
    assert held.count("bf16") == sum(role.is_matrix for role in trainer.net.roles.values())
    metrics, state = run(trainer)
    expected, expected_state = run(plain)
    for ours, theirs in zip(metrics, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=0.01)
    leaves = jax.tree.leaves((state.trainable, state.opt_state))
    assert {leaf.dtype.name for leaf in leaves if leaf.ndim} == {"float32"}
    for name, value in state.trainable.items():
        np.testing.assert_allclose(value, expected_state.trainable[name], atol=5e-3, err_msg=name)


def test_a_table_of_bfloat16_adds_its_gradient_up_in_float32():
    """A word that comes 4,096 times: in bfloat16 the sum would stay at 256."""
    table = (
        Embedding(2, 8, initializer_range=1.0, rngs=nnx.Rngs(params=0)).embedding[...].astype(jnp.bfloat16)
    )
    gradient = jax.grad(lambda table: _lookup(table, jnp.zeros(4096, int)).astype(float).sum())(table)
    np.testing.assert_array_equal(gradient.astype(float), [[4096.0] * 8, [0.0] * 8])


def test_dropout_is_on_and_changes_with_row_and_seed():
    net = network()
    parameters = parameters_of(net)
    loss = jax.jit(lambda seed: net.task.loss(step.merge_model(net.graphdef, parameters), batch(0), seed))
    values = {
        float(loss(DropoutSeed(jnp.uint32(seed), jnp.int32(row)))[0]) for seed in (0, 1) for row in (0, 8)
    }
    assert len(values | {float(loss(None)[0])}) == 5


@pytest.mark.parametrize("kind", [TokenClassification, CRFTagging])
def test_packed_and_unpacked_batches_have_one_loss_and_gradient(kind):
    net = network(kind=kind)
    rng = np.random.default_rng(0)
    chain = {name: rng.normal(size=leaf.shape) for name, leaf in net.abstract.items() if name in CHAIN}
    parameters = {name: jnp.array(value, jnp.float32) for name, value in (_start() | chain).items()}
    packed = batch(3)
    unpacked = unpack(packed)

    def mean(parameters, arrays):
        total, weight = net.task.loss(step.merge_model(net.graphdef, parameters), arrays, None)
        return total / weight

    gradient = jax.jit(jax.value_and_grad(mean))
    a, b = (gradient(parameters, arrays) for arrays in (packed, unpacked))
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    for name in parameters:
        np.testing.assert_allclose(a[1][name], b[1][name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_the_gradient_is_that_of_the_mean_over_labelled_tokens(plain):
    """One step by hand: loss of the whole batch, its gradient, AdamW."""
    net, (metrics, once) = plain.net, run(plain, steps=1)
    parameters, arrays = parameters_of(net), batch(0)

    def mean(parameters):
        model = step.merge_model(net.graphdef, parameters)
        logits = model(Inputs.from_batch(arrays), DropoutSeed(jnp.uint32(7), jnp.int32(0)))
        log_probs = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(log_probs, jnp.asarray(arrays["labels"])[..., None], -1)[..., 0]
        return -jnp.sum(picked * arrays["weights"]) / arrays["weights"].sum()

    loss, gradient = jax.jit(jax.value_and_grad(mean))(parameters)
    assert metrics[0]["loss"] == pytest.approx(float(loss), rel=1e-5)
    norm = float(jnp.sqrt(sum(jnp.sum(g * g) for g in gradient.values())))
    assert metrics[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics[0]["lr"] == pytest.approx(0.01)
    optimizer = make_optimizer(config_with(**SMOOTH), plain.hyperparameters, net.roles, SHAPE.num_layers)
    updates, _ = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p))(gradient, parameters)
    moved = {name: parameters[name] + updates[name] for name in parameters}
    for name, value in moved.items():
        np.testing.assert_allclose(once.trainable[name], value, atol=1e-5, err_msg=name)


def test_a_batch_without_labels_moves_nothing_but_decay(plain):
    empty = {k: np.zeros_like(v) for k, v in batch(0).items()}
    state = plain.new_state(parameters_of(plain.net))
    state, metrics = plain.train_step(state, empty, plain.hyperparameters)
    assert float(metrics["loss"]) == 0 and float(metrics["grad_norm"]) == 0
    for name, value in state.trainable.items():
        decay = 1 - 0.01 * 0.01 if plain.net.roles[name].is_matrix else 1
        np.testing.assert_allclose(value, _start()[name] * decay, rtol=1e-6, err_msg=name)


def test_frozen_parameters_have_no_gradient_no_state_and_do_not_move():
    net = network()
    frozen = {n for n in net.abstract if "embeddings" in n or "attention/" in n}
    config = config_with(**SMOOTH, **{"optim.freeze": ("embeddings", "attention/")})
    before = _start()
    _, state = run(make_trainer(net, config, total=10, warmup=0))
    assert set(state.frozen) == frozen and frozen.isdisjoint(state.trainable)
    paths = {
        entry.key
        for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)
        for entry in path
        if isinstance(entry, jax.tree_util.DictKey)
    }
    assert paths == set(net.abstract) - frozen
    for name in frozen:
        assert np.array(state.frozen[name]).tobytes() == before[name].tobytes()
    assert all(np.any(np.array(v) != before[name]) for name, v in state.trainable.items())


def test_the_average_of_weights_is_the_one_kept_by_hand_and_changes_no_step(plain):
    """Frozen parameters are not averaged; d is min(0.3, (1 + t) / (10 + t)) after step t."""
    config = config_with(**SMOOTH, **{"optim.ema": 0.3, "optim.freeze": ("embeddings",)})
    trainer = make_trainer(network(), config, total=10, warmup=0)
    state = trainer.new_state(parameters_of(trainer.net))
    by_hand = jax.tree.map(np.array, state.trainable)
    for number, d in enumerate((2 / 11, 3 / 12, 0.3)):
        state, _ = trainer.train_step(state, batch(number), trainer.hyperparameters)
        by_hand = {n: d * old + (1 - d) * np.array(state.trainable[n]) for n, old in by_hand.items()}
    average = averaged_parameters(state.opt_state)
    assert average.keys() == state.trainable.keys() and averaged_parameters(plain.abstract.opt_state) is None
    for name, value in average.items():
        np.testing.assert_allclose(value, by_hand[name], rtol=1e-5, atol=1e-7, err_msg=name)
    _, without = run(
        make_trainer(
            network(), config_with(**SMOOTH, **{"optim.freeze": ("embeddings",)}), total=10, warmup=0
        )
    )
    for name, value in without.trainable.items():
        np.testing.assert_allclose(state.trainable[name], value, atol=1e-7, err_msg=name)
        if name.endswith("kernel"):
            assert np.abs(np.array(average[name]) - np.array(value)).max() > 1e-4


def test_label_smoothing_and_class_weights_reach_the_loss():
    arrays = batch(1)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, LENGTH, 3)), jnp.float32)

    def model(*_, **__):
        return logits

    for values in ({"loss.label_smoothing": 0.2}, {"loss.class_weights": (("O", 0.25), ("B-X", 3.0))}):
        task = TokenClassification(LABELS, config_with(**values), head_dropout=0.1)
        weights = np.array([0.25, 3.0, 1.0]) if "loss.class_weights" in values else None
        expected = cross_entropy.cross_entropy(
            logits,
            arrays["labels"],
            arrays["weights"],
            label_smoothing=values.get("loss.label_smoothing", 0.0),
            class_weights=weights,
        )
        assert jnp.allclose(jnp.stack(task.loss(model, arrays, None)), jnp.stack(expected), rtol=1e-6)


def test_the_focus_reaches_the_loss():
    """As Lin et al. 2017, equation 4, has it, in float64 over the labelled words."""
    arrays, gamma = batch(1), 1.5
    logits = np.random.default_rng(0).normal(size=(ROWS, LENGTH, 3)) * 2
    task = TokenClassification(LABELS, config_with(**{"loss.focal_gamma": gamma}), head_dropout=0.1)
    loss, weight = task.loss(lambda *_, **__: jnp.asarray(logits, jnp.float32), arrays, None)
    words = arrays["weights"] > 0
    scores = np.exp(logits[words])
    p = scores[np.arange(len(scores)), arrays["labels"][words]] / scores.sum(axis=1)
    assert float(loss) == pytest.approx(-((1 - p) ** gamma * np.log(p)).sum(), rel=1e-5)
    assert float(weight) == len(p)
