"""One backbone under the heads of several tasks."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.dropout import DropoutSeed


class Shared:
    """Stands for a backbone in several models, and computes its hidden states once for the same inputs and dropout."""

    def __init__(self, backbone: nnx.Module):
        self.backbone = backbone
        self.hidden_size = backbone.hidden_size
        self._known: list[tuple[tuple, jax.Array]] = []

    def __call__(
        self,
        input_ids: jax.Array,
        segment_ids: jax.Array,
        positions: jax.Array,
        token_type_ids: jax.Array,
        dropout: DropoutSeed | None = None,
        output_mask: jax.Array | None = None,
    ) -> jax.Array:
        """As the backbone's, but of all positions: one task does not know which the others want."""
        del output_mask
        inputs = (input_ids, segment_ids, positions, token_type_ids, *(dropout or (None,)))
        for known, x in self._known:
            if len(known) == len(inputs) and all(a is b for a, b in zip(known, inputs, strict=True)):
                return x
        x = self.backbone(*inputs[:4], dropout)
        self._known.append((inputs, x))
        return x

    def pool(self, x: jax.Array) -> jax.Array:
        """As the backbone's."""
        return self.backbone.pool(x)


class MultiHead(nnx.Module):
    """A backbone and, under `head/NAME`, the heads of the models that were made for it; `reader` gives those models.

    models: by task, each with `backbone` and `head`; of their backbones, which are alike, one is kept, with a pooler if
    any has one. uncertainty: whether there are learnt log variances, one a task, at `head/uncertainty`.
    """

    def __init__(self, models: Mapping[str, nnx.Module], *, uncertainty: bool):
        backbones = [model.backbone for model in models.values()]
        self.backbone = next(
            (backbone for backbone in backbones if hasattr(backbone, "pooler")), backbones[0]
        )
        self.head = nnx.Dict({name: model.head for name, model in models.items()})
        if uncertainty:
            self.head["uncertainty"] = nnx.Param(jnp.zeros(len(models), jnp.float32))
        for model in models.values():
            model.backbone = self.backbone
        self.readers = nnx.Dict(models)

    def reader(self, name: str, backbone: Shared) -> nnx.Module:
        """The model of one task over `backbone`; for use inside a traced function, where the modules are its own."""
        model = self.readers[name]
        model.backbone = backbone
        return model
