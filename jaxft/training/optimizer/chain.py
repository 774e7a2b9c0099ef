"""Makes the optimizer of a run, a chain of transformations."""

from collections.abc import Mapping

import jax
import numpy as np
import optax

from jaxft.adapters.plan import AdapterPlan
from jaxft.config.sections import Settings
from jaxft.layers.parameters import Role
from jaxft.layers.transformer.layer_stacks import scale_layers
from jaxft.training.optimizer.parameter_rules import find_decayed, make_rate_factors
from jaxft.training.optimizer.schedules import Hyperparameters, learning_rate
from jaxft.training.optimizer.transformations import (
    ParameterAverage,
    average_parameters,
    pull_to_start,
    shrink_to_zero,
)
from jaxft.training.optimizer.update_rules import make_update_rule


def make_optimizer(
    config: Settings,
    hyper: Hyperparameters,
    trainable: Mapping[str, Role],
    num_layers: int,
    adapters: AdapterPlan | None = None,
    statistics: Mapping[str, jax.Array] | None = None,
) -> optax.GradientTransformation:
    """Makes the optimizer `config.optim.name` for `trainable` parameters, by path.

    The update rule comes first. Then weights decay and are pulled to their start, which the rule does not rescale.
    Then come the learning rates, and what reads or changes the moved parameters: L1, adapters that lose ranks, and
    `config.optim.ema`, which averages them. Not the optimizer but the train step clips gradients. `hyper` may be
    traced; the structure of the optimizer's state does not depend on it.

    Args:
      config: the run's settings.
      hyper: the run's rates and lengths.
      trainable: the roles of the parameters.
      num_layers: the number of layers in a stack.
      adapters: the adapters among the parameters; None for none.
      statistics: the model's running statistics after the step, which are averaged with the parameters.
    """
    optim = config.optim
    decayed = find_decayed(config, trainable)
    factors = make_rate_factors(config, trainable, num_layers)
    if adapters is not None:
        layers = {name: np.asarray(is_trained, np.float32) for name, is_trained in adapters.layers.items()}
        factors |= {name: factors[name] * layers[name] for name in factors.keys() & layers.keys()}

    def rate(step: jax.Array) -> jax.Array:
        return learning_rate(optim.schedule, hyper, step)

    decay = optax.add_decayed_weights(hyper.weight_decay, mask=decayed)
    steps = make_update_rule(optim, trainable, decay)
    if optim.pull_to_start:
        backbone = [name for name in trainable if name.startswith("backbone/")]
        steps.append(pull_to_start(hyper.pull_to_start, backbone))
    if any(np.any(factor != 1.0) for factor in factors.values()):
        steps.append(
            optax.stateless(
                lambda updates, _: {name: scale_layers(u, factors[name]) for name, u in updates.items()}
            )
        )
    steps.append(optax.scale_by_learning_rate(rate))
    if optim.l1:
        rates = {name: factor for name, factor in factors.items() if decayed[name]}
        steps.append(shrink_to_zero(lambda step: rate(step) * hyper.l1, rates))
    if adapters is not None and adapters.wrap_optimizer is not None:
        rule = optax.chain(*steps)
        steps = [adapters.wrap_optimizer(rule, total=hyper.total, tinit=hyper.tinit, tfinal=hyper.tfinal)]
    if optim.ema:
        steps.append(
            average_parameters(optim.ema, statistics or {})
        )  # last, so that it sees the applied updates
    return optax.chain(*steps)


def averaged_parameters(opt_state: optax.OptState) -> dict[str, jax.Array] | None:
    """Returns the averaged parameters and statistics by path; None if `config.optim.ema` is off."""
    return next((entry.values for entry in opt_state if isinstance(entry, ParameterAverage)), None)
