"""Linear layers."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.parallel.sharded_matmul import ActivationLayout, sharded_matmul


def column_sums(x: jax.Array) -> jax.Array:
    """`[N, D]` of any float dtype -> float32 `[D]`, summed in float32."""
    return jax.lax.platform_dependent(
        x.astype(jnp.float32),
        # Products use all cores there, reductions do not.
        cpu=lambda x: jnp.matmul(jnp.ones((1, x.shape[0])), x, precision=jax.lax.Precision.HIGHEST)[0],
        default=lambda x: x.sum(axis=0),
    )


@jax.custom_vjp
def _add_bias(x, bias):
    return x + bias.astype(x.dtype)


# By itself the gradient of bfloat16 activations would be summed in bfloat16, row by row.
_add_bias.defvjp(
    lambda x, bias: (_add_bias(x, bias), None),
    lambda _, gradient: (gradient, column_sums(gradient.reshape(-1, gradient.shape[-1]))),
)


class Linear(nnx.Module):
    """`x @ kernel + bias` in x's dtype: `[..., in] -> [..., out]`; parameters float32, kernel `[in, out]`.

    rows, split: how x, then `[N, in]`, and the kernel lie over devices; see `products`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        initializer_range: float,
        rngs: nnx.Rngs,
        use_bias: bool = True,
        rows: ActivationLayout | None = None,
        split: int = 0,
    ):
        initializer = nnx.initializers.normal(initializer_range)
        self.kernel = nnx.Param(initializer(rngs.params(), (inputs, outputs), jnp.float32))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))
        self.use_bias = use_bias
        self.rows = rows
        self.split = split

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., in] -> [..., out]`."""
        return apply_linears(x, self)[0]


def apply_linears(x: jax.Array, *linears: Linear) -> list[jax.Array]:
    """What each of `linears`, alike but for their parameters, gives of x; devices exchange its gradient once."""
    first = linears[0]
    kernels = [linear.kernel[...].astype(x.dtype) for linear in linears]
    found = sharded_matmul(x, kernels, first.rows, first.split)
    if not first.use_bias:
        return found
    return [_add_bias(product, linear.bias[...]) for product, linear in zip(found, linears, strict=True)]
