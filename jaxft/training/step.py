"""TrainState and the pure functions that a run compiles: one optimizer step, one evaluation batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding

from jaxft.layers import parameter_paths
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.layer_stacks import stack
from jaxft.losses import cross_entropy
from jaxft.tasks.base import Task

# Flat: {"backbone/embeddings/word/embedding": array, ...}, with tuples of arrays where `stacks.apart` made them.
Parameters = dict[str, Any]
Batch = dict[str, jax.Array]  # arrays of [rows, length]; see data/loader.py
MATRICES = ("kernel", "embedding")  # what the names of parameters that are matrices end with


class TrainState(NamedTuple):
    """All that a step reads and writes. Leaves are arrays; `step` counts finished optimizer steps, int32."""

    step: jax.Array
    trainable: Parameters
    frozen: Parameters
    opt_state: Any


def model_of(graphdef: nnx.GraphDef, parameters: Parameters) -> nnx.Module:
    """The module with `parameters`, for use inside a traced function."""
    return nnx.merge(graphdef, parameter_paths.unflatten(stack(parameters)))


def with_step_scales(batch: Batch) -> Batch:
    """A step's batch with what a loss takes that depends on all of it: of several tasks `losses.step_scales`."""
    if "task_weights" not in batch:
        return batch
    return batch | {"scales": cross_entropy.step_scales(batch["task_weights"])}


def clip_factor(norm: jax.Array, limit: float) -> jax.Array:
    """What gradients of global L2 `norm` are multiplied by so that it is at most `limit` (Pascanu et al. 2013)."""
    return jnp.minimum(1.0, limit / norm)


def train_step(
    state: TrainState,
    batch: Batch,
    seed: jax.Array,
    *,
    task: Task,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    clip: float,
    accumulate: int,
    microbatches: NamedSharding,
    places: dict[str, NamedSharding],
    gradient_dtype: jnp.dtype = jnp.float32,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step over a batch of [rows, length] arrays, cut into `accumulate` microbatches.

    Loss sums and their gradients are added up over microbatches and divided once by the summed weight, and
    dropout masks depend on (seed, step, row in the batch): the result does not depend on `accumulate`.

    Args:
      seed: uint32 scalar of the run.
      clip: the largest global norm of a gradient; 0 for no limit.
      microbatches: of a batch's arrays cut into [accumulate, rows / accumulate, length].
      places: of the trainable parameters, and so of each microbatch's gradients: of parameters that are split no
        device holds the whole gradient.
      gradient_dtype: of matrices' gradients, until microbatches are added up or the norm is taken, in float32.

    Returns:
      The next state and scalars: loss, weight (summed, of the loss), grad_norm (before clipping), lr, all float32, and
      tokens, int32: the slots of all rows that are not padding.
    """
    rows = batch["input_ids"].shape[0]
    batch = with_step_scales(batch)
    step_seed = seed + state.step.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)

    def loss_sum(trainable: Parameters, micro: Batch, first_row: jax.Array):
        model = model_of(graphdef, trainable | state.frozen)
        return task.loss(model, micro, DropoutSeed(step_seed, first_row))

    def gradient(trainable: Parameters, micro: Batch, first_row: jax.Array):
        # By copies of the gradient's dtype: with it devices' gradients are summed and held. Vectors stay float32:
        # they are few, and in a copy of a norm's scale, which is near 1, small updates would not be seen.
        copies = {
            name: optax.tree.cast(value, gradient_dtype) if name.endswith(MATRICES) else value
            for name, value in trainable.items()
        }
        sums, gradients = jax.value_and_grad(loss_sum, has_aux=True)(copies, micro, first_row)
        return sums, jax.lax.with_sharding_constraint(gradients, places)

    if accumulate == 1:
        (total, weight), gradients = gradient(state.trainable, batch, jnp.int32(0))
        gradients = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
    else:
        micro_rows = rows // accumulate
        # Each microbatch over all devices: left to itself, XLA would give each device whole microbatches.
        cut = jax.lax.with_sharding_constraint(
            jax.tree.map(lambda x: x.reshape(accumulate, micro_rows, *x.shape[1:]), batch),
            microbatches,
        )

        def body(carry, xs):
            micro, index = xs
            (total, weight), gradients = gradient(state.trainable, micro, index * micro_rows)
            return jax.tree.map(jnp.add, carry, (total, weight, gradients)), None

        zero = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, state.trainable))
        (total, weight, gradients), _ = jax.lax.scan(
            body, zero, (cut, jnp.arange(accumulate, dtype=jnp.int32))
        )

    scale = 1.0 / jnp.maximum(weight, 1e-6)
    norm = optax.tree.norm(gradients) * scale
    # One factor divides and clips, so that no divided or clipped copy of the gradients is written out.
    factor = scale * clip_factor(norm, clip) if clip else scale
    gradients = jax.tree.map(lambda g: g * factor, gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
    metrics = {
        "loss": total * scale,
        "weight": weight,
        "grad_norm": norm,
        "lr": jnp.asarray(schedule(state.step), jnp.float32),
        "tokens": jnp.sum(batch["segment_ids"] > 0, dtype=jnp.int32),
    }
    trainable = optax.apply_updates(state.trainable, updates)
    return TrainState(state.step + 1, trainable, state.frozen, opt_state), metrics


def eval_step(
    parameters: Parameters, batch: Batch, *, task: Task, graphdef: nnx.GraphDef
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Predictions, each [rows, ...], and {"loss_sum", "weight_sum"} of a batch, without dropout."""
    outputs, loss_sum, weight_sum = task.predict(model_of(graphdef, parameters), batch)
    return outputs, {"loss_sum": loss_sum, "weight_sum": weight_sum}
