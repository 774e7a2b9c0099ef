"""Makes the numbers of a run that its compiled step takes as arguments, and computes the learning rate of a step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config.sections import Settings
from jaxft.errors import UserError

# The steps over which `inverse_sqrt` without warmup falls to 0.7 of the highest rate, as in transformers.
INVERSE_SQRT_STEPS = 10_000


class Hyperparameters(NamedTuple):
    """The numbers of a run that its compiled step takes as arguments. With other numbers it is not compiled again.

    Attributes:
      seed: the seed of dropout, uint32.
      lr: the highest learning rate, float32.
      warmup: the steps until the learning rate is at its highest, int32.
      total: the steps of the run, int32.
      weight_decay: the decay of matrices, float32.
      clip: the largest global norm of the gradient, float32; infinity for no limit.
      power: the power of the schedule `polynomial`, float32; None for other schedules.
      cooldown: the last steps, over which the schedule `warmup_stable_decay` falls, int32; None for other schedules.
      l1: the L1 decay, float32; None for none.
      pull_to_start: the decay of the distance from the first weights, float32; None for none.
      tinit, tfinal: the first and the last steps, in which AdaLoRA keeps its ranks, int32; None for other methods.
    """

    seed: Any
    lr: Any
    warmup: Any
    total: Any
    weight_decay: Any
    clip: Any
    power: Any = None
    cooldown: Any = None
    l1: Any = None
    pull_to_start: Any = None
    tinit: Any = None
    tfinal: Any = None


def make_hyperparameters(
    config: Settings, *, total: int, warmup: int, cooldown: int = 0, tinit: int = 0, tfinal: int = 0
) -> Hyperparameters:
    """Returns the hyperparameters of a run of `total` steps.

    Args:
      config: the run's settings.
      total: the steps of the run.
      warmup: the first steps, over which the learning rate rises.
      cooldown: the last steps, over which it falls, if the schedule is `warmup_stable_decay`.
      tinit, tfinal: the first and the last steps, in which AdaLoRA keeps its ranks.

    Raises:
      UserError: the warmup, or what has to be in the run next to each other, is longer than the run.
    """
    optim = config.optim
    if warmup > total:
        raise UserError(f"config.optim.warmup is {warmup} steps, but the run has {total}; shorten the warmup")
    has_cooldown = optim.schedule == "warmup_stable_decay"
    if has_cooldown and warmup + cooldown > total:
        raise UserError(
            f"config.optim.warmup is {warmup} steps and config.optim.cooldown {cooldown}, but the run has {total}; "
            "shorten them"
        )
    allocates_ranks = config.adapter.method == "adalora"
    if allocates_ranks and tinit + tfinal >= total:
        raise UserError(
            f"config.adapter.tinit is {tinit} steps and config.adapter.tfinal {tfinal}, but the run has {total}; "
            "shorten them, so that steps are left in which ranks change"
        )
    return Hyperparameters(
        seed=np.uint32(config.seed),
        lr=np.float32(optim.lr),
        warmup=np.int32(warmup),
        total=np.int32(total),
        weight_decay=np.float32(optim.weight_decay),
        clip=np.float32(optim.clip or np.inf),
        power=np.float32(optim.power) if optim.schedule == "polynomial" else None,
        cooldown=np.int32(cooldown) if has_cooldown else None,
        l1=np.float32(optim.l1) if optim.l1 else None,
        pull_to_start=np.float32(optim.pull_to_start) if optim.pull_to_start else None,
        tinit=np.int32(tinit) if allocates_ranks else None,
        tfinal=np.int32(tfinal) if allocates_ranks else None,
    )


def learning_rate(schedule: str, hyper: Hyperparameters, step: jax.Array) -> jax.Array:
    """Returns the learning rate of `step`, a float32 scalar.

    It rises from 0 for `hyper.warmup` steps. Then `schedule` says its course: `linear`, `cosine` and `polynomial` fall
    to 0 at step `hyper.total`; `warmup_stable_decay` is constant and falls to 0 like a cosine in the last
    `hyper.cooldown` steps; `inverse_sqrt` falls like the reciprocal root of the step; `constant` stays. It equals
    Hugging Face's `get_scheduler` at every step: with warmup, step 0 has rate 0.
    """
    # Reciprocals and the order of products are XLA's, where steps are constants: the rates are equal to the bit.
    steps_left = jnp.maximum(hyper.total - hyper.warmup, 1)
    finished = jnp.clip(step - hyper.warmup, 0, steps_left)

    def inverse_sqrt() -> jax.Array:
        scale = jnp.where(hyper.warmup > 0, hyper.warmup, INVERSE_SQRT_STEPS)
        return jax.lax.rsqrt((finished + scale) / scale)

    def warmup_stable_decay() -> jax.Array:
        fallen = jnp.clip(step - (hyper.total - hyper.cooldown), 0, hyper.cooldown)
        return 0.5 * (1 + jnp.cos(jnp.pi * fallen / jnp.maximum(hyper.cooldown, 1)))

    after_warmup = {
        "linear": lambda: 1 - finished * (1 / steps_left),
        "cosine": lambda: 0.5 * (1 + jnp.cos(finished * (jnp.pi * (1 / steps_left)))),
        "constant": lambda: 1.0,
        "polynomial": lambda: (1 - finished / steps_left) ** hyper.power,
        "inverse_sqrt": inverse_sqrt,
        "warmup_stable_decay": warmup_stable_decay,
    }[schedule]()
    to_rise = 1 - jnp.clip(step, 0, hyper.warmup) * (1 / jnp.maximum(hyper.warmup, 1))
    return jnp.where(step < hyper.warmup, hyper.lr - hyper.lr * to_rise, hyper.lr * after_warmup)
