"""Prefix tuning (Li & Liang 2021): trains keys and values that every position of each layer sees.

As in PEFT, texts then begin at position P, the number of these keys. With `prefix_projection` a network of two layers
makes keys and values of all layers from P vectors. First values are PEFT's.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.adapters.base import Method
from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.layers.attention.interface import Prefix
from jaxft.layers.heads.backbone import AdaptableBackbone
from jaxft.layers.linear import add_bias
from jaxft.layers.parameters import Kind, Role, make_parameter

PROJECTION = ("down", "down_bias", "up", "up_bias")


def compute_prefix(values: Mapping[str, Any]) -> jax.Array:
    """Returns the keys and values of all layers, `[P, 2 * layers * D]`, as PEFT's files hold them.

    Args:
      values: the arrays of a `PrefixEncoder` by name.
    """
    x = jnp.asarray(values["embedding"])
    if "down" not in values:
        return x
    inner = jnp.tanh(add_bias(x @ values["down"], values["down_bias"]))
    return add_bias(inner @ values["up"], values["up_bias"])


class PrefixEncoder(nnx.Module):
    """The adapter of a backbone: makes the keys and values of all layers.

    Args:
      num_layers: the number of layers.
      size: D, the width of keys and values.
      settings: P in `num_virtual_tokens`; whether a network makes the values, and its width, by default D.
    """

    def __init__(self, num_layers: int, size: int, settings: AdapterSettings, rngs: nnx.Rngs):
        matrix = Role(Kind.ADAPTER, reads_tokens=False)
        of_layers = dataclasses.replace(matrix, has_columns_of_layers=True)
        count, outputs = settings.num_virtual_tokens, 2 * num_layers * size
        self.count, self.num_layers, self.has_projection = count, num_layers, settings.prefix_projection
        columns = size if self.has_projection else outputs
        vectors = jax.random.normal(rngs.params(), (count, columns))
        self.embedding = make_parameter(vectors, matrix if self.has_projection else of_layers)
        if self.has_projection:
            inner = settings.encoder_hidden_size or size

            def draw(fan_in: int, *shape: int) -> jax.Array:
                return jax.random.uniform(rngs.params(), shape, minval=-1.0, maxval=1.0) / fan_in**0.5

            self.down = make_parameter(draw(size, size, inner), matrix)
            self.down_bias = make_parameter(draw(size, inner), Role(Kind.BIAS))
            self.up = make_parameter(draw(inner, inner, outputs), of_layers)
            self.up_bias = make_parameter(draw(inner, outputs), Role(Kind.BIAS, has_columns_of_layers=True))

    def __call__(self) -> Prefix:
        """Returns the prefix of each layer, `[layers, P, D]`."""
        names = ("embedding", *(PROJECTION if self.has_projection else ()))
        x = compute_prefix({name: getattr(self, name)[...] for name in names})
        keys, values = x.reshape(len(x), self.num_layers, 2, -1).transpose(2, 1, 0, 3)
        return Prefix(keys, values)


class Shift(nnx.Module):
    """The adapter of the embedding of positions: counts them from P."""

    def __init__(self, count: int):
        self.count = count

    def __call__(self, ids: jax.Array, look_up: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Returns the vectors of ids, int32 `[N]` -> `[N, D]`."""
        return look_up(ids + self.count)


def attach(backbone: AdaptableBackbone, settings: AdapterSettings, rngs: nnx.Rngs) -> None:
    """Gives a backbone its prefix, and moves positions that have embeddings to after it."""
    config = backbone.config
    backbone.adapter = PrefixEncoder(config.num_layers, config.hidden_size, settings, rngs)
    if (table := getattr(backbone.embeddings, "position", None)) is not None:
        table.adapter = Shift(settings.num_virtual_tokens)


METHOD = Method(attach=attach, adapter=PrefixEncoder)
