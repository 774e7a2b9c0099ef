"""Running statistics of a model: as PyTorch's after each step, over devices and in a run that is killed."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jaxft.errors import NonFiniteLoss, UserError
from jaxft.inference.evaluate import evaluate_run
from jaxft.layers.convolution.batch_norm import BatchNorm
from jaxft.layers.linear import Linear
from jaxft.layers.runtime import Runtime
from jaxft.parallel.mesh import make_mesh, place_batch
from jaxft.tasks.registry import TASKS
from jaxft.training.loop import train
from jaxft.training.network import make_network
from jaxft.training.optimizer.chain import averaged_parameters
from jaxft.training.run_folder.best import read_best
from jaxft.training.settings import settings_from_config
from jaxft.training.trainer import make_trainer
from tests.interruption import arrays, assert_a_stopped_run_ends_bit_identically, newest
from tests.training.test_task_without_text import Line, LineConfig, settings  # noqa: F401  (a fixture)

CHANNELS, MOMENTUM, EPSILON = 4, 0.3, 1e-3
STATISTICS = [
    f"{layer}/norm/running_{name}" for layer in ("first", "second") for name in ("mean", "variance")
]
ROWS, STEPS = 16, 4


class Layer(nnx.Module):
    """A convolution of size 1, batch normalization, and a rectifier."""

    def __init__(self, in_channels, rngs):
        self.convolution = Linear(in_channels, CHANNELS, initializer_range=0.5, rngs=rngs)
        self.norm = BatchNorm(CHANNELS, EPSILON, MOMENTUM)

    def __call__(self, x, row_weights, training):
        return jax.nn.relu(self.norm(self.convolution(x), row_weights, training))


class Network(nnx.Module):
    """An image of two pixels with one channel, to one number."""

    def __init__(self, rngs):
        self.first, self.second = Layer(1, rngs), Layer(CHANNELS, rngs)
        self.head = Linear(CHANNELS, 1, initializer_range=0.5, rngs=rngs)

    def __call__(self, pixels, row_weights, training):
        x = pixels[:, None, :, None]
        for layer in (self.first, self.second):
            x = layer(x, row_weights, training)
        return self.head(x.mean((1, 2)))


class Images(Line):
    def build_model(self, model_config, runtime, rngs):
        return Network(rngs)

    def loss(self, model, batch, dropout):
        outputs = model(batch["x"], batch["weights"], dropout is not None)[:, 0]
        return jnp.sum(batch["weights"] * (outputs - batch["y"]) ** 2), jnp.sum(batch["weights"])

    def predict(self, model, batch):
        return {"y": model(batch["x"], batch["weights"], False)[:, 0]}, *self.loss(model, batch, None)


@pytest.fixture
def images(settings, monkeypatch):  # noqa: F811
    """The settings of a run of images, for `settings_from_config`."""
    monkeypatch.setitem(TASKS, "line", dataclasses.replace(TASKS["line"], task=f"{__name__}:Images"))
    return settings | {"model.unroll": "no"}


# ---- the step


def make_test_trainer(**values):
    plain = {"optim.name": "sgd", "optim.lr": 0.1, "optim.schedule": "constant", "optim.weight_decay": 0.0}
    plain |= {"optim.momentum": 0.0, "optim.clip": 0.0}
    config = settings_from_config({"task": "token_classification"} | plain | values)
    net = make_network(Images([], config, 0.0), LineConfig(), Runtime(), make_mesh(config))
    return make_trainer(net, config, total=10, warmup=0)


def batch(number):
    rng = np.random.default_rng(number)
    x, weights = rng.normal(1, 2, (ROWS, 2)), np.ones(ROWS)
    weights[-3:] = 0
    arrays = {"x": x, "y": np.sin(x[:, 0]), "weights": weights}
    return {name: value.astype(np.float32) for name, value in arrays.items()}


@functools.cache
def first_parameters():
    return jax.tree.map(np.array, make_test_trainer().net.new_parameters(jnp.uint32(0)))


def run(trainer):
    """Returns the state after each step, as parameters and statistics by path, and the last state."""
    state = trainer.new_state(jax.tree.map(jnp.array, first_parameters()))
    states = []
    for number in range(STEPS):
        arrays = place_batch(batch(number), trainer.net.mesh)
        state, _ = trainer.train_step(state, arrays, trainer.hyperparameters)
        states.append(jax.tree.map(np.asarray, state.trainable | state.frozen | state.model_state))
    return states, state


def run_in_torch(microbatches, fixed=(), frozen=()):
    """Returns what `run` does, by PyTorch.

    Args:
      microbatches: the number of microbatches of a step.
      fixed: the layers whose parameters are not trained.
      frozen: the layers in evaluation mode.
    """
    layers = {}
    for name, inputs in (("first", 1), ("second", CHANNELS)):
        norm = torch.nn.BatchNorm2d(CHANNELS, EPSILON, MOMENTUM)
        layers[name] = torch.nn.Sequential(torch.nn.Conv2d(inputs, CHANNELS, 1), norm, torch.nn.ReLU())
    layers["head"] = torch.nn.Linear(CHANNELS, 1)
    tensors = {"head/kernel": layers["head"].weight, "head/bias": layers["head"].bias}
    for name in ("first", "second"):
        convolution, norm, _ = layers[name]
        tensors |= {
            f"{name}/convolution/kernel": convolution.weight,
            f"{name}/convolution/bias": convolution.bias,
        }
        tensors |= {f"{name}/norm/scale": norm.weight, f"{name}/norm/bias": norm.bias}
        tensors |= {f"{name}/norm/running_mean": norm.running_mean}
        tensors |= {f"{name}/norm/running_variance": norm.running_var}
        layers[name].train(name not in frozen).requires_grad_(name not in fixed)
    with torch.no_grad():
        for name, value in first_parameters().items():
            tensors[name][:] = torch.tensor(value.T).reshape(tensors[name].shape)
    trained = [tensor for tensor in tensors.values() if tensor.requires_grad]
    optimizer, states = torch.optim.SGD(trained, 0.1), []
    for number in range(STEPS):
        arrays = batch(number)
        weight = arrays["weights"].sum()
        for micro in range(microbatches):
            rows = slice(micro * ROWS // microbatches, (micro + 1) * ROWS // microbatches)
            counted = arrays["weights"][rows] > 0
            x, y = (torch.tensor(arrays[name][rows][counted]) for name in "xy")
            x = layers["second"](layers["first"](x[:, None, None]))
            outputs = layers["head"](x.mean((2, 3)))[:, 0]
            (torch.sum((outputs - y) ** 2) / weight).backward()
        optimizer.step()
        optimizer.zero_grad()
        states.append(
            {
                name: tensor.detach().numpy().reshape(first_parameters()[name].shape[::-1]).T.copy()
                for name, tensor in tensors.items()
            }
        )
    return states


def assert_close(ours, theirs):
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


def test_each_microbatch_uses_and_moves_the_statistics_in_turn_as_in_torch():
    """Two of them, the second with rows that do not count; averages of statistics follow them as those of weights."""
    states, last = run(make_test_trainer(**{"batch.accumulate": 2, "optim.ema": 0.9}))
    expected = run_in_torch(2)
    for ours, theirs in zip(states, expected, strict=True):
        assert_close(ours, theirs)
    assert sorted(last.model_state) == sorted(STATISTICS)
    average = first_parameters()
    for step, theirs in enumerate(expected, 1):
        share = min(0.9, (1 + step) / (10 + step))
        average = {name: share * old + (1 - share) * theirs[name] for name, old in average.items()}
    assert_close(averaged_parameters(last.opt_state), average)
    assert_close(make_test_trainer(**{"optim.ema": 0.9}).parameters_to_keep(last), average)


@pytest.mark.parametrize(
    "freeze, theirs",
    [
        ("^first/", {"fixed": ["first"], "frozen": ["first"]}),
        ("/running_", {"frozen": ["first", "second"]}),
        ("^first/.*/(kernel|scale|bias)", {"fixed": ["first"]}),
    ],
)
def test_statistics_are_frozen_if_a_pattern_matches_them(freeze, theirs):
    trainer = make_test_trainer(**{"optim.freeze": (freeze,)})
    states, last = run(trainer)
    assert_close(states[-1], run_in_torch(1, **theirs)[-1])
    frozen = [name for name in STATISTICS if name in last.frozen]
    assert len(frozen) == 2 * len(theirs.get("frozen", []))
    for name in last.frozen:
        np.testing.assert_array_equal(last.frozen[name], first_parameters()[name])
    back = trainer.form.from_saved(trainer.to_saved(last))
    assert jax.tree.structure(back) == jax.tree.structure(last)


def test_statistics_alone_are_nothing_to_train():
    with pytest.raises(UserError, match="nothing is trained"):
        make_test_trainer(**{"optim.freeze": ("kernel", "bias", "scale")})


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1] + "/..")
from tests.training.test_statistics import *

trainer = make_test_trainer()
assert trainer.net.mesh.size == 8
states, last = run(trainer)
assert last.model_state[STATISTICS[0]].sharding.is_fully_replicated
print(json.dumps(jax.tree.map(lambda value: value.tolist(), states)))
"""


def test_eight_devices_have_the_statistics_of_one(on_eight_devices):
    """Also those devices whose rows do not count."""
    states, _ = run(make_test_trainer())
    for ours, theirs in zip(on_eight_devices(SCRIPT), states, strict=True):
        assert_close(ours, theirs)


# ---- the run


def test_a_run_keeps_its_statistics_and_one_that_was_stopped_ends_bit_identically(
    images, tmp_path, monkeypatch
):
    config = settings_from_config(images | {"train.epochs": 4, "optim.ema": 0.9})
    folder = tmp_path / "run"
    summary = train(config, folder)
    best, last = read_best(folder), arrays(newest(folder / "checkpoints"))
    for name in STATISTICS:
        assert best[name].any() and not np.array_equal(best[name], np.ones(CHANNELS))
        [saved] = [value for path, value in last.items() if "frozen" in path and name in path]
        assert not np.array_equal(best[name], saved)  # the average, and the last
    assert_a_stopped_run_ends_bit_identically(config, folder, tmp_path / "stopped", monkeypatch, at=10)

    points = [json.loads(line) for line in open(images["data.dev"])]
    x, y = np.array([x for x, _ in points])[..., None], np.array([y for _, y in points])
    for layer in ("first", "second"):
        values = {name.removeprefix(f"{layer}/"): value for name, value in best.items()}
        x = x @ values["convolution/kernel"] + values["convolution/bias"] - values["norm/running_mean"]
        x = x / np.sqrt(values["norm/running_variance"] + EPSILON) * values["norm/scale"]
        x = np.maximum(x + values["norm/bias"], 0)
    outputs = x.mean(1) @ best["head/kernel"] + best["head/bias"]
    loss = np.mean((outputs[:, 0] - y) ** 2)
    assert summary["dev"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert evaluate_run(folder, images["data.dev"])["loss"] == pytest.approx(loss, rel=1e-4)


def test_a_batch_whose_statistics_overflow_ends_the_run_and_reaches_no_checkpoint(images, tmp_path):
    """Batch normalization makes large numbers small: the loss would be finite, and the running variance not."""
    with open(images["data.train"], "a") as file:
        file.write("[[1e30, 0], 0]\n")
    with pytest.raises(NonFiniteLoss, match="the batch is in"):
        train(settings_from_config(images | {"checkpoint.every_steps": 1}), tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").glob("[0-9]*"):
        assert all(np.isfinite(value).all() for value in arrays(folder).values())
