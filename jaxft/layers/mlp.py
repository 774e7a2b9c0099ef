"""The feed-forward block of a transformer layer."""

import jax
from flax import nnx

from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.linear import Linear
from jaxft.parallel.sharded_matmul import ActivationLayout


class MLP(nnx.Module):
    """Two linear layers with an activation between; new weights of the second spread by `output_range`.

    rows: how x, then `[N, D]`, lies over devices.
    """

    def __init__(
        self,
        size: int,
        inner: int,
        *,
        activation: str,
        initializer_range: float,
        output_range: float,
        rows: ActivationLayout | None,
        rngs: nnx.Rngs,
    ):
        options = {"rows": rows, "rngs": rngs}
        self.up = Linear(size, inner, initializer_range=initializer_range, **options)
        self.down = Linear(inner, size, initializer_range=output_range, split=1, **options)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D] -> [..., D]`."""
        return self.down(ACTIVATIONS[self.activation](self.up(x)))
