"""The optimizer: steps as torch's AdamW, rates as Hugging Face's schedules, rules by path."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft.errors import UserError
from jaxft.layers.parameters import Kind, Role
from jaxft.training import optimizer as optim
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
KINDS = {"kernel": Kind.KERNEL, "embedding": Kind.VOCABULARY, "scale": Kind.NORM, "bias": Kind.BIAS}
ROLES = {name: Role(KINDS[name.rpartition("/")[2]]) for name in NAMES}


def config_with(**values):
    values = {f"optim.{name}": value for name, value in values.items()}
    return settings_from_config({"task": "token_classification"} | values)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 3, 20])
def test_rates_are_those_of_transformers(schedule, warmup):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = transformers.get_scheduler(name, theirs, num_warmup_steps=warmup, num_training_steps=20)
    hyper = optim.make_hyperparameters(config_with(lr=0.3), total=20, warmup=warmup)
    for step in range(20):
        ours = optim.learning_rate(schedule, hyper, jnp.int32(step))
        assert float(ours) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-5, abs=1e-8), step
        theirs.step()
        scheduler.step()


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
    hyper = optim.make_hyperparameters(config, total=10, warmup=3)
    optimizer = optim.make_optimizer(config, hyper, ROLES)

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
    hyper = optim.make_hyperparameters(config, total=10, warmup=0)
    optimizer = optim.make_optimizer(config, hyper, ROLES)
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
        optim.split_frozen(config_with(freeze=("encoder",)), list(NAMES))
    with pytest.raises(UserError, match=r"freezes every parameter; nothing is trained"):
        optim.split_frozen(config_with(freeze=("backbone", "head")), list(NAMES))
    with pytest.raises(UserError, match=r"config.optim.lr_multipliers: no pattern matches"):
        config = config_with(lr_multipliers=(("^head", 2.0),))
        optim.make_optimizer(config, optim.make_hyperparameters(config, total=1, warmup=0), ROLES)
    with pytest.raises(UserError, match=r"warmup is 30 steps, but the run has 20"):
        optim.make_hyperparameters(config_with(), total=20, warmup=30)
