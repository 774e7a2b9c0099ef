"""Defines the transformations of an optimizer that optax has not: L2-SP, L1 with exact zeros, averaged parameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxft.layers.transformer.layer_stacks import scale_layers
from jaxft.training.optimizer.parameter_rules import RateFactors


class StartingPoint(NamedTuple):
    """The state of `pull_to_start`: the first values of parameters by path, float32."""

    values: dict[str, Any]


def pull_to_start(rate: Any, names: list[str]) -> optax.GradientTransformation:
    """Adds to the updates of the parameters `names` their distance from the first values, times `rate`.

    It is a decay towards the start in place of 0: L2-SP (Li et al. 2018), decoupled from the update rule as AdamW
    decouples the decay. The first values are part of the state, so a run that resumes does not look for them.
    """

    def init(parameters):
        # Copies, because the step donates the memory of the parameters.
        return StartingPoint({name: jax.tree.map(jnp.copy, parameters[name]) for name in names})

    def update(updates, state, parameters):
        def pull(update, value, start):
            return update + rate * (value - start)

        pulled = {n: jax.tree.map(pull, updates[n], parameters[n], state.values[n]) for n in names}
        return updates | pulled, state

    return optax.GradientTransformation(init, update)


class Count(NamedTuple):
    """The state of `shrink_to_zero`: the number of finished steps, int32."""

    count: jax.Array  # type: ignore[assignment]  # optax's name for it, though tuples have a method `count`


def shrink_to_zero(
    rate: Callable[[jax.Array], jax.Array], factors: RateFactors
) -> optax.GradientTransformation:
    """Moves parameters, after their update, by `rate` of the step towards 0, and those that are nearer to 0.

    This is the proximal step of an L1 penalty (Parikh & Boyd 2014, section 6.5.2). Its zeros are exact; those of a
    penalty's gradient would jump around 0.

    Args:
      rate: returns the distance for a step.
      factors: the factors of the distance, for the parameters that shrink.
    """

    def shrink(update, value, distance):
        moved = value + update
        return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - distance, 0) - value

    def update(updates, state, parameters):
        distance = rate(state.count)
        shrunk = {}
        for name, factor in factors.items():
            distances = scale_layers(
                jax.tree.map(lambda u: jnp.full_like(u, distance), updates[name]), factor
            )
            shrunk[name] = jax.tree.map(shrink, updates[name], parameters[name], distances)
        return updates | shrunk, Count(state.count + 1)

    return optax.GradientTransformation(lambda _: Count(jnp.int32(0)), update)


class ParameterAverage(NamedTuple):
    """The state of `average_parameters`: the number of finished steps, int32, and the averages by path, float32."""

    count: jax.Array  # type: ignore[assignment]  # optax's name for it, though tuples have a method `count`
    values: dict[str, jax.Array]


def average_parameters(decay: float, statistics: Mapping[str, jax.Array]) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the parameters and of `statistics` in its state. Changes no update.

    After step t = 1, 2, ... the average becomes d * average + (1 - d) * parameters with d = min(decay, (1 + t) / (10 +
    t)), so the initial parameters soon lose their weight. Source: Polyak & Juditsky 1992; d is that of TensorFlow's
    ExponentialMovingAverage with `num_updates`.
    """

    def init(parameters):
        # A copy, because the step donates the memory of the parameters.
        return ParameterAverage(jnp.int32(0), jax.tree.map(jnp.copy, {**parameters, **statistics}))

    def update(updates, state, parameters):
        count = state.count + 1
        d = jnp.minimum(decay, (1 + count) / (10 + count)).astype(jnp.float32)
        moved = {**optax.apply_updates(parameters, updates), **statistics}
        values = jax.tree.map(lambda old, new: d * old + (1 - d) * new, state.values, moved)
        return updates, ParameterAverage(count, values)

    return optax.GradientTransformation(init, update)
