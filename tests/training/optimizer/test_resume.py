"""The state of every optimizer survives a checkpoint to the bit: what comes after it does not notice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import SingleDeviceSharding

from jaxft.config.optim import OPTIMIZERS
from jaxft.layers.transformer.layer_stacks import map_parameter_dicts, stack, unstack
from jaxft.training.optimizer.chain import make_optimizer
from jaxft.training.optimizer.schedules import make_hyperparameters
from jaxft.training.run_folder.checkpoint import RunCheckpoints
from jaxft.training.settings import settings_from_config
from tests.training.optimizer.test_update_rules import LAYERS, ROLES, SHAPES, WIDE_SHAPES, random_trees

# What is kept in a state besides moments.
ADDED = {"ema": 0.9, "l1": 0.1, "pull_to_start": 0.1, "layer_decay": 0.5, "moments": "bfloat16"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_after_a_checkpoint_are_those_without(name, tmp_path):
    """As on a CPU, which keeps layers apart where checkpoints have stacks; the fourth step goes on from the second."""
    values = {"name": name, "lr": 0.01} | (ADDED if name == "adamw" else {})
    config = settings_from_config(
        {"task": "token_classification"} | {f"optim.{key}": value for key, value in values.items()}
    )
    optimizer = make_optimizer(config, make_hyperparameters(config, total=10, warmup=0), ROLES, LAYERS)
    start, *gradients = random_trees(5, WIDE_SHAPES if name == "adafactor" else SHAPES)

    @jax.jit
    def step(state, gradient):
        parameters, opt_state = state
        updates, opt_state = optimizer.update(unstack(gradient), opt_state, parameters)
        return optax.apply_updates(parameters, updates), opt_state

    abstract = jax.eval_shape(lambda: (start, optimizer.init(start)))  # as `make_trainer` makes it
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(jax.devices()[0])
        ),
        abstract,
    )
    checkpoints = RunCheckpoints(tmp_path, keep=1, log=print)
    state = (unstack(start), optimizer.init(unstack(start)))
    for number, gradient in enumerate(gradients):
        if number == 2:
            checkpoints.save(2, map_parameter_dicts(stack, state), {})
            checkpoints.wait()
        state = step(state, gradient)
    _, saved, _ = checkpoints.restore(lambda meta: abstract)
    checkpoints.close()
    resumed = map_parameter_dicts(unstack, saved)
    for gradient in gradients[2:]:
        resumed = step(resumed, gradient)
    assert jax.tree.structure(resumed) == jax.tree.structure(state)
    assert jnp.isfinite(optax.tree.norm(resumed[0]))
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(resumed), jax.tree.leaves(state), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs, err_msg=jax.tree_util.keystr(path))
