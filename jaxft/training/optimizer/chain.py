"""Makes the learning-rate schedule, and AdamW with rules by parameter path for decay, rates and freezing."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.config.sections import Settings
from jaxft.errors import UserError
from jaxft.layers import parameter_paths
from jaxft.layers.parameters import Role


class Hyperparameters(NamedTuple):
    """The numbers of a run that its compiled step takes as arguments. With other numbers it is not compiled again.

    Attributes:
      seed: the seed of dropout, uint32.
      lr: the highest learning rate, float32.
      warmup: the steps until the learning rate is at its highest, int32.
      total: the steps of the run, int32.
      weight_decay: the decay of matrices, float32.
      clip: the largest global norm of the gradient, float32; infinity for no limit.
    """

    seed: Any
    lr: Any
    warmup: Any
    total: Any
    weight_decay: Any
    clip: Any


def make_hyperparameters(config: Settings, *, total: int, warmup: int) -> Hyperparameters:
    """Returns the hyperparameters of a run of `total` steps, the first `warmup` of them with a rising learning rate.

    Raises:
      UserError: the warmup is longer than the run.
    """
    if warmup > total:
        raise UserError(f"config.optim.warmup is {warmup} steps, but the run has {total}; shorten the warmup")
    return Hyperparameters(
        seed=np.uint32(config.seed),
        lr=np.float32(config.optim.lr),
        warmup=np.int32(warmup),
        total=np.int32(total),
        weight_decay=np.float32(config.optim.weight_decay),
        clip=np.float32(config.optim.clip or np.inf),
    )


def learning_rate(schedule: str, hyper: Hyperparameters, step: jax.Array) -> jax.Array:
    """Returns the learning rate of `step`, a float32 scalar.

    It rises from 0 for `hyper.warmup` steps. Then it falls to 0 at step `hyper.total`, linearly or like a cosine, or
    it is constant, as `schedule` says. It equals Hugging Face's `get_scheduler` at every step: with warmup, step 0 has
    rate 0.
    """
    # Reciprocals and the order of products are XLA's, where steps are constants: the rates are equal to the bit.
    steps_left = jnp.maximum(hyper.total - hyper.warmup, 1)
    finished = jnp.clip(step - hyper.warmup, 0, steps_left)
    after_warmup = {
        "linear": lambda: 1 - finished * (1 / steps_left),
        "cosine": lambda: 0.5 * (1 + jnp.cos(finished * (jnp.pi * (1 / steps_left)))),
        "constant": lambda: 1.0,
    }[schedule]()
    to_rise = 1 - jnp.clip(step, 0, hyper.warmup) * (1 / jnp.maximum(hyper.warmup, 1))
    return jnp.where(step < hyper.warmup, hyper.lr - hyper.lr * to_rise, hyper.lr * after_warmup)


def split_frozen(config: Settings, names: list[str]) -> tuple[list[str], list[str]]:
    """Splits the parameter paths `names` into (trainable, frozen) by `config.optim.freeze`.

    Raises:
      UserError: every parameter is frozen.
    """
    rules = [(pattern, True) for pattern in config.optim.freeze]
    frozen = parameter_paths.match_first(rules, names, what="config.optim.freeze")
    trainable = [name for name in names if name not in frozen]
    if not trainable:
        raise UserError(
            f"config.optim.freeze={config.optim.freeze} freezes every parameter; nothing is trained"
        )
    return trainable, [name for name in names if name in frozen]


def make_optimizer(
    config: Settings, hyper: Hyperparameters, trainable: Mapping[str, Role]
) -> optax.GradientTransformation:
    """Makes AdamW (Loshchilov & Hutter 2019) for `trainable` parameters, by path.

    Matrices decay, unless `config.optim.decay` says otherwise. `config.optim.lr_multipliers` multiply the rates. With
    `config.optim.ema` it also averages the parameters. Not the optimizer but the train step clips gradients. `hyper`
    may be traced; the structure of the optimizer's state does not depend on it.
    """
    optim = config.optim
    decayed = {name: role.is_matrix for name, role in trainable.items()}
    decayed |= parameter_paths.match_first(
        optim.decay, trainable, what="config.optim.decay", allow_unused=True
    )
    multipliers = parameter_paths.match_first(
        optim.lr_multipliers, trainable, what="config.optim.lr_multipliers", require_cover=True
    )
    steps = [
        optax.scale_by_adam(optim.b1, optim.b2, optim.eps),
        optax.add_decayed_weights(hyper.weight_decay, mask=decayed),
    ]
    if any(value != 1.0 for value in multipliers.values()):
        steps.append(
            optax.stateless(
                lambda updates, _: {
                    name: optax.tree.scale(multipliers[name], u) for name, u in updates.items()
                }
            )
        )
    steps.append(optax.scale_by_learning_rate(lambda step: learning_rate(optim.schedule, hyper, step)))
    if optim.ema:
        steps.append(average_parameters(optim.ema))  # last, so that it sees the applied updates
    return optax.chain(*steps)


class ParameterAverage(NamedTuple):
    """The state of `average_parameters`: the number of finished steps, int32, and the averages by path, float32."""

    count: jax.Array
    values: dict[str, jax.Array]


def average_parameters(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the parameters in the optimizer's state. Changes no update.

    After step t = 1, 2, ... the average becomes d * average + (1 - d) * parameters with d = min(decay, (1 + t) / (10 +
    t)), so the initial parameters soon lose their weight. Source: Polyak & Juditsky 1992; d is that of TensorFlow's
    ExponentialMovingAverage with `num_updates`.
    """

    def init(parameters):
        # A copy, because the step donates the memory of the parameters.
        return ParameterAverage(jnp.int32(0), jax.tree.map(jnp.copy, parameters))

    def update(updates, state, parameters):
        count = state.count + 1
        d = jnp.minimum(decay, (1 + count) / (10 + count)).astype(jnp.float32)
        moved = optax.apply_updates(parameters, updates)
        values = jax.tree.map(lambda old, new: d * old + (1 - d) * new, state.values, moved)
        return updates, ParameterAverage(count, values)

    return optax.GradientTransformation(init, update)


def averaged_parameters(opt_state: optax.OptState) -> dict[str, jax.Array] | None:
    """Returns the averaged parameters by path; None if `config.optim.ema` is off."""
    return next((entry.values for entry in opt_state if isinstance(entry, ParameterAverage)), None)
