"""Defines what is adapted, and the contract of a method of adapters, which `registry.py` lists.

A method gives each adapted linear layer a module, its `adapter` (`layers.linear.Adapter`). The parameters of a stack's
adapters are stacks too, `[layers, ...]`, so that a loop over layers takes them apart as it does the kernels. Layers
without an adapter have one of rank 0: its values are 0, and so are their gradients.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.layers.heads.backbone import AdaptableBackbone
from jaxft.layers.linear import Linear
from jaxft.layers.parameters import Kind, Role, make_parameter


@dataclasses.dataclass(frozen=True)
class Target:
    """A weight of a checkpoint that gets an adapter, in all layers of a stack.

    Attributes:
      tensor: its name in the weight table, such as "bert.encoder.layer.{layer}.attention.self.query.weight".
      linears: the paths of the linear layers whose kernels it holds: several if these are chunks of it.
      is_stacked: whether the linear layers are a stack.
      ranks: the rank of the adapter in each layer of the stack, 0 for none; a single rank if there is no stack.
      alphas: the `alpha` in each layer.
      reads_input: whether it is one of the `feedforward_modules`.
      names_in_files: the name of transformers' module in each layer, as its files have it.
    """

    tensor: str
    linears: tuple[str, ...]
    is_stacked: bool
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    reads_input: bool = False
    names_in_files: tuple[str, ...] = ()

    @property
    def modules(self) -> list[str]:
        """Returns the name of transformers' module in each layer."""
        module = self.tensor.removesuffix(".weight")
        return [module.replace("{layer}", str(layer)) for layer in range(len(self.ranks))]

    @property
    def adapted(self) -> dict[str, int]:
        """Returns the rank of each module that has an adapter."""
        return {module: rank for module, rank in zip(self.modules, self.ranks, strict=True) if rank}

    @property
    def number(self) -> int:
        """Returns a uint32 that tells the target from others."""
        return zlib.crc32(self.tensor.encode())

    def stack(self, values: Sequence[float]) -> jax.Array:
        """Returns values for each layer as an array, float32 `[layers]`, or a scalar if there is no stack."""
        return jnp.asarray(values if self.is_stacked else values[0], jnp.float32)

    def make_mask(self) -> jax.Array:
        """Returns which of the columns of a matrix `[..., r]` are in use: float32 `[layers, 1, r]`, or `[1, r]`."""
        used = np.arange(max(self.ranks)) < np.asarray(self.ranks)[:, None]
        mask = used[:, None, :].astype(np.float32)
        return jnp.asarray(mask if self.is_stacked else mask[0])

    def shape(self, *shape: int) -> tuple[int, ...]:
        """Returns the shape of a parameter of the adapters, for that of one layer."""
        return (len(self.ranks), *shape) if self.is_stacked else shape


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of adapters.

    Attributes:
      make: returns the adapters of a target's linear layers, in order. Its last argument makes random numbers. None if
        the method adds none.
      list_targets: returns the usual target modules, for the settings and the presets of the model's family; see
        `models.family.Family`.
      attach: gives the backbone adapters of other modules than linear layers; None if there are none.
      trains_biases: whether all biases of the backbone are trained.
      initialize: sets what follows from the kernels of a target's linear layers, once these are loaded; None if nothing
        does.
      adapter: the class of its adapters; None if the method adds none.
      penalize: returns a term that is added to the mean loss, from the trained parameters by path, the targets and the
        settings; None for none.
      wrap_optimizer: returns the optimizer that the run takes in place of one, for the targets and the settings, and
        the steps of the run: `total`, `tinit` and `tfinal`, which may be traced; None to leave it as it is.
    """

    make: Callable[[Sequence[Linear], Target, AdapterSettings, nnx.Rngs], Sequence[nnx.Module]] | None = None
    list_targets: Callable[[AdapterSettings, Mapping[str, Sequence[str]]], Sequence[str]] = lambda *_: ()
    attach: Callable[[AdaptableBackbone, AdapterSettings, nnx.Rngs], None] | None = None
    trains_biases: bool = False
    initialize: Callable[[Sequence[Linear], Target, AdapterSettings], None] | None = None
    adapter: type[nnx.Module] | None = None
    penalize: Callable[[Mapping[str, Any], Sequence[Target], AdapterSettings], jax.Array] | None = None
    wrap_optimizer: Callable[..., optax.GradientTransformation] | None = None

    @property
    def can_merge(self) -> bool:
        """Returns whether a linear layer alone can compute what it does with its adapter, which has an `update`.

        Several models with such a method can also predict in the same rows; see `by_slot.py`.
        """
        return self.adapter is None or hasattr(self.adapter, "update")

    @property
    def generates(self) -> bool:
        """Returns whether models generate text with it: decoders read merged weights, and adapters of the backbone."""
        return self.can_merge or self.attach is not None

    @property
    def advice_without_peft(self) -> str:
        """Returns what to do with a run that cannot be written in PEFT's files."""
        if self.can_merge:
            return "leave --format out, for a model with all weights"
        return "keep the run, and use it by predict or evaluate"


class LinearUpdate(NamedTuple):
    """Describes what a linear layer computes with a trained adapter: `((z @ kernel) + (z @ a) @ b) * outputs + bias`.

    z is `x * inputs`. None stands for no change. Stacks have one more dimension in front.

    Attributes:
      a, b: `[in, r]` and `[r, out]`.
      inputs: `[in]`.
      outputs: `[out]`.
      bias: `[out]`, in place of the layer's; None if the layer has none.
    """

    a: jax.Array | None = None
    b: jax.Array | None = None
    inputs: jax.Array | None = None
    outputs: jax.Array | None = None
    bias: jax.Array | None = None

    def merge(self, kernel: jax.Array) -> jax.Array:
        """Returns the kernel with which the layer computes the same without the adapter, `[..., in, out]`."""
        if self.a is not None and self.b is not None:
            kernel = kernel + jnp.matmul(self.a, self.b, precision=jax.lax.Precision.HIGHEST)
        if self.inputs is not None:
            kernel = kernel * self.inputs[..., None]
        return kernel if self.outputs is None else kernel * self.outputs[..., None, :]


def read_bias(linear: Linear) -> jax.Array | None:
    """Returns the bias of a linear layer; None if it has none."""
    return linear.bias[...] if linear.use_bias else None


def make_constant(value: jax.Array, axes: tuple[str | None, ...] = ()) -> nnx.Param[jax.Array]:
    """Returns a parameter that is never trained."""
    return make_parameter(value, Role(Kind.CONSTANT, axes))


def tensor_axes(linear: Linear) -> tuple[str | None, str | None]:
    """Returns "tensor" for each dimension of a layer's kernel that this axis of the mesh splits, and None otherwise.

    The matrices of adapters are small, so that FSDP does not split them.
    """
    rows, columns = (axis if axis == "tensor" else None for axis in linear.kernel.get_metadata()["role"].axes)
    return rows, columns
