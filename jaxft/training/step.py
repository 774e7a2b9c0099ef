"""Defines the pure functions that a run compiles: an optimizer step and an evaluation step."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding

from jaxft.layers import parameter_paths
from jaxft.layers.convolution.batch_norm import Statistic, freeze_statistics
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.transformer.layer_stacks import nest_parameters
from jaxft.losses import cross_entropy
from jaxft.tasks.base import Task
from jaxft.training.optimizer.schedules import Hyperparameters, learning_rate
from jaxft.training.train_state import Parameters, TrainState

Structure: TypeAlias = nnx.GraphDef[nnx.Module]  # of a module without its parameters
Batch = dict[str, jax.Array]  # arrays [rows, ...]; see `data.batching.batch`


def merge_model(graphdef: Structure, parameters: Parameters) -> nnx.Module:
    """Returns the module with `parameters`, for use inside a traced function."""
    return nnx.merge(graphdef, nest_parameters(parameters))


def read_statistics(model: nnx.Module, names: Iterable[str]) -> Parameters:
    """Returns the statistics at the paths `names` that a model holds, such as those that its loss has changed."""
    statistics = parameter_paths.flatten(nnx.to_pure_dict(nnx.state(model, Statistic)))
    return {name: statistics[name] for name in names}


def add_step_scales(batch: Batch) -> Batch:
    """Adds to a batch of several tasks the scales of their losses, which depend on the entire batch.

    See `cross_entropy.step_scales`. A batch of a single task is returned unchanged.
    """
    if "task_weights" not in batch:
        return batch
    return batch | {"scales": cross_entropy.step_scales(batch["task_weights"])}


def clip_factor(norm: jax.Array, limit: float) -> jax.Array:
    """Returns the factor that reduces gradients with global L2 norm `norm` to a norm of at most `limit`.

    An infinite limit means no limit. Source: Pascanu et al. 2013.
    """
    return jnp.minimum(1.0, limit / norm)


def train_step(
    state: TrainState,
    batch: Batch,
    hyper: Hyperparameters,
    *,
    task: Task,
    graphdef: Structure,
    make_optimizer: Callable[..., optax.GradientTransformation],
    schedule: str,
    accumulate: int,
    microbatch_sharding: NamedSharding,
    gradient_shardings: dict[str, NamedSharding],
    gradient_dtypes: Mapping[str, jnp.dtype],
    penalize: Callable[[Parameters], jax.Array] | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Makes one optimizer step over a batch of [rows, ...] arrays, cut into `accumulate` microbatches.

    Loss sums and their gradients are added over microbatches and divided once by the summed weight. Dropout masks
    depend on (seed, step, row in the batch). So the result does not depend on `accumulate`, unless the model has
    statistics of a batch: each microbatch uses and adds its own, in their order, as in PyTorch.

    Args:
      state: the state before the step.
      batch: arrays of [rows, ...].
      hyper: the run's seed, rates and limits, scalars.
      task: computes the loss.
      graphdef: the model's structure.
      make_optimizer: makes the optimizer of the trainable parameters from `hyper` and the `statistics` after the step.
      schedule: the name of the learning rate's course, for the metrics.
      accumulate: the number of microbatches, which divides the rows.
      microbatch_sharding: the sharding of a batch's arrays, cut into [accumulate, rows / accumulate, ...].
      gradient_shardings: the shardings of the trainable parameters, and so of each microbatch's gradients, by path. If
        parameters are split, no device holds the full gradient.
      gradient_dtypes: the dtypes of gradients by path, until they are converted to float32 to be added over
        microbatches or for the norm.
      penalize: computes a term that is added to the mean loss, from the trainable parameters; None for none.

    Returns:
      The next state, and scalars: loss, weight (the summed weight of the loss), grad_norm (before clipping), lr, all
      float32; and units, int32, the number of slots that are not padding.
    """
    unit_mask = batch[task.batch_spec.unit_mask]
    rows = unit_mask.shape[0]
    batch = add_step_scales(batch)
    step_seed = hyper.seed + state.step.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)

    def loss_sum(
        trainable: Parameters, model_state: Parameters, micro: Batch, first_row: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, Parameters]]:
        model = merge_model(graphdef, trainable | state.frozen | model_state)
        freeze_statistics(model, state.frozen)
        total, weight = task.loss(model, micro, DropoutSeed(step_seed, first_row))
        return total, (weight, read_statistics(model, model_state))

    def gradient(
        trainable: Parameters, model_state: Parameters, micro: Batch, first_row: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array, Parameters], Parameters]:
        # Differentiates with respect to copies in the gradient's dtype, so that devices sum and hold gradients in this
        # dtype. Vectors stay float32: they are few, and a copy of a norm's scale, near 1, would lose small updates.
        copies = {name: optax.tree.cast(value, gradient_dtypes[name]) for name, value in trainable.items()}
        (total, (weight, model_state)), gradients = jax.value_and_grad(loss_sum, has_aux=True)(
            copies, model_state, micro, first_row
        )
        gradients = jax.lax.with_sharding_constraint(gradients, gradient_shardings)
        return (total, weight, gradients), model_state

    if accumulate == 1:
        (total, weight, gradients), model_state = gradient(
            state.trainable, state.model_state, batch, jnp.int32(0)
        )
        gradients = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
    else:
        micro_rows = rows // accumulate
        # Splits each microbatch over all devices. By default XLA would give each device entire microbatches.
        microbatches = jax.lax.with_sharding_constraint(
            jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch),
            microbatch_sharding,
        )

        def add_microbatch(carry: Any, micro_and_index: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            (sums, model_state), (micro, index) = carry, micro_and_index
            added, model_state = gradient(state.trainable, model_state, micro, index * micro_rows)
            return (jax.tree.map(jnp.add, sums, added), model_state), None

        zero = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, state.trainable))
        indices = jnp.arange(accumulate, dtype=jnp.int32)
        ((total, weight, gradients), model_state), _ = jax.lax.scan(
            add_microbatch, (zero, state.model_state), (microbatches, indices)
        )

    if penalize is not None:  # once in a step, times the weight by which it is divided
        penalty = jax.value_and_grad(penalize)(state.trainable)
        total, gradients = jax.tree.map(lambda s, p: s + weight * p, (total, gradients), penalty)
    scale = 1.0 / jnp.maximum(weight, 1e-6)
    norm = optax.tree.norm(gradients) * scale
    # The same factor divides and clips, so that no divided or clipped copy of the gradients is written.
    factor = scale * clip_factor(norm, hyper.clip)
    gradients = jax.tree.map(lambda g: g * factor, gradients)
    optimizer = make_optimizer(hyper, statistics=model_state)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
    metrics = {
        "loss": total * scale,
        "weight": weight,
        "grad_norm": norm,
        "lr": learning_rate(schedule, hyper, state.step),
        "units": jnp.sum(unit_mask > 0, dtype=jnp.int32),
    }
    trainable = optax.apply_updates(state.trainable, updates)
    return TrainState(state.step + 1, trainable, state.frozen, model_state, opt_state), metrics


def eval_step(
    parameters: Parameters, batch: Batch, *, task: Task, graphdef: Structure
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Computes, without dropout, a batch's predictions, each [rows, ...], and its {"loss_sum", "weight_sum"}."""
    outputs, loss_sum, weight_sum = task.predict(merge_model(graphdef, parameters), batch)
    return outputs, {"loss_sum": loss_sum, "weight_sum": weight_sum}
