"""Lets several trained adapters share the rows of one base model: each slot uses the adapter of its text.

A linear layer then computes, with z the inputs of adapters that scale them,

    ((z @ kernel) + ((z @ a) * mask) @ b) * outputs + bias

where `a` and `b` hold the matrices of all adapters next to each other, and a slot's mask keeps the columns of its own
adapter. So there are two products, however many adapters there are. Factors and biases are looked up for each slot.
This is for predictions: nothing here is trained.
"""

import contextlib
import contextvars
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.adapters.base import LinearUpdate, make_constant, read_bias
from jaxft.adapters.plan import find_linears
from jaxft.layers.linear import Linear
from jaxft.layers.norm import LayerNorm

POOLER = "backbone/pooler/"  # which reads texts, not slots: each adapter keeps its own

_slot_numbers: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("slot_numbers", default=None)


@contextlib.contextmanager
def adapters_of_slots(numbers: jax.Array) -> Iterator[None]:
    """Says, while a backbone is traced, which adapter each slot uses.

    Adapters get it this way because the networks that call the linear layers do not know that these have adapters.

    Args:
      numbers: int32 `[R * L]`, the number of the adapter, from 0.
    """
    token = _slot_numbers.set(numbers)
    try:
        yield
    finally:
        _slot_numbers.reset(token)


def _look_up(values: nnx.Param[jax.Array], x: jax.Array) -> jax.Array:
    """Returns the values `[K, D]` of K adapters for each vector of x `[R * L, ...]`: `[R * L, D]` in x's dtype."""
    numbers = _slot_numbers.get()
    assert numbers is not None and len(numbers) == len(x), "a layer reads what does not stand in slots"
    return values[...].astype(x.dtype)[numbers]


class SlotAdapter(nnx.Module):
    """The adapters that a linear layer has for K adapted models. Stacks have one more dimension in front.

    Args:
      a, b, masks: `[in, r]`, `[r, out]`, and `[K, r]`, 1 where a column is of the adapter; None if none has matrices.
      inputs: `[K, in]`; None if none scales inputs.
      outputs: `[K, out]`; None if none scales outputs.
      biases: `[K, out]`; None if all have the layer's.
    """

    def __init__(
        self,
        matrices: tuple[jax.Array, jax.Array, jax.Array] | None,
        inputs: jax.Array | None,
        outputs: jax.Array | None,
        biases: jax.Array | None,
    ):
        self.has_matrices = matrices is not None
        if matrices is not None:
            self.a, self.b, self.masks = map(make_constant, matrices)
        self.inputs, self.outputs, self.biases = (
            None if values is None else make_constant(values) for values in (inputs, outputs, biases)
        )

    def adapt_input(self, x: jax.Array) -> jax.Array:
        """Returns the scaled x; see `layers.linear.Adapter`."""
        return x if self.inputs is None else x * _look_up(self.inputs, x)

    def finish(self, x: jax.Array, product: jax.Array, linear: Linear) -> jax.Array:
        """Returns the layer's output; see `layers.linear.Adapter`."""
        if self.has_matrices:
            narrow = (x @ self.a[...].astype(x.dtype)) * _look_up(self.masks, x)
            product = product + narrow @ self.b[...].astype(x.dtype)
        if self.outputs is not None:
            product = product * _look_up(self.outputs, product)
        return linear.add_bias(product) if self.biases is None else product + _look_up(self.biases, product)


class SlotNorm(nnx.Module):
    """A norm whose bias is that of the slot's adapter, `[K, D]`."""

    def __init__(self, norm: LayerNorm, biases: jax.Array):
        self.norm, self.biases = norm, make_constant(biases)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes x, `[R * L, D] -> [R * L, D]`."""
        normal = self.norm(x)
        return normal + _look_up(self.biases, normal)


class _Updating(Protocol):
    """An adapter that several models may have in one row."""

    def update(self, linear: Linear) -> LinearUpdate:
        """Returns what the layer computes with the adapter."""


def share_backbone(models: Sequence[nnx.Module], trained: Collection[str]) -> nnx.Module:
    """Returns a backbone that computes each slot with the adapter of one of several models.

    It is the backbone of the first model, whose adapters become those of all models.

    Args:
      models: the models, with their adapters.
      trained: the paths of the parameters of the base that any of them has trained.
    """
    linears = [find_linears(model) for model in models]
    for path, linear in linears[0].items():
        layers = [by_path[path] for by_path in linears]
        trains_bias = f"{path}/bias" in trained
        if path + "/" != POOLER and (trains_bias or any(layer.adapter is not None for layer in layers)):
            linear.adapter = _join_adapters(layers, trains_bias)
    norms = [_find_norms(model) for model in models]
    for path, norm in norms[0].items():
        if f"{path}/bias" in trained:
            biases = jnp.stack([by_path[path].bias[...] for by_path in norms], axis=-2)
            del norm.bias
            norm.use_bias = False
            _set_node(models[0], path, SlotNorm(norm, biases))
    return cast(Any, models[0]).backbone


def _join_adapters(layers: Sequence[Linear], trains_bias: bool) -> SlotAdapter:
    """Returns the adapters of the same linear layer in several models as one."""
    updates = [
        LinearUpdate(bias=read_bias(layer))
        if layer.adapter is None
        else cast(_Updating, layer.adapter).update(layer)
        for layer in layers
    ]

    def stack(name: str, make_default: Callable[[], jax.Array]) -> jax.Array | None:
        """Returns a value of all updates, `[..., K, D]`; None if none has it."""
        values = [getattr(update, name) for update in updates]
        if all(value is None for value in values):
            return None
        return jnp.stack([make_default() if value is None else value for value in values], axis=-2)

    *leading, size, out = layers[0].kernel.shape
    matrices = None
    low_rank = [
        (number, update.a, update.b)
        for number, update in enumerate(updates)
        if update.a is not None and update.b is not None
    ]
    if low_rank:
        a = jnp.concatenate([a for _, a, _ in low_rank], axis=-1)
        b = jnp.concatenate([b for _, _, b in low_rank], axis=-2)
        owners = np.concatenate([np.full(a.shape[-1], number) for number, a, _ in low_rank])
        masks = jnp.asarray(owners == np.arange(len(layers))[:, None], jnp.float32)
        matrices = a, b, jnp.broadcast_to(masks, (*leading, *masks.shape))
    outputs = stack("outputs", lambda: jnp.ones((*leading, out)))
    biases = stack("bias", lambda: jnp.zeros((*leading, out))) if trains_bias or outputs is not None else None
    return SlotAdapter(matrices, stack("inputs", lambda: jnp.ones((*leading, size))), outputs, biases)


def _find_norms(model: nnx.Module) -> dict[str, LayerNorm]:
    """Returns the norms with a bias of a model's backbone by path, such as "backbone/layers/mlp_norm"."""
    nodes = ((path, node) for path, node in nnx.iter_graph(model) if isinstance(node, LayerNorm))
    return {"/".join(map(str, path)): node for path, node in nodes if path[0] == "backbone" and node.use_bias}


def _set_node(model: nnx.Module, path: str, node: nnx.Module) -> None:
    """Replaces the module at a path of a model."""
    *folders, name = path.split("/")
    parent: Any = model
    for folder in folders:
        parent = getattr(parent, folder)
    setattr(parent, name, node)
