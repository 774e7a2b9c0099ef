"""Defines `Runtime`: how a backbone computes, which changes its speed and its memory but not what it computes."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from jaxft.layers.attention.interface import Attention, Visibility
from jaxft.layers.attention.over_mesh import Blocks, make_attention
from jaxft.parallel.mesh import BATCH_SPEC
from jaxft.parallel.sharded_matmul import PRODUCT, ActivationLayout

_policies = jax.checkpoint_policies
REMAT_POLICIES = {
    # Keeps the outputs of the dense products; computes norms, activations and attention weights again.
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(PRODUCT)
    ),
    # Keeps only the input of each layer.
    "full": _policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Holds how a backbone computes. It is hashable, so that equal networks share compiled programs.

    Attributes:
      dtype: the dtype of activations and matrix products.
      attention: the attention implementation, a key of `over_mesh.IMPLEMENTATIONS`.
      remat: what the backward pass computes again: "none", "dots" (all but the outputs of the dense products) or "full"
        (all but the input of each layer).
      unroll: True if the loop over layers is unrolled: quicker on CPU and GPU, but slower to compile.
      mesh: the devices; None for one device.
      blocks: where segments may cross blocks; None if that is unknown.
      windowed_attention: the attention implementation of layers with a window; None for the same.
      attention_reason: why the device's kernel is not the implementation, for the log; None if there is nothing to say.

    Raises:
      ValueError: there is no such `remat`.
    """

    dtype: jnp.dtype = jnp.dtype("float32")
    attention: str = "dense"
    remat: str = "none"
    unroll: bool = False
    mesh: Mesh | None = None
    blocks: Blocks | None = None
    windowed_attention: str | None = None
    attention_reason: str | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self):
        """Raises ValueError for an unknown `remat`."""
        if self.remat not in ("none", *REMAT_POLICIES):
            raise ValueError(f"remat {self.remat!r} is none of {['none', *REMAT_POLICIES]}")

    @property
    def attention_function(self) -> Attention:
        """Returns the function that computes attention over the devices."""
        return make_attention(self.attention, self.mesh, self.blocks, self.windowed_attention)

    def attention_for(self, visibility: Visibility) -> str:
        """Returns the implementation for layers that see so much."""
        return self.attention if visibility.window is None else self.windowed_attention or self.attention

    @property
    def attention_line(self) -> str:
        """Returns what the log says of attention."""
        windowed = f", with windows {self.windowed_attention}" if self.windowed_attention else ""
        return f"{self.attention}{windowed}" + (
            f" ({self.attention_reason})" if self.attention_reason else ""
        )

    @property
    def activations(self) -> NamedSharding | None:
        """Returns the sharding of activations `[R * L, D]`; None on one device."""
        return None if self.mesh is None or self.mesh.size == 1 else NamedSharding(self.mesh, BATCH_SPEC)

    @property
    def layout(self) -> ActivationLayout | None:
        """Returns the layout of activations for the layers' products; None on one device."""
        if (activations := self.activations) is None:
            return None
        # XLA could share gathered kernels between forward and backward pass only if both are in one computation: layers
        # are unrolled, without remat. The passes of a loop share nothing, and remat computes the forward pass again in
        # the backward pass.
        return ActivationLayout(activations, regathers=self.unroll and self.remat == "none")


PLAIN_RUNTIME = Runtime()  # one device, float32, dense attention, scanned layers
