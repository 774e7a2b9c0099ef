"""Decides by path and role which parameters are trained, which decay, and at which share of the learning rate."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from jaxft.config.sections import Settings
from jaxft.errors import UserError
from jaxft.layers import parameter_paths
from jaxft.layers.parameters import Kind, Role
from jaxft.layers.transformer.layer_stacks import is_above_stacks, is_stack, number_of_stage

# For each parameter by path, the factor of its learning rate: a number, or one for each layer: float32 [n] of a stack,
# [n, 1] where the layers are next to each other in the last dimension.
RateFactors = dict[str, Any]


def split_frozen(
    config: Settings, roles: Mapping[str, Role], fixed: Collection[str] = ()
) -> tuple[list[str], list[str], list[str]]:
    """Splits the paths of parameters and statistics into (trainable, frozen, statistics) by `config.optim.freeze`.

    Frozen statistics are among the frozen paths.

    Args:
      config: the run's settings.
      roles: the roles by path.
      fixed: the paths that adapters leave as they are, which are frozen too.

    Raises:
      UserError: every parameter is frozen.
    """
    rules = [(pattern, True) for pattern in config.optim.freeze]
    frozen = parameter_paths.match_first(rules, roles, what="config.optim.freeze")
    frozen |= dict.fromkeys(fixed, True)
    statistics = [n for n, role in roles.items() if role.kind is Kind.STATISTIC and n not in frozen]
    trainable = [name for name in roles if name not in frozen and name not in statistics]
    if not trainable:
        raise UserError(
            f"config.optim.freeze={config.optim.freeze} freezes every parameter; nothing is trained"
        )
    return trainable, [name for name in roles if name in frozen], statistics


def find_decayed(config: Settings, roles: Mapping[str, Role]) -> dict[str, bool]:
    """Returns for each parameter whether it decays: matrices do, unless `config.optim.decay` says otherwise."""
    decayed = {name: role.is_matrix for name, role in roles.items()}
    return decayed | parameter_paths.match_first(
        config.optim.decay, roles, what="config.optim.decay", allow_unused=True
    )


def make_rate_factors(config: Settings, roles: Mapping[str, Role], num_layers: int) -> RateFactors:
    """Returns the factors of learning rates: `config.optim.lr_multipliers`, times the decay over layers.

    With `config.optim.layer_decay` d, layer i of n, from 0, has the factor d^(n - i), what the first layer reads has
    d^(n + 1), and what stands above the layers has 1. Source: Clark et al. 2020 (ELECTRA), appendix A. A network of
    stages has a factor for each stage. Keys and values of a prefix have the factor of their layer, and the network that
    makes them has that of what the first layer reads, but for its last product, whose columns are the layers'.

    Args:
      config: the run's settings.
      roles: the trainable parameters.
      num_layers: n, the number of layers in a stack, or of stages.

    Raises:
      UserError: `config.optim.lr_multipliers` does not cover the parameters.
    """
    factors: RateFactors = parameter_paths.match_first(
        config.optim.lr_multipliers, roles, what="config.optim.lr_multipliers", require_cover=True
    )
    if (ratio := config.adapter.loraplus_lr_ratio) != 1:  # Hayou et al. 2024
        factors |= {name: factors[name] * ratio for name in roles if name.endswith("/adapter/b")}
    if (decay := config.optim.layer_decay) == 1:
        return factors
    by_layer = np.float32(decay) ** np.arange(num_layers, 0, -1, dtype=np.float32)
    for name in roles:
        if is_stack(name):
            factors[name] = factors[name] * by_layer
        elif roles[name].has_columns_of_layers:
            factors[name] = factors[name] * by_layer[:, None]
        elif (stage := number_of_stage(name)) is not None:
            factors[name] *= decay ** (num_layers - stage)
        elif not is_above_stacks(name):
            factors[name] *= decay ** (num_layers + 1)
    return factors
