"""Update rules: each is optax's optimizer, with the layers of a stack as arrays of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft.config.optim import OPTIMIZERS
from jaxft.layers.parameters import Kind, Role
from jaxft.layers.transformer.layer_stacks import stack, unstack
from jaxft.training.optimizer.chain import make_optimizer
from jaxft.training.optimizer.schedules import learning_rate, make_hyperparameters
from jaxft.training.settings import settings_from_config

LAYERS = 2
WIDTH, WIDE = 8, 129  # a matrix of which Adafactor keeps sums over rows and columns is 128 wide or more
SHAPES = {
    "backbone/embeddings/word/embedding": (11, WIDTH),
    "backbone/embeddings/norm/scale": (WIDTH,),
    "backbone/layers/up/kernel": (LAYERS, WIDTH, 2 * WIDTH),
    "backbone/layers/down/kernel": (LAYERS, 2 * WIDTH, WIDTH),
    "backbone/layers/up/bias": (LAYERS, 2 * WIDTH),
    "head/kernel": (WIDTH, 3),
    "head/bias": (3,),
}
WIDE_SHAPES = SHAPES | {"backbone/layers/up/kernel": (LAYERS, WIDE, 2 * WIDE), "head/kernel": (WIDE, WIDE)}
KINDS = {"kernel": Kind.KERNEL, "embedding": Kind.VOCABULARY, "scale": Kind.NORM, "bias": Kind.BIAS}
ROLES = {name: Role(KINDS[name.rpartition("/")[2]]) for name in SHAPES}
STEPS, DECAY = 3, 0.1


def random_trees(count: int, shapes=SHAPES) -> list[dict[str, jax.Array]]:
    rng = np.random.default_rng(0)
    return [
        {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def decays(tree):
    """Returns which leaves decay, of parameters with layers apart."""
    return {name: jax.tree.map(lambda _, n=name: ROLES[n].is_matrix, value) for name, value in tree.items()}


def optax_alone(name, rate, values):
    """Returns optax's optimizer, for parameters with layers apart."""
    masked = {"weight_decay": DECAY, "mask": decays}
    if name == "adamw":
        return optax.adamw(rate, 0.8, 0.9, **masked)
    if name == "lamb":
        return optax.lamb(rate, 0.8, 0.9, eps=1e-8, **masked)
    if name == "lion":
        return optax.lion(rate, 0.8, 0.95, **masked)
    if name == "sgd":
        decay = optax.add_decayed_weights(DECAY, mask=decays)
        return optax.chain(
            optax.trace(values["momentum"], values["nesterov"]), decay, optax.scale_by_learning_rate(rate)
        )
    if name == "adafactor":  # optax does not multiply its decay by the rate, and so has none here
        scale = values.get("parameter_scale", False)
        return optax.adafactor(rate, multiply_by_parameter_scale=scale, momentum=values["momentum"] or None)
    kernels = lambda tree: {  # noqa: E731
        n: jax.tree.map(
            lambda _, n=n: "muon" if ROLES[n].kind is Kind.KERNEL and n.startswith("backbone/") else "adamw",
            v,
        )
        for n, v in tree.items()
    }
    muon = optax.contrib.muon(rate, beta=0.9, weight_decay=DECAY, consistent_rms=0.2)
    return optax.partition({"muon": muon, "adamw": optax.adamw(rate, 0.8, 0.9, **masked)}, kernels)


def train(optimizer, parameters, gradients):
    @jax.jit
    def step(parameters, state, gradient):
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state

    state = optimizer.init(parameters)
    for gradient in gradients:
        parameters, state = step(parameters, state, gradient)
    return parameters, state


VALUES = {
    "adamw": {"b1": 0.8, "b2": 0.9},
    "sgd": {"momentum": 0.8, "nesterov": True},
    "adafactor": {"momentum": 0.0, "weight_decay": 0.0},
    "lion": {"b1": 0.8, "momentum": 0.95},
    "muon": {"momentum": 0.9, "b1": 0.8, "b2": 0.9},
    "lamb": {"b1": 0.8, "b2": 0.9},
}
CASES = [(name, VALUES[name], "linear") for name in OPTIMIZERS]
CASES += [("adafactor", {"momentum": 0.7, "weight_decay": 0.0, "parameter_scale": True}, "constant")]


@pytest.mark.parametrize(("name", "values", "schedule"), CASES)
def test_steps_are_those_of_optax_alone(name, values, schedule):
    """From parameters in stacks, and with layers apart; state is kept in the same form and size."""
    chosen = {"name": name, "lr": 0.1, "weight_decay": DECAY, "schedule": schedule} | values
    config = settings_from_config(
        {"task": "token_classification"} | {f"optim.{key}": value for key, value in chosen.items()}
    )
    hyper = make_hyperparameters(config, total=10, warmup=0)
    start, *gradients = random_trees(1 + STEPS, WIDE_SHAPES if name == "adafactor" else SHAPES)
    ours = make_optimizer(config, hyper, ROLES, LAYERS)
    stacked, state = train(ours, start, gradients)
    unstacked, unstacked_state = train(ours, unstack(start), [unstack(gradient) for gradient in gradients])
    theirs = optax_alone(name, lambda step: learning_rate(schedule, hyper, step), values)
    expected, _ = train(theirs, unstack(start), [unstack(gradient) for gradient in gradients])
    for path, value in stack(expected).items():
        for form in (stacked, stack(unstacked)):
            np.testing.assert_allclose(form[path], value, rtol=2e-5, atol=2e-5, err_msg=path)
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (state, unstacked_state)]
    assert sizes[0] == sizes[1]
    parameters = sum(leaf.nbytes for leaf in start.values())
    share = {"adamw": 2, "lamb": 2, "sgd": 1, "lion": 1}.get(name)
    if share:
        assert sizes[0] == pytest.approx(share * parameters, rel=0.01)
    elif name == "adafactor" and not values["momentum"]:
        assert sizes[0] < 0.02 * parameters


def test_the_first_moment_may_be_kept_in_bfloat16():
    start, gradient = random_trees(2)
    for name in OPTIMIZERS:
        config = settings_from_config(
            {"task": "token_classification", "optim.name": name, "optim.moments": "bfloat16"}
        )
        ours = make_optimizer(config, make_hyperparameters(config, total=10, warmup=0), ROLES, LAYERS)
        state = jax.eval_shape(ours.init, start)
        halves = [leaf.size for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.bfloat16]
        expected = 0 if name == "adafactor" else sum(leaf.size for leaf in start.values())
        assert sum(halves) == expected, name
        updated = jax.eval_shape(ours.update, gradient, state, start)[1]
        assert jax.tree.map(lambda leaf: leaf.dtype, updated) == jax.tree.map(lambda leaf: leaf.dtype, state)
