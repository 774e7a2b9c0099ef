"""The optimizer: steps as torch's AdamW, rules by path, and what is added to every update rule."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxft.adapters.prefix import PrefixEncoder
from jaxft.adapters.prompt import Prompt
from jaxft.config.adapter import Adapter
from jaxft.errors import UserError
from jaxft.layers.parameters import Kind, Role, read_roles
from jaxft.layers.runtime import PLAIN_RUNTIME
from jaxft.layers.transformer.layer_stacks import stack, unstack
from jaxft.models.registry import FAMILIES, make_backbone
from jaxft.training.optimizer.chain import make_optimizer
from jaxft.training.optimizer.parameter_rules import make_rate_factors, split_frozen
from jaxft.training.optimizer.schedules import make_hyperparameters
from jaxft.training.settings import settings_from_config
from jaxft.training.step import clip_factor

NAMES = {
    "backbone/embeddings/word/embedding": (11, 4),
    "backbone/embeddings/norm/scale": (4,),
    "backbone/layers/attention/query/kernel": (2, 4, 4),
    "backbone/layers/attention/query/bias": (2, 4),
    "backbone/layers/mlp_norm/bias": (2, 4),
    "head/kernel": (4, 3),
    "head/bias": (3,),
}
LAYERS = 2
KINDS = {"kernel": Kind.KERNEL, "embedding": Kind.VOCABULARY, "scale": Kind.NORM, "bias": Kind.BIAS}
ROLES = {name: Role(KINDS[name.rpartition("/")[2]]) for name in NAMES}


def config_with(**values):
    values = {f"optim.{name}": value for name, value in values.items()}
    return settings_from_config({"task": "token_classification"} | values)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_ten_steps_are_those_of_torch(clip):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in NAMES.items()}
    gradients = [
        {
            n: (v * rng.normal(size=v.shape)).astype(np.float32) * 10 ** rng.uniform(-3, 1)
            for n, v in start.items()
        }
        for _ in range(10)
    ]
    lr_multipliers = ((r"^head/", 10.0), (r".", 1.0))
    config = config_with(lr=0.02, weight_decay=0.1, clip=clip, lr_multipliers=lr_multipliers)
    hyper = make_hyperparameters(config, total=10, warmup=3)
    optimizer = make_optimizer(config, hyper, ROLES, LAYERS)

    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    decayed = lambda name: name.endswith(("kernel", "embedding"))  # noqa: E731
    groups = [
        {
            "params": [theirs[name]],
            "lr": 0.02 * (10 if name.startswith("head") else 1),
            "weight_decay": 0.1 if decayed(name) else 0.0,
        }
        for name in start
    ]
    adamw = torch.optim.AdamW(groups)
    scheduler = transformers.get_scheduler("linear", adamw, num_warmup_steps=3, num_training_steps=10)

    ours = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(ours)
    for gradient in gradients:
        factor = clip_factor(optax.tree.norm(gradient), hyper.clip)
        updates, state = optimizer.update(jax.tree.map(lambda g: g * factor, gradient), state, ours)  # noqa: B023
        ours = jax.tree.map(jnp.add, ours, updates)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradient[name])
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
        adamw.step()
        scheduler.step()
        for name, parameter in theirs.items():
            np.testing.assert_allclose(
                ours[name], parameter.detach().numpy(), rtol=1e-4, atol=1e-5, err_msg=name
            )


def test_decay_pulls_on_matrices_only():
    config = config_with(lr=0.1, weight_decay=0.5, schedule="constant")
    hyper = make_hyperparameters(config, total=10, warmup=0)
    optimizer = make_optimizer(config, hyper, ROLES, LAYERS)
    ones = {name: jnp.ones(shape) for name, shape in NAMES.items()}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, ones), optimizer.init(ones), ones)
    moved = {name for name, update in updates.items() if np.any(update)}
    assert moved == {
        "backbone/embeddings/word/embedding",
        "backbone/layers/attention/query/kernel",
        "head/kernel",
    }


def test_rules_that_can_only_be_mistakes_are_refused():
    with pytest.raises(UserError, match=r"config.optim.freeze: the pattern 'encoder' matches nothing"):
        split_frozen(config_with(freeze=("encoder",)), ROLES)
    with pytest.raises(UserError, match=r"freezes every parameter; nothing is trained"):
        split_frozen(config_with(freeze=("backbone", "head")), ROLES)
    with pytest.raises(UserError, match=r"config.optim.lr_multipliers: no pattern matches"):
        config = config_with(lr_multipliers=(("^head", 2.0),))
        make_optimizer(config, make_hyperparameters(config, total=1, warmup=0), ROLES, LAYERS)
    with pytest.raises(UserError, match=r"warmup is 30 steps, but the run has 20"):
        make_hyperparameters(config_with(), total=20, warmup=30)


def moves(steps: int = 1, layers: str = "stacked", **values) -> tuple[dict, dict]:
    """Returns random parameters, and what they are after some steps in which every gradient is 1.

    Without moments, an update of Adam is the gradient's sign.
    """
    config = config_with(
        **{"lr": 0.1, "schedule": "constant", "weight_decay": 0.0, "b1": 0.0, "b2": 0.0} | values
    )
    optimizer = make_optimizer(config, make_hyperparameters(config, total=10, warmup=0), ROLES, LAYERS)
    rng = np.random.default_rng(0)
    start = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in NAMES.items()}
    parameters = unstack(start) if layers == "apart" else start
    state = optimizer.init(parameters)
    for _ in range(steps):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, parameters), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return jax.tree.map(np.asarray, start), jax.tree.map(np.asarray, stack(parameters))


@pytest.mark.parametrize("layers", ["stacked", "apart"])
def test_rates_fall_from_layer_to_layer_below_the_head(layers):
    """Layer i of n has d^(n - i), embeddings d^(n + 1); explicit multipliers multiply it."""
    factors = (("^head/", 3.0), (".", 1.0))
    start, moved = moves(layers=layers, layer_decay=0.5, lr_multipliers=factors)
    for name, value in moved.items():
        factor = np.array([0.25, 0.5]) if "/layers/" in name else 3.0 if name.startswith("head/") else 0.125
        expected = -0.1 * np.reshape(factor, (-1, *[1] * (value.ndim - 1)) if np.ndim(factor) else ())
        np.testing.assert_allclose(value - start[name], np.broadcast_to(expected, value.shape), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "below", "above"),
    [
        ("mpnet", {"pooler": True}, {"embeddings", "relative_bias"}, {"pooler"}),
        ("electra", {}, {"embeddings", "projection"}, set()),
        ("gpt2", {}, {"embeddings"}, {"norm"}),
    ],
)
def test_rates_are_the_least_of_all_that_the_first_layer_reads(name, options, below, above):
    config = FAMILIES[name].config_class(num_layers=LAYERS)
    backbone = nnx.eval_shape(lambda: make_backbone(config, PLAIN_RUNTIME, rngs=nnx.Rngs(0), **options))
    roles = {f"backbone/{path}": role for path, role in read_roles(backbone).items()}
    factors = make_rate_factors(config_with(layer_decay=0.5), roles, LAYERS)
    modules = {0.125: set(), 1.0: set()}
    for path, factor in factors.items():
        if "/layers/" not in path:
            modules[factor].add(path.split("/")[1])
    assert modules == {0.125: below, 1.0: above}


@pytest.mark.parametrize("has_projection", [False, True])
def test_a_prefix_has_the_rates_of_its_layers_and_a_prompt_that_of_embeddings(has_projection):
    size, count = 4, 3
    settings = Adapter("prefix", num_virtual_tokens=count, prefix_projection=has_projection)
    modules = {
        "backbone/adapter": PrefixEncoder(LAYERS, size, settings, nnx.Rngs(0)),
        "backbone/embeddings/word/adapter": Prompt(count, size, rngs=nnx.Rngs(0)),
    }
    roles, start = {}, {}
    for path, module in modules.items():
        roles |= {f"{path}/{name}": role for name, role in read_roles(module).items()}
        start |= {f"{path}/{name[0]}": v[...] for name, v in nnx.to_flat_state(nnx.state(module))}
    config = config_with(lr=0.1, schedule="constant", b1=0.0, b2=0.0, weight_decay=0.0, layer_decay=0.5)
    optimizer = make_optimizer(config, make_hyperparameters(config, total=10, warmup=0), roles, LAYERS)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, start), optimizer.init(start), start)
    moved = {name: -np.asarray(update) / 0.1 for name, update in updates.items()}
    of_layers = {"up", "up_bias"} if has_projection else {"embedding"}
    keys_and_values = np.repeat([0.25, 0.5], 2 * size)  # of layer 0 before those of layer 1
    for name, factor in moved.items():
        is_of_layers = name.startswith("backbone/adapter/") and name.rpartition("/")[2] in of_layers
        expected = keys_and_values if is_of_layers else 0.125
        np.testing.assert_allclose(factor, np.broadcast_to(expected, factor.shape), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("layers", ["stacked", "apart"])
def test_the_pull_to_the_start_is_a_decay_of_the_distance(layers):
    """By hand, and not rescaled by Adam. The head, which is new, is not pulled."""
    start, moved = moves(steps=3, layers=layers, pull_to_start=0.5)
    for name, value in moved.items():
        expected = start[name].astype(np.float64)
        for _ in range(3):
            distance = expected - start[name] if name.startswith("backbone/") else 0
            expected = expected - 0.1 * (1 + 0.5 * distance)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("layers", ["stacked", "apart"])
def test_l1_makes_small_weights_of_matrices_exactly_zero(layers):
    """The distance to 0 that it takes off follows the rates of layers."""
    start, moved = moves(layers=layers, l1=5.0, layer_decay=0.5)
    for name, value in moved.items():
        factor = np.array([0.25, 0.5]) if "/layers/" in name else 1.0 if name.startswith("head/") else 0.125
        rate = 0.1 * np.reshape(factor, (-1, *[1] * (value.ndim - 1)) if np.ndim(factor) else ())
        expected = start[name] - rate
        if ROLES[name].is_matrix:
            expected = np.sign(expected) * np.maximum(np.abs(expected) - 5.0 * rate, 0)
            np.testing.assert_array_equal(value == 0, expected == 0)
            assert 0 < np.mean(value == 0) < 1
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("schedule", ["polynomial", "warmup_stable_decay"])
def test_rates_decays_and_lengths_are_arguments_of_the_program(schedule):
    programs = set()
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in NAMES.items()}
    for factor in (1, 2):
        rates = {"lr": 0.01, "l1": 0.1, "pull_to_start": 0.2, "weight_decay": 0.3, "clip": 0.5}
        rates |= {"power": 0.5} if schedule == "polynomial" else {}
        config = config_with(schedule=schedule, **{name: rate * factor for name, rate in rates.items()})
        hyper = make_hyperparameters(config, total=20 * factor, warmup=3 * factor, cooldown=5 * factor)
        make = functools.partial(make_optimizer, config, trainable=ROLES, num_layers=LAYERS)
        state = jax.eval_shape(make(hyper).init, tree)

        def update(hyper, state, tree, make=make):
            return make(hyper).update(tree, state, tree)

        programs.add(str(jax.make_jaxpr(update)(hyper, state, tree)))
    assert len(programs) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"nesterov": True},
            "config.optim.nesterov=True is a setting of sgd; this run's config.optim.name is 'adamw'",
        ),
        ({"name": "sgd", "b2": 0.9}, "config.optim.b2=0.9 is a setting of adamw and muon and lamb"),
        (
            {"power": 2.0},
            "config.optim.power=2.0 is a setting of polynomial; this run's config.optim.schedule is 'lin",
        ),
    ],
)
def test_a_setting_that_the_run_does_not_read_is_refused(values, message):
    with pytest.raises(UserError, match=re.escape(message)):
        config_with(**values)
