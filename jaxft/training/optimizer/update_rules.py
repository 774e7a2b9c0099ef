"""Makes the update rules that a run can choose among: AdamW, SGD, Adafactor, Lion, Muon, LAMB, all optax's.

Rules are chains without the learning rate. Each ends with the decay of weights. A stack of layers, `[n, ...]`, is
updated as n parameters, and so exactly as if each layer were an array of its own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import optax
from optax import contrib

from jaxft.config.optim import Optim
from jaxft.layers.parameters import Kind, Role
from jaxft.layers.transformer.layer_stacks import find_layer_axes

# What updates of Adam have as root mean square on average. Muon's are made as large, so that one learning rate and one
# decay suit both. Source: Liu et al. 2025 (Moonlight), section 2.2.
ADAM_RMS = 0.2
ADAFACTOR_CLIP = 1.0  # the largest root mean square of a parameter's update, times the learning rate
MOMENTUM = {"sgd": 0.9, "muon": 0.95, "lion": 0.99, "adafactor": 0.0}  # if `config.optim.momentum` is unset


def make_update_rule(
    optim: Optim, roles: Mapping[str, Role], decay: optax.GradientTransformation
) -> list[optax.GradientTransformation]:
    """Returns the chain of the update rule `optim.name` for trainable parameters, without the learning rate.

    Args:
      optim: the settings of the optimizer.
      roles: the trainable parameters.
      decay: the decay of weights.
    """
    dtype = None if optim.moments == "float32" else optim.moments
    momentum = MOMENTUM.get(optim.name) if optim.momentum is None else optim.momentum
    adam = optax.scale_by_adam(optim.b1, optim.b2, optim.eps, mu_dtype=dtype)
    if optim.name == "adamw":  # Loshchilov & Hutter 2019
        return [adam, decay]
    if optim.name == "sgd":
        has_momentum = [optax.trace(momentum, optim.nesterov, accumulator_dtype=dtype)] if momentum else []
        return [*has_momentum, decay]
    if optim.name == "adafactor":  # Shazeer & Stern 2018
        chain = [optax.scale_by_factored_rms(), optax.clip_by_block_rms(ADAFACTOR_CLIP)]
        if optim.parameter_scale:
            chain.append(optax.scale_by_param_block_rms())
        if momentum:
            chain.append(optax.ema(momentum, debias=False, accumulator_dtype=dtype))
        return [update_layers_alone(optax.chain(*chain)), decay]
    if optim.name == "lion":  # Chen et al. 2023
        return [optax.scale_by_lion(optim.b1, momentum, mu_dtype=dtype), decay]
    if optim.name == "lamb":  # You et al. 2020: layers are updated in proportion to their weights' norm
        return [adam, decay, update_layers_alone(optax.scale_by_trust_ratio())]
    assert optim.name == "muon"  # Jordan et al. 2024
    # Its author leaves embeddings and the head to Adam.
    matrices = [
        name for name, role in roles.items() if role.kind is Kind.KERNEL and name.startswith("backbone/")
    ]
    others = [name for name in roles if name not in matrices]
    muon = contrib.scale_by_muon(beta=momentum, mu_dtype=dtype, weight_dimension_numbers=_as_matrices)
    muon = update_layers_alone(optax.chain(muon, optax.stateless(_scale_like_adam)))
    return [update_only(matrices, muon), update_only(others, adam), decay]


def _as_matrices(updates: Any) -> Any:
    """Returns that each of `updates` is a matrix `[in, out]`, or several, as the kernel of a convolution is."""
    return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(-2, -1), updates)


def _scale_like_adam(updates: Any, _: Any) -> Any:
    """Scales orthogonal matrices, whose root mean square is 1 / sqrt(max(in, out)), to that of Adam's updates."""
    return jax.tree.map(lambda update: update * (ADAM_RMS * max(update.shape) ** 0.5), updates)


def update_only(names: Iterable[str], inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies `inner` to the parameters `names`, and leaves the other updates as they are."""
    names = list(names)

    def pick(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: values[name] for name in names}

    def update(updates, state, parameters):
        changed, state = inner.update(pick(updates), state, pick(parameters))
        return updates | changed, state

    return optax.GradientTransformation(lambda parameters: inner.init(pick(parameters)), update)


def update_layers_alone(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies `inner`, which may read entire arrays, such as their norms, to each layer of a stack alone.

    `inner` must treat parameters independently of each other.
    """

    def init(parameters):
        axes = find_layer_axes(parameters)
        if not jax.tree.leaves(axes):
            return inner.init(parameters)
        state_axes = find_layer_axes(jax.eval_shape(inner.init, parameters))
        return jax.vmap(inner.init, in_axes=(axes,), out_axes=state_axes)(parameters)

    def update(updates, state, parameters):
        arguments = tuple(map(find_layer_axes, (updates, state, parameters)))
        if not jax.tree.leaves(arguments):
            return inner.update(updates, state, parameters)
        return jax.vmap(inner.update, in_axes=arguments, out_axes=arguments[:2])(updates, state, parameters)

    return optax.GradientTransformation(init, update)
