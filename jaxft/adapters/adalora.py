"""AdaLoRA (Zhang et al. 2023): LoRA in the form of a singular value decomposition, whose least important ranks go.

`y = x @ kernel + scale * ((x @ a) * values) @ b + bias`. A term of the loss keeps the columns of `a` and the rows of
`b` near to orthonormal. Between the first `tinit` and the last `tfinal` steps, the number of ranks in all modules
together falls like a cubic function: a step that allocates ranks sets the values of the others to 0, and the last steps
leave these at 0. The formulas and first values are PEFT's, if its `update_and_allocate` counts steps from 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxft.adapters.base import Method, Target, make_constant
from jaxft.adapters.lora import LoRA, role_of_a, role_of_b
from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.errors import UserError
from jaxft.layers.linear import Linear
from jaxft.layers.parameters import Kind, Role, make_parameter

INITIALIZER_RANGE = 0.02  # the standard deviation of new matrices
EPSILON = 1e-5  # is added to the rank that `alpha` is divided by
PARAMETERS = ("a", "values", "b")


class AdaLoRA(LoRA):
    """The adapter of a linear layer: a LoRA with a factor for each rank, `values` `[r]`, perhaps shared as `a` is."""

    def __init__(
        self,
        a: nnx.Param[jax.Array],
        values: nnx.Param[jax.Array],
        b: nnx.Param[jax.Array],
        scale: nnx.Param[jax.Array],
        *,
        rate: float,
        number: int,
    ):
        super().__init__(a, b, scale, rate=rate, number=number)
        self.values = values

    def read_matrices(self) -> tuple[jax.Array, jax.Array]:
        """Returns the matrices whose product is added, `[..., in, r]` and `[..., r, out]`."""
        return self.a[...] * self.values[...][..., None, :], self.b[...]


def make(
    linears: Sequence[Linear], target: Target, settings: AdapterSettings, rngs: nnx.Rngs
) -> list[AdaLoRA]:
    """Returns the adapters of a target's linear layers."""
    rank, mask = max(target.ranks), target.make_mask()
    scale = settings.alpha / (settings.init_r + EPSILON)

    def draw(*shape: int) -> jax.Array:
        return INITIALIZER_RANGE * jax.random.normal(rngs.params(), target.shape(*shape))

    a = make_parameter(mask * draw(linears[0].kernel.shape[-2], rank), role_of_a(linears[0]))
    values = make_parameter(jnp.zeros(target.shape(rank), jnp.float32), Role(Kind.FACTOR))
    return [
        AdaLoRA(
            a,
            values,
            make_parameter(mask.swapaxes(-1, -2) * draw(rank, linear.kernel.shape[-1]), role_of_b(linear)),
            make_constant(target.stack([scale * (rank > 0) for rank in target.ranks])),
            rate=settings.dropout,
            number=target.number,
        )
        for linear in linears
    ]


def penalize(
    parameters: Mapping[str, Any], targets: Sequence[Target], settings: AdapterSettings
) -> jax.Array:
    """Returns the term of the loss: how far matrices are from orthonormal ones, on average, times `orth_reg_weight`.

    Args:
      parameters: the trained parameters by path, stacked or not.
      targets: what has adapters.
      settings: the settings of adapters.
    """
    total, count = jnp.float32(0), 0
    for target in targets:
        a, _, b = (_collect(parameters, target, name) for name in PARAMETERS)
        identity = jnp.eye(a.shape[-1]) * (np.arange(a.shape[-1]) < np.asarray(target.ranks)[:, None, None])
        for matrix in (a.swapaxes(-1, -2), b):  # `[layers, r, in]` and `[layers, r, out]`
            product = jnp.matmul(matrix, matrix.swapaxes(-1, -2), precision=jax.lax.Precision.HIGHEST)
            square = jnp.sum((product - identity) ** 2, axis=(-2, -1))
            # The gradient of a root at 0 is infinite, but an orthonormal matrix has none.
            total += jnp.sum(jnp.sqrt(jnp.where(square > 0, square, 1.0)) * (square > 0))
            count += sum(rank > 0 for rank in target.ranks)
    return settings.orth_reg_weight * total / count


def _collect(values: Mapping[str, Any], target: Target, name: str) -> jax.Array:
    """Returns a parameter in all layers of a target, `[layers, ...]`; fused layers' are next to each other."""
    stacks = []
    for path in _paths(values, target, name):
        value = values[path]
        stacks.append(jnp.stack(value) if isinstance(value, tuple) else value)
    joined = jnp.concatenate(stacks, axis=-1)
    return joined if target.is_stacked else joined[None]


def _paths(values: Mapping[str, Any], target: Target, name: str) -> list[str]:
    """Returns the paths of a parameter of a target's adapters; one that they share has one."""
    paths = [f"{linear}/adapter/{name}" for linear in target.linears]
    return [path for path in paths if path in values]


class RankState(NamedTuple):
    """The state of `allocate_ranks`.

    Attributes:
      step: the number of finished steps, int32.
      sensitivity, uncertainty: of each value of adapters, smoothed, by path, float32.
      inner: the state of the optimizer within.
    """

    step: jax.Array
    sensitivity: dict[str, Any]
    uncertainty: dict[str, Any]
    inner: Any


def allocate_ranks(
    inner: optax.GradientTransformation,
    targets: Sequence[Target],
    settings: AdapterSettings,
    *,
    total: Any,
    tinit: Any,
    tfinal: Any,
) -> optax.GradientTransformation:
    """Makes an optimizer set the values of unimportant ranks to 0.

    Important is a rank whose values have had a large product with their gradients, and one that varied (equations 8 to
    11 of the paper). As in PEFT, the product is that of a step's gradient and the values after the step.

    Args:
      inner: the optimizer.
      targets: what has adapters.
      settings: the settings of adapters.
      total: the steps of the run.
      tinit, tfinal: the first and the last steps, which allocate no ranks. All three may be traced.
    """
    ranks = [rank for target in targets for rank in target.ranks]
    first_budget, last_budget = sum(ranks), settings.target_r * sum(rank > 0 for rank in ranks)
    last = total - tfinal

    def pick(values: Mapping[str, Any]) -> dict[str, Any]:
        paths = [path for target in targets for name in PARAMETERS for path in _paths(values, target, name)]
        return {path: values[path] for path in paths}

    def init(parameters: Mapping[str, Any]) -> RankState:
        for target in targets:
            for name in PARAMETERS:
                if not _paths(parameters, target, name):
                    raise UserError(
                        f"config.optim.freeze freezes {target.linears[0]}/adapter/{name}, but adalora trains all "
                        "parameters of its adapters; freeze others"
                    )
        first, second = (jax.tree.map(jnp.zeros_like, pick(parameters)) for _ in range(2))
        return RankState(jnp.int32(0), first, second, inner.init(parameters))

    def update(gradients: Any, state: Any, parameters: Any) -> tuple[Any, RankState]:
        updates, inner_state = inner.update(gradients, state.inner, parameters)
        step, moved = state.step, optax.apply_updates(pick(parameters), pick(updates))
        importance = jax.tree.map(lambda value, slope: jnp.abs(value * slope), moved, pick(gradients))
        sensitivity = _smooth(state.sensitivity, importance, settings.beta1)
        change = jax.tree.map(lambda now, mean: jnp.abs(now - mean), importance, sensitivity)
        uncertainty = _smooth(state.uncertainty, change, settings.beta2)
        sensitivity, uncertainty = jax.tree.map(
            lambda new, old: jnp.where(step < last, new, old),
            (sensitivity, uncertainty),
            (state.sensitivity, state.uncertainty),
        )
        share = jnp.clip(1 - (step - tinit) / (last - tinit), 0, 1)  # of the ranks to lose that are left
        budget = jnp.floor((first_budget - last_budget) * share**3 + last_budget).astype(jnp.int32)
        allocates = (step > tinit) & (step <= last) & ((step % settings.deltaT == 0) | (step == last))
        count = jnp.where(allocates, jnp.maximum(first_budget - budget, 0), 0)
        scores = [_score_ranks(sensitivity, uncertainty, target) for target in targets]
        ordered = jnp.sort(jnp.concatenate([score.ravel() for score in scores]))
        highest = jnp.where(count > 0, ordered[jnp.maximum(count - 1, 0)], -jnp.inf)  # of those that go
        for target, score in zip(targets, scores, strict=True):
            [path] = _paths(updates, target, "values")
            stays_zero = (step > last) & (_collect(parameters, target, "values") == 0)
            removed = (score <= highest) | stays_zero
            updates = updates | {path: _remove(parameters[path], updates[path], removed)}
        return updates, RankState(step + 1, sensitivity, uncertainty, inner_state)

    return optax.GradientTransformation(init, update)


def _smooth(means: Any, values: Any, decay: float) -> Any:
    """Returns exponential moving averages of values."""
    return jax.tree.map(lambda mean, value: decay * mean + (1 - decay) * value, means, values)


def _score_ranks(sensitivity: Mapping[str, Any], uncertainty: Mapping[str, Any], target: Target) -> jax.Array:
    """Returns the importance of each rank of a target, `[layers, r]`; infinity for ranks that a layer does not have."""
    a, values, b = (
        _collect(sensitivity, target, name) * _collect(uncertainty, target, name) for name in PARAMETERS
    )
    score = values + (a.mean(axis=-2) + b.mean(axis=-1))
    return jnp.where(np.arange(score.shape[-1]) < np.asarray(target.ranks)[:, None], score, jnp.inf)


def _remove(value: Any, update: Any, is_removed: jax.Array) -> Any:
    """Returns the update of `values`, stacked or not, after which those of the removed ranks, `[layers, r]`, are 0."""
    if isinstance(value, tuple):
        return tuple(map(_remove, value, update, is_removed))
    return jnp.where(is_removed.reshape(value.shape), -value, update)


METHOD = Method(
    make=make,
    list_targets=lambda settings, presets: presets["lora"],
    adapter=AdaLoRA,
    penalize=penalize,
    wrap_optimizer=allocate_ranks,
)
