"""LoRA (Hu et al. 2022): adds the product of two matrices of low rank to a kernel.

`y = x @ kernel + scale * (x @ a) @ b + bias`, where `scale` is `alpha / r`, or `alpha / sqrt(r)` (rsLoRA, Kalajdzievski
2023). The formulas and first values are PEFT's.

- DoRA (Liu et al. 2024) also trains the length of each column of the sum of both, `magnitude`.
- PiSSA (Meng et al. 2024) and OLoRA (Büyükakyüz 2024) begin with a part of the kernel as `a` and `b`, and take it off
  the kernel. Here the kernel stays as it is, so that checkpoints need no copy of it: the layer subtracts the product of
  the first values, `start_a` and `start_b`.
- Chunks of one weight, such as GPT-2's query, key and value, share `a`, as PEFT's adapter of that weight does.
"""

import dataclasses
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.adapters.base import LinearUpdate, Method, Target, make_constant, read_bias, tensor_axes
from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.errors import UserError
from jaxft.layers.dropout import drop_adapter_input
from jaxft.layers.linear import Linear
from jaxft.layers.parameters import Kind, Role, make_parameter

FROM_KERNEL = ("pissa", "olora")  # first values that are parts of the kernel


class LoRA(nnx.Module):
    """The adapter of a linear layer.

    Args:
      a: `[in, r]`, perhaps shared with other layers.
      b: `[r, out]`.
      scale: a scalar; 0 in layers without an adapter. Stacks have one more dimension in front.
      rate: of dropout of what `a` reads.
      number: tells the masks of dropout from those of other adapters.
    """

    def __init__(
        self,
        a: nnx.Param[jax.Array],
        b: nnx.Param[jax.Array],
        scale: nnx.Param[jax.Array],
        *,
        rate: float,
        number: int,
    ):
        self.a, self.b, self.scale, self.rate, self.number = a, b, scale, rate, number
        self.is_dora = self.has_start = False

    def add_magnitude(self, size: int, target: Target, axis: str | None) -> None:
        """Makes it a DoRA for `size` columns, which `axis` of the mesh splits. `initialize` sets the lengths."""
        ones = jnp.ones(target.shape(size), jnp.float32)
        self.magnitude = make_parameter(ones, Role(Kind.FACTOR, (axis,)))
        self.is_dora = True

    def add_start(self, a: nnx.Param[jax.Array]) -> None:
        """Makes room for the first values. `a` is perhaps shared with other layers; `initialize` sets both."""
        self.start_a = a
        self.start_b = make_constant(jnp.zeros_like(self.b[...]), self.b.get_metadata()["role"].axes)
        self.has_start = True

    def read_matrices(self) -> tuple[jax.Array, jax.Array]:
        """Returns the matrices whose product is added, `[..., in, r]` and `[..., r, out]`."""
        return self.a[...], self.b[...]

    def adapt_input(self, x: jax.Array) -> jax.Array:
        """Returns x."""
        return x

    def finish(self, x: jax.Array, product: jax.Array, linear: Linear) -> jax.Array:
        """Returns the layer's output; see `layers.linear.Adapter`."""
        a, b, scale = (value.astype(x.dtype) for value in (*self.read_matrices(), self.scale[...]))
        update = (drop_adapter_input(x, self.rate, self.number) @ a) @ b
        if self.has_start:
            start_a, start_b = (value[...].astype(x.dtype) for value in (self.start_a, self.start_b))
            product = product - scale * ((x @ start_a) @ start_b)
        product = product + scale * update
        if self.is_dora:
            product = product * self._column_factors(linear.read_kernel()).astype(x.dtype)
        return linear.add_bias(product)

    def sum_kernel(self, kernel: jax.Array) -> jax.Array:
        """Returns the kernel plus the product of the matrices, `[..., in, out]`, in the kernel's dtype."""
        dot = jax.lax.Precision.HIGHEST
        product = jnp.matmul(*self.read_matrices(), precision=dot)
        if self.has_start:
            product -= jnp.matmul(self.start_a[...], self.start_b[...], precision=dot)
        return kernel + self.scale[...][..., None, None] * product

    def _column_factors(self, kernel: jax.Array) -> jax.Array:
        """Returns the factors that give each column its trained length, `[..., out]`; 1 in layers without an adapter.

        The length of columns is a constant for the gradient (section 4.3 of the paper).
        """
        norm = jax.lax.stop_gradient(jnp.linalg.norm(self.sum_kernel(kernel), axis=-2))
        is_adapted = self.scale[...][..., None] > 0
        # A column of zeros has no direction: it stays as it is.
        return jnp.where(is_adapted, self.magnitude[...] / jnp.where(norm > 0, norm, 1.0), 1.0)

    def update(self, linear: Linear) -> LinearUpdate:
        """Returns what the layer computes, in which the scale is a part of `b`, as the first values are."""
        a, b = self.read_matrices()
        if self.has_start:
            a = jnp.concatenate([a, self.start_a[...]], axis=-1)
            b = jnp.concatenate([b, -self.start_b[...]], axis=-2)
        b = self.scale[...][..., None, None] * b
        outputs = self._column_factors(linear.read_kernel()) if self.is_dora else None
        return LinearUpdate(a, b, outputs=outputs, bias=read_bias(linear))


def role_of_a(linear: Linear) -> Role:
    """Returns the role of `a`, which multiplies the vectors that the kernel does."""
    role = linear.kernel.get_metadata()["role"]
    return dataclasses.replace(role, kind=Kind.ADAPTER, axes=(tensor_axes(linear)[0], None))


def role_of_b(linear: Linear) -> Role:
    """Returns the role of `b`."""
    return dataclasses.replace(role_of_a(linear), axes=(None, tensor_axes(linear)[1]))


def make(linears: Sequence[Linear], target: Target, settings: AdapterSettings, rngs: nnx.Rngs) -> list[LoRA]:
    """Returns the adapters of a target's linear layers. Raises `UserError` if a kernel has no part of their rank."""
    rank, mask = max(target.ranks), target.make_mask()
    size = linears[0].kernel.shape[-2]
    most = min(size, sum(linear.kernel.shape[-1] for linear in linears))
    if settings.init_lora_weights in FROM_KERNEL and rank > most:
        raise UserError(
            f"config.adapter.init_lora_weights={settings.init_lora_weights!r} takes a part of rank {rank} from "
            f"{target.tensor}, whose rank is at most {most}; set config.adapter.r to {most} or less"
        )
    a_role = role_of_a(linears[0])
    a = make_parameter(mask * _draw_a(target, size, settings.init_lora_weights, rngs), a_role)
    start_a = make_constant(jnp.zeros(target.shape(size, rank), jnp.float32), a_role.axes)
    adapters = []
    for linear in linears:
        out = linear.kernel.shape[-1]
        b = jnp.zeros(target.shape(rank, out), jnp.float32)
        if settings.init_lora_weights == "false":
            bound = _by_layer(target, [rank**-0.5 for rank in map(float, _at_least_one(target.ranks))])
            b = bound * jax.random.uniform(rngs.params(), b.shape, minval=-1.0) * mask.swapaxes(-1, -2)
        adapter = LoRA(
            a,
            make_parameter(b, role_of_b(linear)),
            make_constant(target.stack(_find_scales(target, settings))),
            rate=settings.dropout,
            number=target.number,
        )
        if settings.init_lora_weights in FROM_KERNEL:
            adapter.add_start(start_a)
        if settings.use_dora:
            adapter.add_magnitude(out, target, tensor_axes(linear)[1])
        adapters.append(adapter)
    return adapters


def _find_scales(target: Target, settings: AdapterSettings) -> list[float]:
    """Returns what the product of the matrices is multiplied by in each layer; 0 in those without an adapter."""
    power = 0.5 if settings.use_rslora else 1.0
    pairs = zip(target.alphas, target.ranks, strict=True)
    return [alpha / rank**power if rank else 0.0 for alpha, rank in pairs]


def _at_least_one(ranks: Sequence[int]) -> list[int]:
    return [max(rank, 1) for rank in ranks]


def _by_layer(target: Target, values: Sequence[float]) -> jax.Array:
    """Returns values for each layer in the form that matrices are multiplied with."""
    return target.stack(values)[..., None, None]


def _draw_a(target: Target, size: int, init: str, rngs: nnx.Rngs) -> jax.Array:
    """Returns first values of `a`, float32 `[in, r]`: PEFT's."""
    shape = target.shape(size, max(target.ranks))
    if init == "gaussian":
        deviation = _by_layer(target, [1 / rank for rank in _at_least_one(target.ranks)])
        return deviation * jax.random.normal(rngs.params(), shape)
    # kaiming_uniform_ with a = sqrt(5), which is torch's for linear layers
    return size**-0.5 * jax.random.uniform(rngs.params(), shape, minval=-1.0)


def initialize(linears: Sequence[Linear], target: Target, settings: AdapterSettings) -> None:
    """Sets first values that are parts of the kernels, and the lengths of their columns."""
    adapters = [cast(LoRA, linear.adapter) for linear in linears]
    if settings.init_lora_weights in FROM_KERNEL:
        kernel = jnp.concatenate([linear.read_kernel() for linear in linears], axis=-1)
        factorize = _factorize_pissa if settings.init_lora_weights == "pissa" else _factorize_olora
        a, b = factorize(kernel, adapters[0].scale[...][..., None, None], max(target.ranks))
        mask = target.make_mask()
        a, b = a * mask, b * mask.swapaxes(-1, -2)
        adapters[0].a[...] = adapters[0].start_a[...] = a
        for adapter, chunk in zip(adapters, jnp.split(b, len(adapters), axis=-1), strict=True):
            adapter.b[...] = adapter.start_b[...] = chunk
    if settings.use_dora:
        for linear, adapter in zip(linears, adapters, strict=True):
            adapter.magnitude[...] = jnp.linalg.norm(adapter.sum_kernel(linear.read_kernel()), axis=-2)


def _factorize_pissa(kernel: jax.Array, scale: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """Returns a and b whose product, times `scale`, is the nearest of rank `rank` to the kernel `[..., in, out]`."""
    u, singular, vh = jnp.linalg.svd(kernel, full_matrices=False)
    root = jnp.sqrt(singular[..., :rank] / jnp.where(scale > 0, scale, 1.0)[..., 0])
    return u[..., :rank] * root[..., None, :], root[..., :, None] * vh[..., :rank, :]


def _factorize_olora(kernel: jax.Array, scale: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """Returns a and b from the QR decomposition of the transposed kernel `[..., in, out]`."""
    del scale
    q, r = jnp.linalg.qr(kernel.swapaxes(-1, -2))
    return r[..., :rank, :].swapaxes(-1, -2), q[..., :, :rank].swapaxes(-1, -2)


METHOD = Method(
    make=make,
    list_targets=lambda settings, presets: presets["lora"],
    initialize=initialize,
    adapter=LoRA,
)
